"""How a network is read as a law of grey levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, unknown
from ..distributions import Levels
from ..processes import Process, ScalarGaussian, expand
from .parameterization import TIME_INPUTS, Parameterization, TimeInputs, Variance, check_std


@dataclass(frozen=True)
class LevelParameterization(Parameterization):
    r"""A network's output y as independent laws of the levels v_1…v_K that a coordinate can take, under αx_0 + σε:

    .. math:: b(x_0 = v_k) \propto \mathrm{softmax}(y)_k\; N(x_t; α v_k, σ^2)

    So y is what the other coordinates say about this one, and its own state is taken in by Bayes' rule: at small noise
    the belief is sure of its level whatever the network says, and nothing is lost to a network that rounds badly. The
    mean is the expectation over levels (score interpolation: Dieleman et al. 2022, arXiv:2211.15089 §3).

    The network sees x_t scaled to unit variance and the mean of N(x_t; α v_k, σ²) over levels,
    ``(B, 2·C, *size)``, and returns ``(B, C·K, *size)``.

    Args:
        prediction: ``levels``.
        levels: K, from 2 to 4096.
        low, high: v_1 and v_K; the levels between are evenly spaced.
        sigma_data: RMS of the data a coordinate, > 0; for the scale of the input.
        time: a row of ``TIME_INPUTS``.
    """

    kind: ClassVar[str] = "levels"

    prediction: str = "levels"
    levels: int = 256
    low: float = -1.0
    high: float = 1.0
    sigma_data: float = 0.5
    time: str = "log_sigma"

    def __post_init__(self) -> None:
        if self.prediction != "levels":
            raise unknown("prediction", self.prediction, ("levels",))
        if self.time not in TIME_INPUTS:
            raise unknown("time input", self.time, TIME_INPUTS)
        if type(self.levels) is not int or not 2 <= self.levels <= 4096:
            raise UserError(f"levels must be an integer in [2, 4096], got {self.levels!r}")
        check_numbers(low=self.low, high=self.high)
        if not -math.inf < self.low < self.high < math.inf:
            raise UserError(f"low, high must be finite with low < high, got {self.low} and {self.high}")
        check_std(self.sigma_data)

    def check(self, process: Process) -> None:
        if not isinstance(process, ScalarGaussian):
            raise UserError(f"prediction 'levels' needs a process x_t = αx_0 + σε, got {type(process).__name__}")

    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return (2 * shape[0], *shape[1:]), shape[0] * self.levels

    def values(self, like: Tensor) -> Tensor:
        """v_1…v_K."""
        return torch.linspace(self.low, self.high, self.levels, dtype=like.dtype, device=like.device)

    def _seen(self, process: ScalarGaussian, x_t: Tensor, t: Tensor) -> Tensor:
        """log N(x_t; α v_k, σ²) up to a constant, ``(B, *event, K)``; at σ = 0 the nearest level."""
        alpha, sigma2 = (expand(c, x_t) for c in (process.alpha(t), process.sigma2(t).clamp_min(1e-12)))
        values = self.values(x_t)
        square = (x_t[..., None] - (alpha[..., None] if alpha.ndim else alpha) * values) ** 2
        return -square / (2 * (sigma2[..., None] if sigma2.ndim else sigma2))

    def precondition(self, process: Process, x_t: Tensor, now: TimeInputs) -> Tensor:
        assert isinstance(process, ScalarGaussian)
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        scale = torch.rsqrt(process.sigma2(now.t) + process.alpha(now.t) ** 2 * self.sigma_data**2)
        own = torch.softmax(self._seen(process, x_t, now.t), -1) @ self.values(x_t)
        return torch.cat((x_t * expand(scale, x_t), own), 1)

    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: TimeInputs, variance: Variance | None = None
    ) -> Levels:
        assert isinstance(process, ScalarGaussian)
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        raw = out.unflatten(1, (x_t.shape[1], self.levels)).movedim(2, -1).to(x_t.dtype)
        log_probs = torch.log_softmax(torch.log_softmax(raw, -1) + self._seen(process, x_t, now.t), -1)
        return Levels(self.values(x_t), log_probs)
