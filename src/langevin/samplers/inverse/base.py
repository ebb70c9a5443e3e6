"""What samplers of a posterior share: their measurement, and what is drawn or minimised of x_0 near a point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_instance
from ...denoisers import Denoiser
from ...distributions import Distribution, Noise, Stream
from ...guidance.measurement import check_measurement, check_rows
from ...operators import GaussianNoise, LinearOperator, Measurement
from ...processes import ScalarGaussian, expand
from ..loop import Sampler, State


@dataclass(frozen=True, eq=False)
class MeasuredSampler(Sampler[ScalarGaussian]):
    """A sampler with a measurement: ``(1, *measured)`` for all samples, or one a sample of every batch it is given."""

    measurement: Measurement
    needs = ScalarGaussian, "a solver of inverse problems"

    def __post_init__(self) -> None:
        check_instance("measurement", self.measurement, Measurement, "a langevin.operators.Measurement")

    def for_model(self, denoiser: Denoiser) -> Sampler:
        check_measurement(denoiser, self.measurement)
        return self

    def rows(self, x: Tensor) -> Measurement:
        """The measurement, checked to be one or one a sample of x."""
        check_rows(self.measurement, x)
        return self.measurement


def level(process: ScalarGaussian, t: Tensor) -> Tensor:
    """σ/α of times, in float64."""
    return process.sigma(t) / process.alpha(t).clamp_min(1e-300)


def with_gradient(
    denoiser: Denoiser, state: State, function: Callable[[Tensor], Tensor]
) -> tuple[Distribution, Tensor, Tensor]:
    """The belief at a state, its mean, and the gradient at x_t of a function of the mean, ``(B,)``."""
    with torch.enable_grad():
        x = state.x.detach().requires_grad_()
        belief = denoiser(x, state.t)
        mean = belief.mean
        (gradient,) = torch.autograd.grad(function(mean).sum(), x)
    if not bool(gradient.isfinite().all()):
        raise UserError(
            f"the gradient of the measurement is not finite at t = {float(state.t.reshape(-1)[0]):.4g}: the samples "
            "diverged; take a smaller step size"
        )
    return belief, mean.detach(), gradient.to(state.x)


def given_measurement(measurement: Measurement, centre: Tensor, variance: Tensor, noise: Noise) -> Tensor:
    r"""An exact draw of N(x; centre, v I)·N(y; A x, s² I) by perturbing and solving, for linear A and s ≥ 0:

    .. math:: x = z + v A^T (v A A^T + s^2 I)^{-1} (y + s ξ - A z), \qquad z \sim N(\text{centre}, v I)

    Args:
        measurement: by a linear operator, with Gaussian noise.
        centre: ``(B, *shape)``.
        variance: v > 0, ``()`` or ``(B,)``.
        noise: of this draw.
    """
    shape = tuple(centre.shape[1:])
    root = expand(torch.sqrt(variance), centre)
    z = centre + root * noise.fold_in(Stream.UNMEASURED).normal(shape).to(centre)
    residual = measurement.residual(z)
    if measurement.std > 0:
        measured = tuple(residual.shape[1:])
        residual = residual + measurement.std * noise.fold_in(Stream.REMEASURED).normal(measured).to(residual)
    # v A Aᵀ + s² I over v, so that a coupling much larger than the noise is no large number
    ratio = 0.0 if measurement.std == 0 else measurement.std**2 / variance
    return z + measurement.linear.regularised_inverse(residual, 1.0, ratio)


def is_linear_gaussian(measurement: Measurement) -> bool:
    """Whether exact draws are possible."""
    return isinstance(measurement.operator, LinearOperator) and isinstance(measurement.noise, GaussianNoise)


def walk(
    measurement: Measurement,
    centre: Tensor,
    variance: Tensor,
    noise: Noise,
    *,
    steps: int,
    step_size: float,
    adjusted: bool,
) -> Tensor:
    r"""Langevin dynamics for N(x; centre, v I)·p(y | x), from the centre, for any operator and noise with a density:

    .. math:: x ← x + η ∇\log p + \sqrt{2η}\, z, \qquad η = \frac{\text{step\_size}}{1/v + L}

    where L is the largest curvature of −log p(y | x) at the centre, found by power iteration on its gradient.

    Args:
        measurement, centre, variance, noise: as in ``given_measurement``.
        steps: how many.
        step_size: a share of the inverse of the largest curvature.
        adjusted: whether steps are accepted or refused (Metropolis), which makes the law stationary at any step size.
    """
    shape, inverse = tuple(centre.shape[1:]), expand(1 / variance, centre)
    if isinstance(measurement.noise, GaussianNoise) and measurement.noise.std == 0:
        raise UserError(
            "std must be > 0 for Langevin dynamics on the likelihood, got 0; give one, such as 0.05 (--std 0.05)"
        )

    def log_density(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = measurement.log_prob(x) - 0.5 * (inverse * (x - centre).square()).flatten(1).sum(1)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    dot = lambda p, q: (p * q).flatten(1).sum(1)
    size = lambda p: expand(dot(p, p).sqrt().clamp_min(1e-30), p)
    # The law of the sample alone: a power iteration from noise of its own.
    direction = noise.fold_in(Stream.WALKED).normal(shape).to(centre)
    x, (value, gradient) = centre, log_density(centre)
    probe = expand(torch.sqrt(variance).clamp_max(1.0), centre) * 1e-2
    curvature = torch.zeros(len(centre), dtype=centre.dtype, device=centre.device)
    for _ in range(8):
        direction = direction / size(direction)
        ahead = (log_density(centre + probe * direction)[1] - gradient) / probe
        curvature, direction = torch.maximum(curvature, dot(ahead, ahead).sqrt()), ahead
    eta = expand(step_size / torch.maximum(curvature, inverse.flatten().expand(len(centre))), centre)
    for i in range(1, steps + 1):
        own = noise.fold_in(Stream.WALKED + i)
        moved = x + eta * gradient + torch.sqrt(2 * eta) * own.normal(shape).to(x)
        new, ahead = log_density(moved)
        accept = torch.ones_like(new, dtype=torch.bool)
        if adjusted:
            there = dot(moved - x - eta * gradient, (moved - x - eta * gradient) / eta)
            back = dot(x - moved - eta * ahead, (x - moved - eta * ahead) / eta)
            accept = torch.log(own.uniform(())).to(new) < new - value + (there - back) / 4
        keep = accept.reshape(-1, *[1] * len(shape))
        x, gradient = torch.where(keep, moved, x), torch.where(keep, ahead, gradient)
        value = torch.where(accept, new, value)
    return x


def proximal(measurement: Measurement, x0: Tensor, weight: Tensor, *, steps: int) -> Tensor:
    r"""argmin ‖y − A(x)‖² + weight·‖x − x_0‖²; by one regularised inverse where A is linear.

    Else by steepest descent from x_0, with the step that is best for the linearised operator, halved until the sum
    falls: two evaluations of A and one backward pass a step.

    Args:
        measurement: y and A.
        x0: ``(B, *shape)``.
        weight: ≥ 0, ``()`` or ``(B,)``.
        steps: of the descent.
    """
    if isinstance(measurement.operator, LinearOperator):
        exact = bool((weight == 0).all())
        return x0 + measurement.operator.regularised_inverse(measurement.residual(x0), 1.0, 0.0 if exact else weight)
    a, square = measurement.operator, lambda v: v.flatten(1).square().sum(1)
    column = weight.to(x0).expand(len(x0))
    cost = lambda x: square(measurement.residual(x)) + column * square(x - x0)
    x = x0
    for _ in range(steps):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            now = cost(at)
            (g,) = torch.autograd.grad(now.sum() / 2, at)
        now = now.detach()
        small = expand(1e-4 / torch.sqrt(square(g) / g[0].numel()).clamp_min(1e-30), g)
        bend = square((a(x + small * g) - a(x - small * g)) / (2 * small.reshape(-1, *[1] * (measurement.y.ndim - 1))))
        step = square(g) / (bend + column * square(g)).clamp_min(1e-30)
        for _ in range(12):
            tried = x - expand(step, x) * g
            worse = ~(cost(tried) <= now)
            if not bool(worse.any()):
                break
            step = torch.where(worse, step / 2, step)
        x = torch.where(expand(worse.to(x), x) > 0, x, tried)
    return x


def check_share(low: float = 0.0, high: float = math.inf, /, **values: float) -> None:
    """Refuse settings that are no finite number in [low, high]."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            within = f">= {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            raise UserError(f"{name} must be a number {within}, got {value!r}")
        if not math.isfinite(value):
            raise UserError(f"{name} must be finite, got {value}")
