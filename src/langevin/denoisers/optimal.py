"""The optimal isotropic variance: Γ(t), estimated once for a model, and the belief it makes of the model's mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, shown, unknown
from .._registry import register
from ..distributions import Noise, Normal
from ..processes import ScalarGaussian, as_time, require
from ..storage.untrusted import room
from .base import Denoiser, Transform
from .conditions import rows_of
from .statistics import around, dirac, unit

LEAST = 16
"""Draws a time, below which nothing is estimated."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    r"""Γ of a model on a table of log-SNR λ, and what follows from it: the variance of the belief at every time.

    .. math:: Γ(t) = \tfrac1D E|\hat ε(x_t, t)|^2, \qquad C(t) = e^{-λ} (1 - Γ(t)), \quad 0 \le C \le \min(e^{-λ}, r^2)

    C is E tr Cov[x_0 | x_t] / D where ε̂ is the true mean. Put through ``reverse`` it is the optimal variance of
    Analytic-DPM (Bao et al. 2022, arXiv:2201.06503, eq. 6–8), the bounds are those of its theorem 2 with r half the
    range of the data. Between the knots C·(1 + e^λ), which tends to 1 at low noise and to the variance of the data at
    high, is a monotone cubic in λ; beyond them it stays what it is at the last.

    Args:
        log_snr: λ of the knots, float64 ``(K,)``, increasing.
        gamma: Γ at the knots, ``(K,)``.
        stderr: standard errors of Γ, ``(K,)``.
        error: :math:`E|\hat x_0 - x_0|^2 / D` at the knots, in squared units of the data: C where the mean is the true
            one, larger where it is not.
        low, high: the range of the data, or None.
        made: how it was made, as plain JSON.
    """

    log_snr: Tensor
    gamma: Tensor
    stderr: Tensor
    error: Tensor
    low: float | None = None
    high: float | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("log_snr", "gamma", "stderr", "error"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64).detach().cpu()
            if value.ndim != 1 or value.shape != (len(self.log_snr),) or not value.isfinite().all():
                raise UserError(f"{name} must be finite numbers, one a knot, got {tuple(value.shape)}")
            object.__setattr__(self, name, value)
        if len(self.log_snr) < 2 or not (self.log_snr.diff() > 0).all():
            raise UserError("log_snr must hold two or more increasing numbers")
        if (self.low is None) != (self.high is None) or (
            self.low is not None and self.high is not None and not self.low < self.high
        ):
            raise UserError(f"low must be below high, or both None, got {self.low} and {self.high}")

    def __repr__(self) -> str:
        return f"Calibration({len(self.log_snr)} times, Γ {self.gamma.min():.3g}…{self.gamma.max():.3g})"

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """``analytic(denoiser, self)``."""
        return analytic(denoiser, self)

    def clip(self, variance: Tensor, log_snr: Tensor) -> Tensor:
        """A belief variance within its bounds at λ."""
        half = math.inf if self.low is None or self.high is None else (self.high - self.low) / 2
        return torch.minimum(variance.clamp(0.0, half**2), torch.exp(-log_snr))

    def residual(self) -> Calibration:
        """The same with the measured error in the place of C: the optimal variance around a mean that is not the true
        one (Bao et al. 2022, arXiv:2206.07309 §3.3, one number for all coordinates)."""
        return replace(self, gamma=1 - torch.exp(self.log_snr) * self.error)

    @property
    def variance(self) -> Tensor:
        """C at the knots, ``(K,)``."""
        return self.clip(torch.exp(-self.log_snr) * (1 - self.gamma), self.log_snr)

    @cached_property
    def _curve(self) -> Callable[[Any], Any]:
        from scipy.interpolate import PchipInterpolator

        curve: Callable[[Any], Any] = PchipInterpolator(self.log_snr, self.variance * (1 + torch.exp(self.log_snr)))
        return curve

    def at(self, log_snr: Tensor) -> Tensor:
        """C at λ, float64 shaped like λ; 0 at clean data."""
        within = log_snr.detach().cpu().clamp(self.log_snr[0], self.log_snr[-1])
        ratio = torch.from_numpy(np.asarray(self._curve(within.numpy()))).to(log_snr.device)
        return self.clip(ratio / (1 + torch.exp(log_snr)), log_snr)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        knots = {name: getattr(self, name).tolist() for name in ("log_snr", "gamma", "stderr", "error")}
        return {**knots, "low": self.low, "high": self.high, "made": dict(self.made)}


@dataclass(frozen=True, eq=False)
class _Analytic(Transform):
    calibration: Calibration

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Normal:
        process = self.process
        assert isinstance(process, ScalarGaussian)
        return around(self.base(x_t, t).mean, self.calibration.at(process.log_snr(as_time(t))))


@register(
    "denoisers",
    "analytic",
    title="Analytic-DPM, Analytic-DDIM: the optimal variance",
    arxiv="2201.06503",
    proof="exact: tests/denoisers/test_optimal.py",
)
def analytic(denoiser: Denoiser, calibration: Calibration) -> Denoiser:
    """The mean of the belief with the optimal isotropic variance C(t): ``reverse`` is Analytic-DPM, or -DDIM by η.

    C depends on the log-SNR alone, so it serves every process the model is read in.

    Args:
        denoiser: on a scalar-Gaussian process.
        calibration: Γ of the model, from ``calibrate``.
    """
    require(denoiser.process, ScalarGaussian, "variance 'analytic'")
    return _Analytic(denoiser, calibration)


def intercept(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """E of ``values`` ``(M,)`` and its standard error, by regression on variates ``(M, k)`` of mean 0.

    Least squares takes out of the mean what chance gave the variates: the bias is of order 1/M, the variance that of
    the residual.
    """
    design = torch.cat((torch.ones_like(values)[:, None], known), 1)
    weights = torch.linalg.pinv(design) @ values  # a variate may be 0 throughout
    left = len(values) - design.shape[1]
    return weights[0], ((values - design @ weights).square().sum() / left / len(values)).sqrt()


@torch.no_grad()
def calibrate(
    denoiser: Denoiser,
    x0: Tensor,
    condition: Mapping[str, Tensor] | None = None,
    *,
    times: int = 32,
    n: int | None = None,
    seed: int = 0,
    batch: int = 256,
    low: float | None = None,
    high: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    r"""Estimate Γ of a model by Monte Carlo, at times equally spaced in log-SNR over the range of its process.

    Each draw is an x_0 of the data with a fresh ε. :math:`|\hat ε|^2` is close to :math:`|ε|^2` at high noise, where
    1 − Γ is what counts, so its mean is taken by regression on variates of mean 0: :math:`|ε|^2 - D`, and the products
    of ε with x_0 and with x̂_0 of the knot before, whose noise was another. The error of C then stays bounded at every
    noise, where the plain mean's grows as σ²/α².

    Args:
        denoiser: the model, with conditions not yet bound.
        x0: data ``(N, *shape)``, taken in turn.
        condition: what belongs to them, ``(N, …)`` by name, bound where the model takes it.
        times: knots K ≥ 2.
        n: draws a time, ≥ 16; N if not given.
        seed: of the noise.
        batch: samples of one evaluation; the result does not depend on it.
        low, high: the range of the data, which bounds the variance.
        progress: called as ``progress(done, total)``, counting evaluations.

    Raises:
        UserError: for a request that cannot be met, before any work; for a model whose output is not finite.
    """
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "calibrate")
    n = len(x0) if n is None else n
    for name, number, least in (("times", times, 2), ("n", n, LEAST), ("batch", batch, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise UserError(f"{name} must be an integer of at least {least}, got {number!r}")
    if tuple(x0.shape[1:]) != tuple(denoiser.shape):
        raise UserError(f"x0 must have shape (N, {', '.join(map(str, denoiser.shape))}), got {tuple(x0.shape)}")
    if not x0.isfinite().all():
        raise UserError("x0 must be finite")
    if condition is not None and not isinstance(condition, Mapping):
        raise UserError(f"condition must be a mapping such as {{'label': labels}}, got {shown(condition)}")
    for name, value in (condition or {}).items():
        if value.shape[:1] != x0.shape[:1]:
            raise UserError(f"{name} must have shape ({len(x0)},) first, one a sample, got {tuple(value.shape)}")
    taken = {name: value for name, value in (condition or {}).items() if name in denoiser.conditions()}
    room(40 * times * n, f"{n} draws at {times} times")
    lowest, highest = (float(process.log_snr(t)) for t in (process.t_max, process.t_min))
    log_snr = torch.linspace(lowest, highest, times, dtype=torch.float64)
    knots = process.time(log_snr)
    drawn = torch.empty(times, n, 5, dtype=torch.float64)
    for first in range(0, n, batch):
        rows = torch.arange(first, min(first + batch, n))
        clean = x0[rows % len(x0)].to(torch.float64)
        some = denoiser.given(rows_of(taken, rows % len(x0))) if taken else denoiser
        found = torch.zeros_like(clean)
        for k in (-1, *range(times)):  # the first knot twice: the second time it has a knot before
            t, last = knots[max(k, 0)], found
            eps = Noise(seed, rows, k + 1).normal(tuple(x0.shape[1:]))
            x_t = process.alpha(t) * clean + process.sigma(t) * eps
            found = some(x_t.to(denoiser.device), t).mean.to("cpu", torch.float64)
            guess = (x_t - process.alpha(t) * found) / process.sigma(t)
            about = (guess**2, (found - clean) ** 2, eps**2 - 1, eps * clean, eps * last)
            drawn[max(k, 0), rows] = torch.stack([v.flatten(1).mean(1) for v in about], 1)
            if progress is not None:
                progress((times + 1) * first + len(rows) * (k + 2), (times + 1) * n)
    if not drawn.isfinite().all():
        bad = float(knots[(~drawn.isfinite()).flatten(1).any(1)][0])
        raise UserError(f"the model's output is not finite at t = {bad:g}; nothing can be estimated from it")
    estimates = [(*intercept(values[:, 0], values[:, 2:]), values[:, 1].mean()) for values in drawn]
    gamma, stderr, error = torch.tensor(estimates, dtype=torch.float64).mT
    made = {"n": n, "examples": len(x0), "seed": seed}
    return Calibration(process.log_snr(knots), gamma, stderr, error, low, high, made)


GIVEN: dict[str, Callable[[Denoiser], Denoiser]] = {"small": dirac, "large": unit}
"""Variances that need nothing of the model: DDPM's β̃ and β."""


def with_variance(denoiser: Denoiser, name: str) -> Denoiser:
    """The mean of the belief with a variance by name: ``small`` (β̃), ``large`` (β), or one learned for the model.

    What was learned is found in the model the denoiser is made from: with labels bound, guided, or in another process.

    Raises:
        UserError: for a name that this model does not have.
    """
    known = {**GIVEN, **denoiser.learned_variances}
    if name not in known:
        raise unknown("variance", name, known, " `langevin calibrate MODEL` adds to them.")
    return known[name](denoiser)
