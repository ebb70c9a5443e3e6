"""Weights w(t) on the mean squared error of x̂_0: one small function each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import Table, register
from ..denoisers import AffineParameterization, Denoiser, LevelParameterization
from ..processes import Chain, PhaseSpace, ScalarGaussian, require

Weight = Callable[..., Tensor]
"""``weight(denoiser, t, **settings) -> (B,)`` in float64, for times ``(B,)`` in (0, 1]."""


def _process(denoiser: Denoiser, name: str) -> ScalarGaussian:
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, f"weight {name!r}")
    return process


@register(
    "objectives",
    "simple",
    title="The network's own target (L_simple, v, flow matching, EDM)",
    arxiv="2006.11239",
    proof="exact: tests/objectives/test_weights.py::test_simple_is_the_error_of_the_target",
)
def simple(denoiser: Denoiser, t: Tensor) -> Tensor:
    r""":math:`(p - qα/σ)^2`, which makes the x_0 error the plain squared error of net = p·x_0 + q·ε.

    So ε-prediction has DDPM's L_simple (arXiv:2006.11239 eq. 14), v-prediction the v loss (2202.00512), flow-prediction
    flow matching (2210.02747 eq. 14) and EDM's the EDM loss up to its law of σ (2206.00364 eq. 8).
    """
    reading = denoiser.parameterization
    if reading is None:
        raise UserError(
            f"weight 'simple' is that of a network's own target, and {type(denoiser).__name__} has no network; use 'x0'"
        )
    return reading.weight(denoiser.process, t)


@register(
    "objectives",
    "hsm",
    title="Hybrid score matching, λ = 1/ℓ²",
    arxiv="2112.07068",
    proof="exact: tests/denoisers/test_phase_parameterization.py::test_hybrid_score_matching",
)
def hsm(denoiser: Denoiser, t: Tensor) -> Tensor:
    r""":math:`κ_v^2`: the squared error of ε_v, phase space's x_0 error seen in the velocity (arXiv:2112.07068 eq. 8).

    It is :math:`λ |s_v - ∇_v \log q(x_t, v_t | x_0)|^2`, v_0 integrated out, with :math:`λ = L_{vv}^2`.
    """
    if not isinstance(denoiser.process, PhaseSpace):
        raise UserError(f"weight 'hsm' is that of a velocity, which {type(denoiser.process).__name__} does not have")
    return denoiser.process.white_gain(t)[..., 1] ** 2


@register(
    "objectives",
    "x0",
    title="Plain error of x_0",
    arxiv="2202.00512",
    proof="exact: tests/objectives/test_denoising.py::test_belief_mean_is_the_minimum",
)
def x0(denoiser: Denoiser, t: Tensor) -> Tensor:
    """1: the error of x_0 itself, for any process of real data."""
    if isinstance(denoiser.process, Chain):
        raise UserError("weight 'x0' is of the error of real data; tokens are learned by 'd3pm'")
    return torch.ones_like(t)


@register(
    "objectives",
    "dsm",
    title="Denoising score matching, λ = σ²",
    arxiv="2011.13456",
    proof="exact: tests/objectives/test_weights.py::test_score_weights",
)
def dsm(denoiser: Denoiser, t: Tensor) -> Tensor:
    r""":math:`α^2/σ^2`: with λ = σ², :math:`λ |s - ∇\log q(x_t|x_0)|^2` (arXiv:1907.05600 eq. 6, 2011.13456 eq. 7)."""
    process = _process(denoiser, "dsm")
    return (process.alpha(t) / process.sigma(t)) ** 2


@register(
    "objectives",
    "likelihood",
    title="Likelihood weighting, λ = g²",
    arxiv="2101.09258",
    proof="exact: tests/objectives/test_weights.py::test_score_weights",
)
def likelihood(denoiser: Denoiser, t: Tensor) -> Tensor:
    r""":math:`-\tfrac12 \frac{d}{dt} \mathrm{SNR}(t)`, SNR = α²/σ²: a bound on −log p_0 a coordinate, in nats.

    It equals :math:`\tfrac12 g^2 |s - ∇\log q(x_t|x_0)|^2` (arXiv:2101.09258 eq. 7; 2107.00630 eq. 15), up to the terms
    at the two ends of time that no parameter enters.
    """
    process = _process(denoiser, "likelihood")
    return -process.rate(lambda u: (process.alpha(u) / process.sigma(u)) ** 2, t) / 2


@register(
    "objectives",
    "edm",
    title="EDM weighting",
    arxiv="2206.00364",
    proof="exact: tests/objectives/test_weights.py::test_edm_weight",
)
def edm(denoiser: Denoiser, t: Tensor, *, sigma_data: float | None = None) -> Tensor:
    r""":math:`(s^2 + σ_d^2) / (s\,σ_d)^2` with s = σ/α (arXiv:2206.00364, Table 1); for any prediction.

    ``sigma_data`` is σ_d; that of the denoiser's parameterization if not given.
    """
    process = _process(denoiser, "edm")
    if sigma_data is None:
        reading = denoiser.parameterization
        if not isinstance(reading, (AffineParameterization, LevelParameterization)):
            raise UserError("weight 'edm' needs sigma_data for a denoiser that has no network")
        sigma_data = float(reading.sigma_data)
    alpha2, sigma2 = process.alpha(t) ** 2, process.sigma(t) ** 2
    return alpha2 / sigma2 + 1 / sigma_data**2


@register(
    "objectives",
    "min-snr",
    title="Min-SNR-γ weighting",
    arxiv="2303.09556",
    proof="exact: tests/objectives/test_weights.py::test_min_snr",
)
def min_snr(denoiser: Denoiser, t: Tensor, *, gamma: float = 5.0) -> Tensor:
    r""":math:`\min(α^2/σ^2, γ)` (arXiv:2303.09556 §3.4, written on the x_0 error)."""
    return dsm(denoiser, t).clamp_max(gamma)


WEIGHTS: Table[Weight] = Table("objectives", lambda row: None if isinstance(row.make, type) else row.make)
"""The weights by name: the objectives that are functions."""
