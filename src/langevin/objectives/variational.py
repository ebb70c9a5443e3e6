"""Objectives that are terms of the variational bound: how a variance is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, NetworkDenoiser
from ..distributions import Distribution, Noise, Normal, Stream
from ..processes import DDPM, Chain
from .bound import decode, default_decoder, step_term
from .denoising import Condition, DenoisingLoss


@register(
    "objectives",
    "vlb",
    title="Variational bound, one random term",
    arxiv="2006.11239",
    proof="exact: tests/objectives/test_variational.py::test_expectation_is_the_bound",
)
@dataclass(frozen=True)
class Vlb(DenoisingLoss):
    r"""L_vlb: one random term of the bound, times their number, in bits a dimension (arXiv:2006.11239 eq. 5).

    .. math:: n\,L_{t \to s} \text{ where } s = Q(u - 1/n) > 0, \qquad n\,L_0 \text{ else}, \qquad t = Q(u)

    Q is the quantile function of ``times``: its n steps of equal probability are the grid, with every offset, and over
    the knots of a table the grid is the table (or every k-th knot, for n = N/k). Without L_T, which has no parameters.
    An importance law draws terms as often as they are large and keeps the expectation; with one bin a knot and 10 terms
    of history this is Improved DDPM's L_vlb (arXiv:2102.09672 §3.3).

    Args:
        steps: n ≥ 1; N of a table, else 1000, if None.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self) is Vlb and self.weight != "simple":
            raise UserError(f"objective 'vlb' has no other weight than the bound's own, got {self.weight!r}")
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise UserError(f"steps must be an integer of at least 1, got {self.steps!r}")

    def count(self, denoiser: Denoiser) -> int:
        """n on the process of a denoiser."""
        process = denoiser.process
        return self.steps or (process.steps if isinstance(process, DDPM) else 1000)

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        u, n = self.times.uniform(noise), self.count(denoiser)
        t, s, ratio = self.times.pair(denoiser.process, u, n)
        x_t = denoiser.process.marginal(x0, t).sample(noise)
        belief = (denoiser.given(condition) if condition else denoiser)(x_t, t)
        return ratio * self.term(denoiser, x0, x_t, belief, t, s, noise) * n

    def term(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        x_t: Tensor,
        belief: Distribution,
        t: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> Tensor:
        """L_{t→s}, or L_0 where s = 0, in bits a dimension, ``(B,)``."""
        process, first = denoiser.process, s == 0
        # The divergence at s = 0 is 0/0: it is taken elsewhere, and not used.
        step = step_term(process, x0, x_t, belief, t, torch.where(first, t / 2, s), noise.fold_in(Stream.TERM))
        data = decode(process, default_decoder(denoiser), x0, x_t, belief, t)
        return torch.where(first, data, step) / (x0[0].numel() * math.log(2))

    def check(self, denoiser: Denoiser) -> None:
        if isinstance(denoiser.process, Chain):
            raise UserError(f"objective {self.name!r} is of real data; tokens are learned by 'd3pm'")
        process, n = denoiser.process, self.count(denoiser)
        self.times.check(process)
        if isinstance(process, DDPM) and process.steps % n:
            raise UserError(f"steps must divide the {process.steps} knots of the table, got {n}")
        ends = torch.tensor([0.5 / n, 0.5, 1 - 1e-9], dtype=torch.float64)
        t, s, _ = self.times.pair(process, ends, n)
        if not (s < t).all():
            raise UserError(f"times must tell {n} steps apart, got t = {t.tolist()} and s = {s.tolist()}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "times": self.times.to_dict(), "steps": self.steps}


@register(
    "objectives",
    "hybrid",
    title="L_simple + λ L_vlb, which learns a variance",
    arxiv="2102.09672",
    proof="exact: tests/objectives/test_variational.py::test_hybrid_is_the_sum",
)
@dataclass(frozen=True)
class Hybrid(Vlb):
    r"""L_hybrid = L_simple + λ L_vlb (Nichol & Dhariwal 2021, arXiv:2102.09672 eq. 16).

    L_vlb is asked of the variance alone: no gradient of it reaches the mean, which L_simple learns.

    Args:
        weight: of the error of x̂_0, a row of ``WEIGHTS``.
        vlb: λ > 0.
    """

    vlb: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.vlb < math.inf:
            raise UserError(f"vlb must be a number > 0, got {self.vlb}")

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        u, n = self.times.uniform(noise), self.count(denoiser)
        t, s, ratio = self.times.pair(denoiser.process, u, n)
        x_t = denoiser.process.marginal(x0, t).sample(noise)
        belief = (denoiser.given(condition) if condition else denoiser)(x_t, t)
        assert isinstance(belief, Normal)
        error = (belief.mean - x0).square().flatten(1).mean(1).to(torch.float64)
        simple = self.times.ratio(denoiser.process, u) * self._weight(denoiser, t) * error
        held = Normal(belief.mean.detach(), belief.cov)
        return simple + self.vlb * n * ratio * self.term(denoiser, x0, x_t, held, t, s, noise)

    def check(self, denoiser: Denoiser) -> None:
        if not isinstance(denoiser, NetworkDenoiser) or denoiser.variance is None:
            raise UserError("objective 'hybrid' learns a variance: --prediction.variance must be range or posterior")
        super().check(denoiser)
        DenoisingLoss.check(self, denoiser)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "weight": self.weight, "vlb": self.vlb, **self.settings}
