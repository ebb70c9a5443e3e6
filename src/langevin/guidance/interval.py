"""Guidance in an interval of noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, Derived, check_is_denoiser
from ..distributions import Categorical, Covariance, Dense, Dirac, Distribution, Noise
from ..processes import Process, ScalarGaussian, SignalToNoise, as_time, check_process


@dataclass(frozen=True, eq=False)
class Interval(Derived):
    """``guided`` where the noise level lies in [low, high], ``plain`` elsewhere: only the one is asked."""

    plain: Denoiser
    guided: Denoiser
    low: float
    high: float

    @property
    def base(self) -> Denoiser:
        return self.plain

    @property
    def children(self) -> tuple[Denoiser, ...]:
        return self.plain, self.guided

    def conditions(self) -> tuple[str, ...]:
        return tuple(name for name in self.plain.conditions() if name in self.guided.conditions())

    def _bind(self, condition: dict[str, Any]) -> Denoiser:
        return replace(self, plain=self.plain.given(condition), guided=self.guided.given(condition))

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, plain=self.plain.rows(index), guided=self.guided.rows(index))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        t = as_time(t)
        level = noise_level(self.process, t)
        inside = ((level >= self.low) & (level <= self.high)).to(x_t.device)
        if bool(inside.all()) or not bool(inside.any()):
            return (self.guided if bool(inside.any()) else self.plain)(x_t, t)
        parts = []
        for denoiser, chosen in ((self.guided, inside), (self.plain, ~inside)):
            rows = chosen.nonzero()[:, 0]
            parts.append((rows, denoiser.rows(rows)(x_t[rows], t[rows])))
        return by_sample(parts, len(x_t))


@register(
    "guidance",
    "interval",
    title="Guidance in an interval of noise levels",
    arxiv="2404.07724",
    proof="exact: tests/guidance/test_interval.py",
)
def interval(plain: Denoiser, guided: Denoiser, between: Sequence[float]) -> Denoiser:
    r"""Guidance where it helps (Kynkäänniemi et al. 2024, arXiv:2404.07724 eq. 5):

    .. math::
        D(x; t) = D_\text{guided}(x; t) \text{ if } σ_\text{lo} \le σ_t/α_t \le σ_\text{hi}, \text{ else }
        D_\text{plain}(x; t)

    The interval is one of noise levels σ/α, not of steps, so that it means the same on every grid and process. Outside
    it the plain belief costs its own evaluations alone. The paper's interval is (σ_lo, σ_hi]; ends count here.

    Args:
        plain: the belief outside, such as the conditional one.
        guided: the belief inside, on the same process.
        between: (low, high), 0 ≤ low < high; high may be infinite.

    Raises:
        UserError: for an interval that is empty or reversed; a process without noise levels, such as one of tokens.
    """
    low, high = check_interval(between)
    check_is_denoiser(plain, "plain")
    check_is_denoiser(guided, "guided")
    if plain.process != guided.process or tuple(plain.shape) != tuple(guided.shape):
        raise UserError(
            f"plain and guided must be of one process and shape, got {plain.process} {tuple(plain.shape)} and "
            f"{guided.process} {tuple(guided.shape)}"
        )
    require_levels(plain.process, "interval")
    return Interval(plain, guided, low, high)


def check_interval(between: Sequence[float]) -> tuple[float, float]:
    """An interval of noise levels: two numbers 0 ≤ low < high, the upper of which may be infinite."""
    if not isinstance(between, Sequence) or isinstance(between, str) or len(between) != 2:
        raise UserError(f"interval must be a pair (low, high) of noise levels σ/α, got {shown(between)}")
    low, high = between
    check_numbers(**{"interval[0]": low})
    check_numbers(False, **{"interval[1]": high})
    if not 0 <= low < high:
        raise UserError(f"interval must have 0 <= low < high, noise levels σ/α in this order, got ({low}, {high})")
    return float(low), float(high)


def require_levels(process: Process, needed_by: str) -> None:
    """Refuse a process whose times are no noise levels."""
    check_process(process)
    if not isinstance(process, SignalToNoise):
        raise UserError(f"{needed_by} needs a process with a noise level σ/α, which {type(process).__name__} has not")


def noise_level(process: Process, t: Tensor) -> Tensor:
    """σ/α of times, in float64: 0 at t = 0, infinite where α = 0."""
    if isinstance(process, ScalarGaussian):
        return process.sigma(t) / process.alpha(t)
    assert isinstance(process, SignalToNoise)
    return torch.exp(-process.log_snr(t) / 2)


def by_sample(parts: Sequence[tuple[Tensor, Distribution]], count: int) -> Distribution:
    """One law of a batch from the laws of its rows: points and tokens as one tensor, others as they are."""
    laws = [law for _, law in parts]
    for kind in (Dirac, Categorical):
        if all(isinstance(law, kind) for law in laws):
            return kind(scattered([(rows, law.mean) for rows, law in parts], count))
    return BySample(tuple(parts), count)


def scattered(parts: Sequence[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Rows put together: ``(count, …)`` of values ``(len(rows) or 1, …)``."""
    first = parts[0][1]
    whole = torch.empty(count, *first.shape[1:], dtype=first.dtype, device=first.device)
    for rows, value in parts:
        whole[rows] = value.to(whole)
    return whole


@dataclass(frozen=True, eq=False, repr=False)
class BySample(Distribution):
    """A law of a batch of which some samples have one law and some another: pairs of rows and the law of these."""

    parts: tuple[tuple[Tensor, Distribution], ...]
    count: int

    def sample(self, noise: Noise) -> Tensor:
        return scattered([(rows, law.sample(noise.rows(rows))) for rows, law in self.parts], self.count)

    def log_prob(self, x: Tensor) -> Tensor:
        return scattered([(rows, law.log_prob(x[rows])) for rows, law in self.parts], self.count)

    @property
    def mean(self) -> Tensor:
        return scattered([(rows, law.mean) for rows, law in self.parts], self.count)

    @property
    def cov(self) -> Covariance:
        shape = tuple(self.parts[0][1].mean.shape[1:])
        return Dense(scattered([(rows, law.cov.dense(shape)) for rows, law in self.parts], self.count))

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Distribution:
        def own(value: Tensor, rows: Tensor) -> Tensor:
            return value[rows] if value.ndim and len(value) > 1 else value

        moved = ((rows, law.affine(*(own(v, rows) for v in (scale, shift, variance)))) for rows, law in self.parts)
        return BySample(tuple(moved), self.count)


EVERYWHERE = (0.0, math.inf)
"""The interval of all noise levels."""
