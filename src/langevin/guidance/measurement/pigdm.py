"""Pseudoinverse guidance: the measurement's likelihood under a belief of one variance for every pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_numbers
from ..._registry import register
from ...denoisers import Denoiser, gaussian_frame
from ...distributions import Distribution
from ...operators import Measurement
from ...processes import ScalarGaussian, require
from .base import Measured, check_measurement, check_rows, evidence


@dataclass(frozen=True, eq=False)
class PiGDMGuided(Measured):
    """The base, tilted by N(y; A x̂_0, r² A Aᵀ + s² I)."""

    sigma_data: float

    def variance(self, t: Tensor) -> Tensor:
        """r² of times, in float64."""
        process = require(self.base.process, ScalarGaussian, "ΠGDM")
        return believed_variance(process, t, self.sigma_data)

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        mean = belief.mean
        check_rows(self.measurement, mean)
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        return evidence(self.measurement, mean, self.variance(t), self.measurement.std**2)


def believed_variance(process: ScalarGaussian, t: Tensor, sigma_data: float) -> Tensor:
    """δ²σ²/(δ²α² + σ²), the variance of x_0 given x_t for normal data of standard deviation δ."""
    square = sigma_data**2
    return square * process.sigma2(t) / (square * process.alpha(t) ** 2 + process.sigma2(t))


@register(
    "guidance",
    "pigdm",
    title="ΠGDM: pseudoinverse guidance",
    proof="exact: tests/guidance/test_measurement_guidance.py",
)
def pigdm(denoiser: Denoiser, measurement: Measurement, *, sigma_data: float | None = 1.0) -> Denoiser:
    r"""Pseudoinverse-guided diffusion (Song, Vahdat, Mardani and Kautz, ICLR 2023, eq. 7–8):

    .. math::
        p(y | x_t) ≈ N(y;\, A \hat x_0,\; r_t^2 A A^T + s^2 I), \qquad
        r_t^2 = \frac{δ^2 σ^2}{δ^2 α^2 + σ^2}

    .. math::
        \hat x_0' = \hat x_0 + \frac{σ^2}{α} \left(\frac{∂ \hat x_0}{∂ x_t}\right)^T A^T (r_t^2 A A^T + s^2 I)^{-1}
        (y - A \hat x_0)

    one product of a vector with the Jacobian. δ is the standard deviation of a coordinate of the data; the paper's
    r² is that of δ = 1, σ²/(α² + σ²), whatever the data. With s = 0 the matrix is inverted by A⁺. On normal data with
    covariance δ²I it is exact. (Its algorithm 1 adds α_t·g to x_s instead, which depends on the number of steps: the
    sampler ``samplers.PiGDM``.)

    Args:
        denoiser: the belief, on a scalar-Gaussian process, differentiable in x_t.
        measurement: by a linear operator, with Gaussian noise.
        sigma_data: δ > 0; None for that of the model's data.

    Raises:
        UserError: for an operator that is not linear, noise that is not Gaussian.
    """
    check_measurement(denoiser, measurement)
    _ = measurement.linear, measurement.std
    return PiGDMGuided(denoiser, measurement, known_std(denoiser, sigma_data))


def known_std(denoiser: Denoiser, sigma_data: float | None) -> float:
    """A standard deviation of the data that was given, or that of the model's data."""
    if sigma_data is not None:
        check_numbers(sigma_data=sigma_data)
        if not 0 < sigma_data < math.inf:
            raise UserError(f"sigma_data must be > 0, got {sigma_data}")
        return float(sigma_data)
    frame = gaussian_frame(denoiser)
    if frame is None:
        raise UserError("sigma_data must be given: this model does not know the mean and covariance of its data")
    return float(frame.std)
