"""Twisting functions ψ_t(x_t), which look ahead at a tilt of the data, and the potentials made of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, check_numbers, shown
from ...distributions import Categorical, Dirac, Distribution, FiniteSet, Noise, Stream
from ...operators import GaussianNoise, LinearOperator, Measurement
from ...processes import Process, ScalarGaussian

LogFactor = Callable[[Tensor, Tensor, Distribution], Tensor]
"""log ψ_t(x_t), ``(B,)``, of (x_t, t, belief); at t = 0, where the belief is the point x_0, the tilt itself."""


class Factor(ABC):
    """log ψ_t(x_t), which may draw from the belief: twisting functions of any kind, ψ_0 the tilt that is meant.

    What is random in it is an auxiliary variable of the particle, so the weights remain exact.
    """

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Tensor, belief: Distribution, noise: Noise) -> Tensor:
        """log ψ_t in nats, ``(B,)``; at t = 0 the belief is the point that x_0 is."""


@dataclass(frozen=True)
class Function(Factor):
    """A function of (x_t, t, belief); at t = 0, where ``last`` is given, that of x_0 alone."""

    function: LogFactor
    last: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x_t: Tensor, t: Tensor, belief: Distribution, noise: Noise) -> Tensor:
        if self.last is not None and bool((t == 0).all()):
            return self.last(belief.mean)
        return self.function(x_t, t, belief)


@dataclass(frozen=True)
class Reward(Factor):
    r"""The tilt exp(scale·r(x_0)), looked ahead at by the predicted clean data or by draws from the belief.

    .. math::
        \logψ_t = λ\, r(\hat x_0(x_t)) \quad\text{or}\quad
        \logψ_t = \log \frac1m \sum_{j=1}^m e^{λ r(x_0^j)}, \; x_0^j \sim p(x_0 | x_t)

    The second tends to the optimal ψ_t with m (arXiv:2501.06848 §3.2).

    Args:
        reward: of clean data ``(B, *shape)``, one number a sample ``(B,)``; large is good.
        scale: λ.
        draws: m; 0 is the predicted clean data, which tokens have not.
    """

    reward: Callable[[Tensor], Tensor]
    scale: float = 1.0
    draws: int = 0

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise UserError(f"reward must be a function of clean data (B, *shape), got {shown(self.reward)}")
        check_numbers(scale=self.scale)
        check_integer("draws", self.draws, 0)

    def _value(self, x0: Tensor) -> Tensor:
        value = self.reward(x0)
        if not isinstance(value, Tensor) or value.shape != x0.shape[:1]:
            raise UserError(f"reward must return one number a sample, ({len(x0)},), got {shown(value)}")
        return self.scale * value

    def __call__(self, x_t: Tensor, t: Tensor, belief: Distribution, noise: Noise) -> Tensor:
        if isinstance(belief, Dirac):
            return self._value(belief.mean)
        if self.draws:
            drawn = [self._value(belief.sample(noise.fold_in(Stream.PREDICTED + j))) for j in range(self.draws)]
            return torch.logsumexp(torch.stack(drawn), 0) - math.log(self.draws)
        if isinstance(belief, Categorical) or (isinstance(belief, FiniteSet) and not belief.points.is_floating_point()):
            raise UserError("draws must be at least 1 for tokens, whose predicted clean data is no sequence, got 0")
        return self._value(belief.mean)


@dataclass(frozen=True)
class Likelihood(Factor):
    r"""The tilt p(y | x_0) of a measurement, looked ahead at with what the belief does not know yet added to its noise.

    .. math:: \logψ_t = \log N(y;\; A \hat x_0,\; c_t A A^T + s^2 I)

    with c_t the belief's mean variance, or of a point belief :math:`σ^2/(α^2 + σ^2)`, that of unit-variance data
    (as ΠGDM takes it). For an operator that is not linear AAᵀ is I, and other noise than Gaussian is
    taken as it is. The wide factor at large t is what keeps the weights even; ψ_0 is p(y | x_0) whatever c_t.

    Args:
        measurement: one, or one a particle.
        process: of the belief.
    """

    measurement: Measurement
    process: Process

    def __post_init__(self) -> None:
        if isinstance(self.measurement.noise, GaussianNoise) and not self.measurement.std > 0:
            raise UserError(
                "std must be > 0 for particles, which are weighed by the density of y, got 0; give one, such as 0.05 "
                "(--std 0.05)"
            )

    def variance(self, t: Tensor, belief: Distribution) -> Tensor:
        """c_t, ``()`` or ``(B,)``, in units of the data."""
        if not isinstance(belief, Dirac):
            try:
                spread = belief.cov.diagonal(tuple(belief.mean.shape[1:]))
            except TypeError:
                pass  # a belief that does not know it
            else:
                return spread.detach().flatten(1).mean(1)
        if not isinstance(self.process, ScalarGaussian):
            return torch.zeros((), dtype=torch.float64)
        sigma2 = self.process.sigma2(t)
        return sigma2 / (self.process.alpha(t) ** 2 + sigma2)

    def __call__(self, x_t: Tensor, t: Tensor, belief: Distribution, noise: Noise) -> Tensor:
        x0, seen = belief.mean, self.measurement
        if bool((t == 0).all()) or not isinstance(seen.noise, GaussianNoise):
            return seen.log_prob(x0)
        c, s2 = self.variance(t, belief).to(x0), seen.std**2
        residual = seen.residual(x0)
        if isinstance(seen.operator, LinearOperator):
            square = (residual * seen.operator.solve(residual, c, s2)).flatten(1).sum(1)
            known = seen.operator.svd(tuple(x0.shape[1:]))
            values = known.values.to(x0) if known is not None else x0.new_zeros(1)
            log_det = torch.log(c[..., None] * values**2 + s2).sum(-1)  # up to a constant
        else:
            square = residual.square().flatten(1).sum(1) / (c + s2)
            log_det = residual[0].numel() * torch.log(c + s2)
        return -0.5 * (square + log_det)


Track = Tensor | None


def difference(track: Track, reached: Tensor, log_psi: Tensor) -> tuple[Track, Tensor]:
    """:math:`G_t = ψ_t / ψ_{t+1}`: what was reached is log ψ_t itself, as in twisted SMC."""
    return None, log_psi


def maximum(track: Track, reached: Tensor, log_psi: Tensor) -> tuple[Track, Tensor]:
    r""":math:`\log G_t = \max_{u \ge t} \log ψ_u`: particles that once had a large factor are preferred."""
    track = log_psi if track is None else torch.maximum(track, log_psi)
    return track, reached + track


def total(track: Track, reached: Tensor, log_psi: Tensor) -> tuple[Track, Tensor]:
    r""":math:`\log G_t = \sum_{u \ge t} \log ψ_u`: particles whose factors were large all the way are preferred."""
    track = log_psi if track is None else track + log_psi
    return track, reached + track


POTENTIALS: dict[str, Callable[[Track, Tensor, Tensor], tuple[Track, Tensor]]] = {
    "difference": difference,
    "max": maximum,
    "sum": total,
}
r"""Potentials of Feynman–Kac steering (arXiv:2501.06848 §3.1), as what the product :math:`\prod_{u \ge t} G_u` reaches.

Each takes what it keeps of a particle's past, the log of the product so far and log ψ_t, and returns the first two
anew. The last potential, :math:`G_0 = ψ_0 / \prod_{u > 0} G_u`, makes the product the tilt itself.
"""
