"""Lévy noise: what processes with independent increments of any shape have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_instance
from .._registry import name_of
from ..distributions import Distribution
from .base import Process, as_time, check_times, expand, one_of
from .gaussian import ScalarGaussian
from .schedules import VP


@dataclass(frozen=True)
class LevyNoise(Process):
    r"""Independent increments of any shape, with the α and σ of a scalar-Gaussian process.

    .. math:: x_t = α_t (x_0 + L_{v(t)}), \quad v(t) = σ_t^2 / α_t^2

    where each coordinate of L is a process with independent increments, mean 0 and variance v at v. So x_t has the mean
    α_t x_0 and the variance σ_t² of the base, whatever the shape of the noise; as a Brownian motion L is the base
    itself. The subclass writes the law of an increment and the bridge.

    Args:
        base: the process whose α (> 0 everywhere) and σ are taken.
    """

    base: ScalarGaussian = VP()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        check_instance("base", self.base, ScalarGaussian, "a scalar-Gaussian process")
        if not float(self.base.alpha(torch.ones((), dtype=torch.float64))) > 1e-6:
            raise UserError(f"base must keep alpha(1) > 0 for {type(self).__name__}, got {self.base}")

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def t_max(self) -> float:
        return self.base.t_max

    def alpha(self, t: Tensor | float) -> Tensor:
        """α(t) of the base."""
        return self.base.alpha(as_time(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        """Standard deviation of x_t given x_0."""
        return self.base.sigma(as_time(t))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log α²/σ² of the base."""
        return self.base.log_snr(t)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``."""
        return self.base.time(log_snr)

    def clock(self, t: Tensor) -> Tensor:
        """v(t)."""
        return (self.base.sigma(t) / self.base.alpha(t)) ** 2

    @abstractmethod
    def increment(self, loc: Tensor, scale: Tensor, start: Tensor, end: Tensor) -> Distribution:
        """The law of loc + scale·(L_end − L_start): loc ``(B, *event)``, scale as ``expand`` makes it, ends of v."""

    def check_eta(self, eta: float) -> None:
        """Refuse another bridge than that of the process itself: η belongs to normal noise."""
        if eta != 1.0:
            raise UserError(f"eta must be 1 for {type(self).__name__} (no other bridge is defined), got {eta}")

    def prior(self, shape: tuple[int, ...]) -> Distribution:
        """The law of x_1 for x_0 = 0."""
        return self.marginal(torch.zeros(one_of(shape), dtype=torch.float64), 1.0)

    def marginal(self, x0: Tensor, t: Tensor | float) -> Distribution:
        (t,) = check_times(t=t)
        a, v = expand(self.alpha(t), x0), self.clock(t)
        return self.increment(a * x0, a, torch.zeros_like(v), v)

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Distribution:
        s, t = check_times(s=s, t=t)
        ratio = expand(self.alpha(t) / self.alpha(s), x_s)
        return self.increment(ratio * x_s, expand(self.alpha(t), x_s), self.clock(s), self.clock(t))

    def to_dict(self) -> dict[str, Any]:
        settings = {key: value for key, value in vars(self).items() if key != "base"}
        return {"name": name_of("processes", type(self)), "base": self.base.to_dict(), **settings}
