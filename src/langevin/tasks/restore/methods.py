"""Solvers of y = A(x) + n by name: ``method(denoiser, measurement, *, noise, steps, **options) -> x``.

``noise`` says how many samples and which, ``steps`` is the number of evaluations of the denoiser a sample may cost
(methods with inner loops share them), and the measurement has one row or one a sample. A method of one's own
is such a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser, Transform, gaussian_frame
from ...distributions import Distribution, Noise
from ...guidance import measurement as guidance
from ...operators import GaussianNoise, LinearOperator, Measurement
from ...processes import ScalarGaussian
from ...samplers import (
    DAPS,
    DDIM,
    DDRM,
    DPS,
    MCG,
    Ancestral,
    DiffPIR,
    PiGDM,
    Projection,
    RePaint,
    Sampler,
    SplitGibbs,
    grids,
    sample,
    time_travel,
)
from ...worlds import WorldDenoiser

_PROOF = "exact: tests/tasks/test_restore.py"
_INVERSE = "exact: tests/samplers/test_inverse.py, tests/tasks/test_restore.py"
_GUIDED = "exact: tests/guidance/test_measurement_guidance.py, tests/tasks/test_restore.py"


@dataclass(frozen=True, eq=False)
class Watched(Transform):
    """A denoiser that calls a function whenever it is asked."""

    call: Callable[[], None]

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        belief = self.base(x_t, t)
        self.call()
        return belief

    def rows(self, index: slice | Tensor) -> Denoiser:
        return Watched(self.base.rows(index), self.call)


def _run(denoiser: Denoiser, sampler: Sampler, noise: Noise, steps: int, **options: Any) -> Tensor:
    """The sampler on its default grid of so many steps."""
    if "grid" not in options:
        options["steps"] = steps
    return sample(denoiser, sampler, noise=noise, batch=len(noise), **options)


def _data_std(denoiser: Denoiser) -> float:
    """Standard deviation of a coordinate of the data, 1 where the model does not know it."""
    frame = gaussian_frame(denoiser)
    return 1.0 if frame is None else float(frame.std)


@register("inverse", "exact", title="The posterior itself, in closed form", proof=_PROOF)
def exact(denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int = 1) -> Tensor:
    """Draws of ``World.posterior``: for exact worlds alone.

    Args:
        denoiser: of a Gaussian mixture (linear operators, Gaussian noise) or of a finite set (all), with or without a
            label.
        measurement, noise: see the module.
        steps: not used.
    """
    while isinstance(denoiser, Watched):
        denoiser = denoiser.base
    if not isinstance(denoiser, WorldDenoiser):
        raise UserError(
            f"method 'exact' needs a model whose posterior is known in closed form (world.denoiser(process)), got "
            f"{type(denoiser).__name__}"
        )
    rows, of = torch.unique(measurement.y, dim=0, return_inverse=True)
    of = of.expand(len(noise))
    parts = [torch.nonzero(of == i)[:, 0] for i in range(len(rows))]
    made = [denoiser.data.posterior(measurement.operator, y, measurement.noise) for y in rows]
    x = torch.cat([world.sample(noise.rows(part)) for world, part in zip(made, parts)])
    return x[torch.argsort(torch.cat(parts))]


@register("inverse", "pigdm", title="ΠGDM, r² of the data", proof=_GUIDED)
def pigdm(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    data_std: float | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> Tensor:
    """``guidance.pigdm`` with the variance of the model's data (1 where it is not known) by DDIM with η = 1.

    Args:
        denoiser, measurement, noise, steps: see the module.
        data_std: δ, instead of that of the model's data.
        sampler: instead of DDIM.
        options: ``grid``.
    """
    std = _data_std(denoiser) if data_std is None else data_std
    guided = guidance.pigdm(denoiser, measurement, data_std=std)
    return _run(guided, sampler or DDIM(1.0), noise, steps, **options)


@register("inverse", "pigdm-unit", title="ΠGDM, r² of unit data", proof=_GUIDED)
def pigdm_unit(denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, **options: Any) -> Tensor:
    """``guidance.pigdm`` with the paper's r² = σ²/(α² + σ²), whatever the data."""
    return pigdm(denoiser, measurement, noise=noise, steps=steps, data_std=1.0, **options)


