"""Diffusion posterior sampling as a tilt of the belief.

This is ``restore(method="dps-likelihood")``. The published step is the sampler ``samplers.DPS``, which is
``restore(method="dps")``; docs/restore.md has the table of names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._errors import UserError, check_numbers
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Distribution
from ...operators import GaussianNoise, Measurement
from .base import Measured, check_measurement, check_rows


@dataclass(frozen=True, eq=False)
class DPSGuided(Measured):
    """The base, tilted by the likelihood of its mean."""

    scale: float
    norm: str

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        mean = belief.mean
        check_rows(self.measurement, mean)
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        if self.norm == "squared":
            return self.scale * self.measurement.log_prob(mean)
        return -self.scale * residual_norm(self.measurement, mean)


def residual_norm(measurement: Measurement, x0: Tensor) -> Tensor:
    r""":math:`\|y - A(x_0)\|`, ``(B,)``; its gradient at 0 is 0."""
    square = measurement.residual(x0).flatten(1).square().sum(1)
    return torch.where(square > 0, torch.sqrt(square.clamp_min(1e-30)), 0.0 * square)


@register(
    "guidance",
    "dps",
    title="Diffusion posterior sampling, as a tilt",
    arxiv="2209.14687",
    proof="exact: tests/guidance/test_measurement_guidance.py",
)
def dps(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    scale: float = 1.0,
    norm: Literal["squared", "unsquared"] = "squared",
) -> Denoiser:
    r"""The likelihood of the predicted clean data in place of that of x_t (Chung et al. 2023, arXiv:2209.14687 eq. 11):

    .. math:: ∇_{x_t} \log p(y | x_t) ≈ ∇_{x_t} \log p(y | \hat x_0(x_t))

    With Gaussian noise of standard deviation s the two norms are

    .. math::
        \text{squared:}\; & \hat x_0' = \hat x_0 - \text{scale}\,\frac{σ^2}{2 s^2 α}\, ∇_{x_t} \|y - A \hat x_0\|^2 \\
        \text{unsquared:}\; & \hat x_0' = \hat x_0 - \text{scale}\,\frac{σ^2}{α}\, ∇_{x_t} \|y - A \hat x_0\|

    The published algorithm is neither: it subtracts ζ∇‖y − A x̂_0‖ (its code) or ζ'∇‖y − A x̂_0‖²/‖y − A x̂_0‖ = 2ζ'∇‖·‖
    (its algorithm 1) from x_s after every step, so how strongly the measurement pulls depends on the number of steps.
    It is the sampler ``samplers.DPS``. A shift of x_s by −ζ∇‖·‖ is one of x̂_0 by −(ζ/a)∇‖·‖, with a the coefficient
    of x_0 in the step's bridge.

    On normal data N(0, c²), of which h·x was measured with noise s, a fine grid does not give the posterior: without
    noise in the steps its variance is :math:`c^2 e^{-b}`, with noise :math:`c^2 (1 - e^{-2b})/(2b)`, where
    b = h²c²/s² and the truth is :math:`c^2/(1 + b)` (docs/restore.md).

    Args:
        denoiser: the belief, on a scalar-Gaussian process, differentiable in x_t.
        measurement: of its data; any operator that is differentiable, with ``norm="squared"`` any noise with a density.
        scale: 1 is Bayes' rule for the approximation.
        norm: ``"squared"``, the logarithm of the likelihood, or ``"unsquared"``.
    """
    check_measurement(denoiser, measurement)
    check_numbers(scale=scale)
    check_norm(norm)
    noise = measurement.noise
    if norm == "squared" and isinstance(noise, GaussianNoise) and noise.std == 0:
        raise UserError("std must be > 0 for norm='squared', which divides by it, got 0; take norm='unsquared'")
    return DPSGuided(denoiser, measurement, float(scale), norm)


def check_norm(norm: object) -> None:
    """Refuse a norm without a name."""
    if norm not in ("squared", "unsquared"):
        raise UserError(f"norm must be 'squared' or 'unsquared', got {norm!r}")
