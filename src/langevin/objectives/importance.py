"""Importance sampling of t: times are drawn as often as their losses have been large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Noise
from ..processes import Process
from .times import TimestepDistribution, Uniform


class _History:
    """The last ``terms`` losses of each bin: the one thing a law of t remembers."""

    def __init__(self, bins: int, terms: int) -> None:
        self.losses = torch.zeros(bins, terms, dtype=torch.float64)
        self.count = torch.zeros(bins, dtype=torch.int64)

    def add(self, bin_: int, loss: float) -> None:
        terms = self.losses.shape[1]
        self.losses[bin_, int(self.count[bin_]) % terms] = loss
        self.count[bin_] += 1


@register(
    "objectives",
    "times/importance",
    title="Importance sampling of t by loss history",
    arxiv="2102.09672",
    proof="exact: tests/objectives/test_times.py::test_importance_is_unbiased",
)
@dataclass(frozen=True, eq=False)
class Importance(TimestepDistribution):
    r"""Times drawn as often as their losses are large (arXiv:2102.09672 §3.3, eq. 18); the expectation stays.

    .. math:: p_k \propto \sqrt{E[L_k^2]}, \quad \text{ratio} = \frac{1/K}{p_k}

    The law ``of`` is cut into K bins of equal probability; E is over the last ``terms`` losses of a bin. Until every
    bin has that many, times are those of ``of``. A thousandth of the mass stays uniform, so that the ratio stays below
    1000. With K = N bins over the knots of a table this is the paper's scheme.

    Args:
        of: the law of the expectation.
        bins: K ≥ 1.
        terms: losses kept a bin, ≥ 1; 10 in the paper.
    """

    of: TimestepDistribution = field(default_factory=Uniform)
    bins: int = 100
    terms: int = 10
    history: _History = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.bins < 1 or self.terms < 1:
            raise UserError(f"bins and terms must be at least 1, got {self.bins} and {self.terms}")
        object.__setattr__(self, "history", _History(self.bins, self.terms))

    @property
    def warm(self) -> bool:
        """Whether every bin has its terms."""
        return bool((self.history.count >= self.terms).all())

    def probabilities(self) -> Tensor:
        """p_k, float64 ``(K,)``."""
        if not self.warm:
            return torch.full((self.bins,), 1 / self.bins, dtype=torch.float64)
        size = torch.sqrt((self.history.losses**2).mean(1)).clamp_min(1e-300)
        return 0.999 * size / size.sum() + 0.001 / self.bins

    def _bin(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = self.probabilities().to(u.device)
        edges = torch.cat((torch.zeros_like(p[:1]), torch.cumsum(p, 0)))
        k = (torch.searchsorted(edges, u.contiguous(), right=True) - 1).clamp(0, self.bins - 1)
        return k, ((u - edges[k]) / p[k]).clamp(0, 1), p[k]

    @property
    def learns(self) -> bool:
        return True

    def uniform(self, noise: Noise) -> Tensor:
        return self.of.uniform(noise)

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        return self.of.quantile(process, self._inner(u))

    def ratio(self, process: Process, u: Tensor) -> Tensor:
        return self._own_ratio(u) * self.of.ratio(process, self._inner(u))

    def pair(self, process: Process, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        t, s, ratio = self.of.pair(process, self._inner(u), steps)
        return t, s, self._own_ratio(u) * ratio

    def _inner(self, u: Tensor) -> Tensor:
        """What the law ``of`` is asked at."""
        k, inside, _ = self._bin(u)
        # The open interval: u = 0 and 1 are no quantiles of a normal law.
        return ((k + inside) / self.bins).clamp(2.0**-40, 1 - 2.0**-40)

    def _own_ratio(self, u: Tensor) -> Tensor:
        return 1 / (self.bins * self._bin(u)[2])

    def check(self, process: Process) -> None:
        self.of.check(process)

    def observe(self, u: Tensor, loss: Tensor) -> None:
        # Without this law's own ratio, or a bin that is drawn often would look small.
        for k, value in zip(self._bin(u)[0].tolist(), (loss / self._own_ratio(u).to(loss)).tolist()):
            if math.isfinite(value):
                self.history.add(k, value)

    def for_validation(self) -> TimestepDistribution:
        return self.of.for_validation()

    def state(self) -> dict[str, Any]:
        return {"losses": self.history.losses.tolist(), "count": self.history.count.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        try:
            losses = torch.tensor(state["losses"], dtype=torch.float64)
            count = torch.tensor(state["count"], dtype=torch.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the loss history must hold losses and count: {error}") from None
        if losses.shape != (self.bins, self.terms) or count.shape != (self.bins,):
            got = f"{tuple(losses.shape)} and {tuple(count.shape)}"
            raise UserError(f"the loss history must be ({self.bins}, {self.terms}), got {got}")
        self.history.losses, self.history.count = losses, count
