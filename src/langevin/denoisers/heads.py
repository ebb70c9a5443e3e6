"""Optimal variances a coordinate, from a small network beside one that gives the mean: SN-DPM and NPR-DPM."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._registry import register
from ..distributions import Diagonal, Normal
from ..processes import ScalarGaussian, as_time, expand, require
from .base import Denoiser, Transform
from .network import EvaluationCounter
from .parameterization import TIME_INPUTS, check_std

LOWEST, HIGHEST = -12.0, 4.0
"""Range of the logarithm of what a head gives."""


@dataclass(frozen=True, eq=False)
class VarianceHead(Transform):
    r"""The mean of ``base`` with the variance a coordinate that ``network`` gives; the base is never trained.

    With :math:`S^2 = σ^2 + α^2 σ_d^2` and :math:`c = σ σ_d / S`, the posterior spread of normal data, what is left to
    know of x_0 is :math:`F = (x_0 - α σ_d^2 x_t / S^2) / c`, of unit size at every noise. It is affine in ε given x_t,
    so second moments of ε and of F say the same, but those of F keep their meaning where ε̂ is nearly ε.

    The network sees x_t/S, x̂_0/σ_d and F̂, is told the log-SNR, and gives log u a coordinate. Its loss is
    :math:`y/p + \log p` with y the square that the subclass names and p what u makes of its expectation: like the
    papers' squared error it is least where p is the conditional expectation of y (both are Bregman divergences), but it
    counts errors in proportion, so that coordinates of little variance are learned as well as those of much.

    Args:
        base: gives the mean; on a scalar-Gaussian process.
        network: ``(B, 3·channels, …)`` to ``(B, channels, …)``.
        sigma_data: σ_d > 0, in units of the data.
        low, high: the range of the data, which bounds the variance, or None.
        counter: where the head's evaluations are counted.
        config: how it was made, as plain JSON.
    """

    kind: ClassVar[str]

    network: nn.Module
    sigma_data: float
    low: float | None = None
    high: float | None = None
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)

    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.process, ScalarGaussian, f"variance {self.kind!r}")
        check_std(self.sigma_data)

    def counted(self) -> VarianceHead:
        """The same with a counter of its own."""
        return replace(self, counter=EvaluationCounter())

    def onto(self, denoiser: Denoiser) -> VarianceHead:
        """The same variance around another mean: of the model with labels bound, or guided."""
        return replace(self, base=denoiser)

    @staticmethod
    @abstractmethod
    def squares(guess: Tensor, excess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """(y, p) of F̂, u and F."""

    def _look(self, x_t: Tensor, t: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F̂ and u, the factor of x_t in F and c."""
        process = self.process
        assert isinstance(process, ScalarGaussian)
        alpha, sigma = process.alpha(t), process.sigma(t)
        total = torch.sqrt(sigma**2 + alpha**2 * self.sigma_data**2)
        skip = expand(alpha * self.sigma_data**2 / total**2, x_t)
        size = expand((sigma * self.sigma_data / total).clamp_min(1e-20), x_t)
        guess = (mean - skip * x_t) / size
        seen = torch.cat((x_t / expand(total, x_t), mean / self.sigma_data, guess), 1)
        first = next(self.network.parameters())
        c_noise = TIME_INPUTS["log_sigma"](process, t).to(first.device, torch.float32)
        log = self.network(seen.to(first.dtype), c_noise.expand(len(x_t)), None).to(mean.dtype)
        self.counter.calls += 1
        return guess, torch.exp(log.clamp(LOWEST, HIGHEST)), skip, size

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Normal:
        t = as_time(t)
        mean = self.base(x_t, t).mean
        _, excess, _, size = self._look(x_t, t, mean)
        # No law on [low, high] varies more than its two ends. (σ/α)² bounds the mean over x_t alone: between two modes
        # a coordinate varies more.
        half = math.inf if self.low is None or self.high is None else (self.high - self.low) / 2
        return Normal(mean, Diagonal((size**2 * excess).clamp_max(half**2)))

    def losses(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """y/p + log p, the mean over the coordinates, ``(B,)``; gradients reach the head alone."""
        with torch.no_grad(), torch.autocast(x_t.device.type, enabled=False):
            mean = self.base(x_t, t).mean
        guess, excess, skip, size = self._look(x_t, t, mean)
        y, p = self.squares(guess, excess, (x0 - skip * x_t) / size)
        return (y / p + torch.log(p)).flatten(1).mean(1)


@register(
    "denoisers",
    "npr",
    title="NPR-DPM: the squared error of the mean, a coordinate",
    arxiv="2206.07309",
    proof="exact: tests/denoisers/test_heads.py",
)
@dataclass(frozen=True, eq=False)
class NPR(VarianceHead):
    r"""The head learns the noise prediction's residual, :math:`E[(ε - \hat ε)^2 | x_t] = (α c / σ)^2 u`.

    The belief's variance is :math:`c^2 u = E[(x_0 - \hat x_0)^2 | x_t]`, which is the optimal one whether or not the
    mean is right (Bao et al. 2022, arXiv:2206.07309 §3.3).
    """

    kind: ClassVar[str] = "npr"

    @staticmethod
    def squares(guess: Tensor, excess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return (truth - guess) ** 2, excess


@register(
    "denoisers",
    "sn",
    title="SN-DPM: the squared noise, a coordinate",
    arxiv="2206.07309",
    proof="exact: tests/denoisers/test_heads.py",
)
@dataclass(frozen=True, eq=False)
class SN(VarianceHead):
    r"""The head learns the squared noise, :math:`E[ε^2 | x_t] = \hat ε^2 + (α c / σ)^2 u`.

    The belief's variance is :math:`c^2 u = (σ/α)^2 (E[ε^2 | x_t] - \hat ε^2)`, the posterior variance where ε̂ is the
    true mean (Bao et al. 2022, arXiv:2206.07309 §3.2); written so it is never negative.
    """

    kind: ClassVar[str] = "sn"

    @staticmethod
    def squares(guess: Tensor, excess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return truth**2, guess**2 + excess


VARIANCE_HEADS: dict[str, type[VarianceHead]] = {"sn": SN, "npr": NPR}
"""Heads by name."""