@register("inverse", "pigdm-published", title="ΠGDM, the published step", proof=_INVERSE)
def pigdm_published(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, eta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.PiGDM``: the gradient added to x_s, whatever the length of the step."""
    return _run(denoiser, PiGDM(measurement, eta), noise, steps, **options)


@register("inverse", "moment-matching", title="Moment-matching posterior sampling", arxiv="2405.13712", proof=_GUIDED)
def moment_matching(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    iterations: int = 5,
    sampler: Sampler | None = None,
    **options: Any,
) -> Tensor:
    """``guidance.moment_matching`` by ancestral sampling of its whole belief.

    Args:
        denoiser, measurement, noise, steps: see the module.
        iterations: of conjugate gradients a step, each a backward pass, where the belief is a point.
        sampler: instead of ancestral sampling.
        options: ``grid``.
    """
    guided = guidance.moment_matching(denoiser, measurement, iterations=iterations)
    return _run(guided, sampler or Ancestral(), noise, steps, **options)


@register("inverse", "dps", title="DPS, its code: ζ∇‖·‖", arxiv="2209.14687", proof=_INVERSE)
def dps(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.DPS`` with the norm not squared, as the authors' code has it; ζ = 1 at 1000 steps there."""
    return _run(denoiser, DPS(measurement, zeta), noise, steps, **options)


@register("inverse", "dps-squared", title="DPS with ζ∇‖·‖²", arxiv="2209.14687", proof=_INVERSE)
def dps_squared(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 0.5, **options: Any
) -> Tensor:
    """``samplers.DPS`` with a constant before the squared norm, as others read the paper."""
    return _run(denoiser, DPS(measurement, zeta, "squared"), noise, steps, **options)


@register("inverse", "dps-likelihood", title="DPS as a tilt by the likelihood", arxiv="2209.14687", proof=_GUIDED)
def dps_likelihood(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    scale: float = 1.0,
    sampler: Sampler | None = None,
    **options: Any,
) -> Tensor:
    """``guidance.dps``: what the paper derives, with 1/(2s²) before the squared norm. Stiff: few steps diverge."""
    return _run(guidance.dps(denoiser, measurement, scale=scale), sampler or DDIM(1.0), noise, steps, **options)


@register("inverse", "mcg", title="Manifold-constrained gradient", arxiv="2206.00941", proof=_INVERSE)
def mcg(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.MCG``."""
    return _run(denoiser, MCG(measurement, zeta), noise, steps, **options)


@register("inverse", "projection", title="Projection on the measurement", arxiv="2011.13456", proof=_INVERSE)
def projection(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    sampler: Sampler | None = None,
    **options: Any,
) -> Tensor:
    """``samplers.Projection`` of ancestral sampling."""
    return _run(denoiser, Projection(measurement, sampler or Ancestral()), noise, steps, **options)


@register("inverse", "repaint", title="RePaint", arxiv="2201.09865", proof=_INVERSE)
def repaint(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    resamplings: int = 5,
    jump: int | None = None,
    sampler: Sampler | None = None,
) -> Tensor:
    """``samplers.RePaint`` on the finest grid that needs no more evaluations than ``steps``.

    Args:
        denoiser, measurement, noise, steps: see the module.
        resamplings: r ≥ 1.
        jump: in times of the grid; a tenth of it if not given.
        sampler: instead of ancestral sampling.
    """
    process, rule = denoiser.process, sampler or Ancestral()
    check_integer("resamplings", resamplings, 1)

    def path(n: int) -> Tensor:
        return time_travel(grids.karras(process, n), max(1, n // 10) if jump is None else jump, resamplings)

    n = steps
    while n > 1 and int((path(n).diff() < 0).sum()) > steps:
        n -= 1
    if resamplings > 1 and not bool((path(n).diff() > 0).any()):
        raise UserError(
            f"steps must leave room for a jump back to noise in repaint: at least {resamplings + 1} with jump = 1 and "
            f"resamplings = {resamplings}, got {steps}; take more steps, or resamplings 1, which is projection"
        )
    return _run(denoiser, RePaint(measurement, rule), noise, steps, grid=path(n), start=_prior(denoiser, noise))


def _prior(denoiser: Denoiser, noise: Noise) -> Tensor:
    return denoiser.process.prior(tuple(denoiser.shape)).sample(noise.step(0).to(denoiser.device)).to(denoiser.device)


@register("inverse", "ddrm", title="Denoising diffusion restoration models", arxiv="2201.11793", proof=_INVERSE)
def ddrm(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    eta: float = 0.85,
    eta_b: float = 1.0,
    **options: Any,
) -> Tensor:
    """``samplers.DDRM`` from its own start."""
    rule = DDRM(measurement, eta, eta_b)
    rule.check(denoiser.process)
    rule.for_model(denoiser)
    start = rule.start(denoiser, noise.step(0).to(denoiser.device))  # type: ignore[arg-type]
    return _run(denoiser, rule, noise, steps, start=start, **options)


@register("inverse", "diffpir", title="DiffPIR", arxiv="2305.08995", proof=_INVERSE)
def diffpir(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    lam: float = 7.0,
    zeta: float = 0.3,
    inner: int = 10,
    **options: Any,
) -> Tensor:
    """``samplers.DiffPIR`` with the paper's λ and ζ; any differentiable operator, Gaussian noise."""
    return _run(denoiser, DiffPIR(measurement, lam, zeta, inner), noise, steps, **options)


@register("inverse", "daps", title="DAPS, r² of the data", arxiv="2407.01521", proof=_INVERSE)
def daps(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    flow: int | None = None,
    langevin: int | None = None,
    data_std: float | None = None,
) -> Tensor:
    """``samplers.DAPS`` with the r² of the data; any differentiable operator, any noise with a density.

    Args:
        denoiser, measurement, noise, steps: see the module.
        flow: evaluations a level; 5, and fewer where there are fewer than 20, if not given.
        langevin: steps of Langevin dynamics a level; if not given, none where exact draws are possible, else 30.
        data_std: δ of r² = δ²σ²/(δ²α² + σ²), instead of that of the model's data.
    """
    if langevin is None:
        langevin = 0 if _linear_gaussian(measurement) else 30
    std = _data_std(denoiser) if data_std is None else data_std
    return _daps(denoiser, measurement, noise, steps, flow, langevin, std)


@register("inverse", "daps-published", title="DAPS, r = σ/α", arxiv="2407.01521", proof=_INVERSE)
def daps_published(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    flow: int | None = None,
    langevin: int = 100,
) -> Tensor:
    """``samplers.DAPS`` with the paper's r_t = σ_t/α_t and 100 steps of Langevin dynamics a level."""
    return _daps(denoiser, measurement, noise, steps, flow, langevin, None)


def _daps(
    denoiser: Denoiser,
    measurement: Measurement,
    noise: Noise,
    steps: int,
    flow: int | None,
    langevin: int,
    data_std: float | None,
) -> Tensor:
    flow = max(1, min(5, steps // 4)) if flow is None else check_integer("flow", flow, 1, steps)
    rule = DAPS(measurement, flow, langevin, data_std=data_std)
    return _run(denoiser, rule, noise, 0, grid=grids.karras(denoiser.process, steps // flow))


@register("inverse", "split-gibbs", title="Split Gibbs, compensated", arxiv="2304.11134", proof=_INVERSE)
def split_gibbs(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    levels: int | None = None,
    inner: int | None = None,
    coupling: float | None = None,
    compensated: bool = True,
) -> Tensor:
    """``samplers.SplitGibbs``, annealed to a coupling at which it is exact: ρ = s/‖A‖.

    Exact is the chain that has mixed. From the prior the weights of separate modes are the last to be right, and the
    later the less noise there is: they come nearer with ``steps``.

    Args:
        denoiser, measurement, noise, steps: see the module.
        levels: of the annealing, at each of which the chain is run as often as ``steps`` allow; 20, and more where
            ``steps`` are more than 400, if not given.
        inner: evaluations a draw from the prior; 1 for an exact world, whose belief is whole, else 5.
        coupling: the last ρ > 0; s/‖A‖ if not given (without noise, a fiftieth of the data's standard deviation).
        compensated: False for the published chain, whose law has the noise s² + ρ²AAᵀ.
    """
    process: ScalarGaussian = denoiser.process  # type: ignore[assignment]
    inner = (5 if denoiser.trained else 1) if inner is None else check_integer("inner", inner, 1)
    data_std = _data_std(denoiser)
    if coupling is None:
        noisy = isinstance(measurement.noise, GaussianNoise) and measurement.noise.std > 0
        coupling = 0.99 * measurement.std / _norm(denoiser, measurement) if noisy else 0.02 * data_std
    if not 0 < coupling < math.inf:
        raise UserError(f"coupling must be > 0, got {coupling}")
    if steps < 2 * inner:
        raise UserError(
            f"steps must be at least {2 * inner} for split Gibbs, twice the {inner} evaluations of a draw from the "
            f"prior (inner), got {steps}"
        )
    wanted = max(20, steps // 20) if levels is None else check_integer("levels", levels, 1)
    count = max(1, min(wanted, steps // inner - 1))
    sweeps = max(1, (steps // inner - 1) // count)
    top = max(5 * data_std, 2 * coupling)
    shares = torch.linspace(1, 0, count, dtype=torch.float64)
    rho = coupling * (top / coupling) ** shares if count > 1 else torch.tensor([coupling], dtype=torch.float64)
    times = process.time(-2 * torch.log(rho)).clamp(min=1e-9)
    grid = torch.cat((times.new_ones(1), times[times < 1], times.new_zeros(1)))
    rule = SplitGibbs(measurement, sweeps, inner, compensated=compensated)
    return _run(denoiser, rule, noise, 0, grid=grid)


@register("inverse", "split-gibbs-published", title="Split Gibbs, plain", arxiv="2304.11134", proof=_INVERSE)
def split_gibbs_published(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, **options: Any
) -> Tensor:
    """``split_gibbs`` without its compensation: the law of a measurement with noise s² + ρ²AAᵀ."""
    return split_gibbs(denoiser, measurement, noise=noise, steps=steps, compensated=False, **options)


def _linear_gaussian(measurement: Measurement) -> bool:
    return isinstance(measurement.operator, LinearOperator) and isinstance(measurement.noise, GaussianNoise)


def _norm(denoiser: Denoiser, measurement: Measurement) -> float:
    """‖A‖, the largest singular value; of an operator that is not linear, of its derivative at a few random points."""
    operator, shape = measurement.operator, tuple(denoiser.shape)
    if isinstance(operator, LinearOperator) and (known := operator.svd(shape)) is not None:
        return float(known.values.max())
    dtype = torch.promote_types(denoiser.dtype, torch.float32)
    x, v = (Noise(0, 8, draw).normal(shape).to(denoiser.device, dtype) for draw in range(2))
    x = x * _data_std(denoiser)
    size = v.new_ones(len(v))
    for _ in range(20):
        v = v / v.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * len(shape))
        ahead = (operator(x + 1e-2 * v) - operator(x - 1e-2 * v)) / 2e-2
        size = ahead.flatten(1).norm(dim=1)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (v,) = torch.autograd.grad(operator(at), at, ahead)
    return max(float(size.max()), 1e-12)
