"""Split Gibbs as a solver by name; the function is as ``methods`` says."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...operators import GaussianNoise, Measurement
from ...processes import ScalarGaussian, require
from ...samplers import SplitGibbs
from .common import any_noise, follow, operator_norm, std_of_data

_PROOF = "exact: tests/samplers/test_inverse.py, tests/tasks/test_restore.py"


@register("inverse", "split-gibbs", title="Split Gibbs, compensated", arxiv="2304.11134", proof=_PROOF)
@any_noise
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
        denoiser, measurement, noise, steps: as ``methods`` says.
        levels: of the annealing, at each of which the chain is run as often as ``steps`` allow; 20, and more where
            ``steps`` are more than 400, if not given.
        inner: evaluations a draw from the prior; 1 for an exact world, whose belief is whole, else 5.
        coupling: the last ρ > 0; s/‖A‖ if not given (without noise, a fiftieth of the data's standard deviation).
        compensated: False for the published chain, whose law has the noise s² + ρ²AAᵀ.
    """
    process = require(denoiser.process, ScalarGaussian, "split Gibbs")
    inner = (5 if denoiser.trained else 1) if inner is None else check_integer("inner", inner, 1)
    sigma_data = std_of_data(denoiser)
    if coupling is None:
        noisy = isinstance(measurement.noise, GaussianNoise) and measurement.noise.std > 0
        coupling = 0.99 * measurement.std / operator_norm(denoiser, measurement) if noisy else 0.02 * sigma_data
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
    top = max(5 * sigma_data, 2 * coupling)
    shares = torch.linspace(1, 0, count, dtype=torch.float64)
    rho = coupling * (top / coupling) ** shares if count > 1 else torch.tensor([coupling], dtype=torch.float64)
    times = process.time(-2 * torch.log(rho)).clamp(min=1e-9)
    grid = torch.cat((times.new_ones(1), times[times < 1], times.new_zeros(1)))
    rule = SplitGibbs(measurement, sweeps, inner, compensated=compensated)
    return follow(denoiser, rule, noise, 0, grid=grid)


@register("inverse", "split-gibbs-published", title="Split Gibbs, plain", arxiv="2304.11134", proof=_PROOF)
@any_noise
def split_gibbs_published(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, **options: Any
) -> Tensor:
    """``split_gibbs`` without its compensation: the law of a measurement with noise s² + ρ²AAᵀ."""
    return split_gibbs(denoiser, measurement, noise=noise, steps=steps, compensated=False, **options)
