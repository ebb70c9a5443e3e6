"""Solvers of y = A(x) + n by name: ``method(denoiser, measurement, *, noise, steps, **options) -> x``.

``noise`` says how many samples and which, ``steps`` is the number of evaluations of the denoiser a sample may cost
(methods with inner loops share them, and ``smc`` costs that for each of its particles), and the measurement has one row
or one a sample. A method of one's own is such a function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...guidance import measurement as guidance
from ...operators import GaussianNoise, LinearOperator, Measurement
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
    grids,
    time_travel,
)
from ...worlds import WorldDenoiser
from .common import Watched, any_noise, follow, std_of_data, takes

_PROOF = "exact: tests/tasks/test_restore.py"
_INVERSE = "exact: tests/samplers/test_inverse.py, tests/tasks/test_restore.py"
_GUIDED = "exact: tests/guidance/test_measurement_guidance.py, tests/tasks/test_restore.py"


@register("inverse", "exact", title="The posterior itself, in closed form", proof=_PROOF)
@takes("of worlds")
@any_noise
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
@takes("linear")
def pigdm(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    sigma_data: float | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> Tensor:
    """``guidance.pigdm`` with the variance of the model's data (1 where it is not known) by DDIM with η = 1.

    Args:
        denoiser, measurement, noise, steps: see the module.
        sigma_data: δ, instead of that of the model's data.
        sampler: instead of DDIM.
        options: ``grid``.
    """
    std = std_of_data(denoiser) if sigma_data is None else sigma_data
    guided = guidance.pigdm(denoiser, measurement, sigma_data=std)
    return follow(guided, sampler or DDIM(1.0), noise, steps, **options)


@register("inverse", "pigdm-unit", title="ΠGDM, r² of unit data", proof=_GUIDED)
@takes("linear")
def pigdm_unit(denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, **options: Any) -> Tensor:
    """``guidance.pigdm`` with the paper's r² = σ²/(α² + σ²), whatever the data."""
    return pigdm(denoiser, measurement, noise=noise, steps=steps, sigma_data=1.0, **options)


@register("inverse", "pigdm-published", title="ΠGDM, the published step", proof=_INVERSE)
@takes("linear")
def pigdm_published(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, eta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.PiGDM``: the gradient added to x_s, whatever the length of the step."""
    return follow(denoiser, PiGDM(measurement, eta), noise, steps, **options)


@register("inverse", "moment-matching", title="Moment-matching posterior sampling", arxiv="2405.13712", proof=_GUIDED)
@takes("linear")
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
    return follow(guided, sampler or Ancestral(), noise, steps, **options)


@register("inverse", "dps", title="DPS, its code: ζ∇‖·‖", arxiv="2209.14687", proof=_INVERSE)
def dps(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.DPS`` with the norm not squared, as the authors' code has it; ζ = 1 at 1000 steps there."""
    return follow(denoiser, DPS(measurement, zeta), noise, steps, **options)


@register("inverse", "dps-squared", title="DPS with ζ∇‖·‖²", arxiv="2209.14687", proof=_INVERSE)
def dps_squared(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 0.5, **options: Any
) -> Tensor:
    """``samplers.DPS`` with a constant before the squared norm, as others read the paper."""
    return follow(denoiser, DPS(measurement, zeta, "squared"), noise, steps, **options)


@register("inverse", "dps-likelihood", title="DPS as a tilt by the likelihood", arxiv="2209.14687", proof=_GUIDED)
@any_noise
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
    if isinstance(measurement.noise, GaussianNoise) and measurement.noise.std == 0:
        raise UserError("std must be > 0 for dps-likelihood, which divides by its square; give one, or take dps")
    return follow(guidance.dps(denoiser, measurement, scale=scale), sampler or DDIM(1.0), noise, steps, **options)


@register("inverse", "mcg", title="Manifold-constrained gradient", arxiv="2206.00941", proof=_INVERSE)
@takes("linear")
def mcg(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.MCG``."""
    return follow(denoiser, MCG(measurement, zeta), noise, steps, **options)


@register("inverse", "projection", title="Projection on the measurement", arxiv="2011.13456", proof=_INVERSE)
@takes("linear")
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
    return follow(denoiser, Projection(measurement, sampler or Ancestral()), noise, steps, **options)


@register("inverse", "repaint", title="RePaint", arxiv="2201.09865", proof=_INVERSE)
@takes("linear")
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
    return follow(denoiser, RePaint(measurement, rule), noise, steps, grid=path(n), start=_prior(denoiser, noise))


def _prior(denoiser: Denoiser, noise: Noise) -> Tensor:
    return denoiser.process.prior(tuple(denoiser.shape)).sample(noise.step(0).to(denoiser.device)).to(denoiser.device)


@register("inverse", "ddrm", title="Denoising diffusion restoration models", arxiv="2201.11793", proof=_INVERSE)
@takes("linear")
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
    return follow(denoiser, rule, noise, steps, start=start, **options)


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
    return follow(denoiser, DiffPIR(measurement, lam, zeta, inner), noise, steps, **options)


@register("inverse", "daps", title="DAPS, r² of the data", arxiv="2407.01521", proof=_INVERSE)
@any_noise
def daps(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    flow: int | None = None,
    langevin: int | None = None,
    sigma_data: float | None = None,
) -> Tensor:
    """``samplers.DAPS`` with the r² of the data; any differentiable operator, any noise with a density.

    Args:
        denoiser, measurement, noise, steps: see the module.
        flow: evaluations a level; 5, and fewer where there are fewer than 20, if not given.
        langevin: steps of Langevin dynamics a level; if not given, none where exact draws are possible, else 30.
        sigma_data: δ of r² = δ²σ²/(δ²α² + σ²), instead of that of the model's data.
    """
    if langevin is None:
        langevin = 0 if _linear_gaussian(measurement) else 30
    std = std_of_data(denoiser) if sigma_data is None else sigma_data
    return _daps(denoiser, measurement, noise, steps, flow, langevin, std)


@register("inverse", "daps-published", title="DAPS, r = σ/α", arxiv="2407.01521", proof=_INVERSE)
@any_noise
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
    sigma_data: float | None,
) -> Tensor:
    flow = max(1, min(5, steps // 4)) if flow is None else check_integer("flow", flow, 1, steps)
    rule = DAPS(measurement, flow, langevin, sigma_data=sigma_data)
    return follow(denoiser, rule, noise, 0, grid=grids.karras(denoiser.process, steps // flow))


def _linear_gaussian(measurement: Measurement) -> bool:
    return isinstance(measurement.operator, LinearOperator) and isinstance(measurement.noise, GaussianNoise)
