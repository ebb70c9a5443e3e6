"""Steps that subtract a gradient of the measurement from x_s: DPS, ΠGDM and MCG as they were published.

The tilts of the belief by the same likelihoods are ``guidance.dps`` and ``guidance.pigdm``; which name stands for which
in ``restore`` is said in docs/restore.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Distribution, Noise, Stream
from ...guidance.measurement.dps import check_norm, residual_norm
from ...guidance.measurement.pigdm import believed_variance, known_std
from ...operators import Measurement
from ...processes import ScalarGaussian, expand
from ...processes.base import check_eta
from ..loop import State
from .base import MeasuredSampler, check_share, with_gradient
from .projection import project

_PROOF = "exact: tests/samplers/test_inverse.py"


@register("samplers", "dps", title="Diffusion posterior sampling", arxiv="2209.14687", proof=_PROOF)
@dataclass(frozen=True, eq=False)
class DPS(MeasuredSampler):
    r"""Diffusion posterior sampling as published (Chung et al. 2023, arXiv:2209.14687 alg. 1, with η = 1):

    .. math:: x_s = x_s' - ζ ∇_{x_t} \|y - A(\hat x_0)\|, \qquad x_s' \sim q_η(x_s | x_t, \hat x_0)

    The norm is not squared in the authors' code, and ζ multiplies it (``norm="unsquared"``). The paper's algorithm has
    ζ_i = ζ'/‖y − A x̂_0‖ before the gradient of the squared norm, which is the same with ζ = 2ζ'. Others take a constant
    before the squared norm (``norm="squared"``). The shift does not know the length of the step: a grid of twice as
    many steps pulls twice as hard. ``guidance.dps`` is the tilt that does not depend on the grid.

    Args:
        measurement: by any operator that is differentiable; its noise is not looked at.
        zeta: ζ ≥ 0; 1 at 1000 steps in the paper.
        norm: ``"unsquared"`` or ``"squared"``.
        eta: share of noise in the step; 1 is DDPM.
    """

    zeta: float = 1.0
    norm: Literal["unsquared", "squared"] = "unsquared"
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(zeta=self.zeta)
        check_norm(self.norm)
        check_eta(self.eta)

    def distance(self, measurement: Measurement, x0: Tensor) -> Tensor:
        """What is followed downwards, ``(B,)``."""
        norm = residual_norm(measurement, x0)
        return norm if self.norm == "unsquared" else norm.square()

    def moved(
        self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise
    ) -> tuple[Tensor, Distribution]:
        """x_s and the belief at x_t."""
        measurement = self.rows(state.x)
        belief, mean, gradient = with_gradient(denoiser, state, lambda x0: self.distance(measurement, x0))
        x = denoiser.process.reverse(state.x, Dirac(mean), state.t, s, self.eta).sample(noise)
        return x - self.zeta * gradient, belief

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        x, belief = self.moved(state, s, denoiser, noise)
        return state.move(x, s, belief=belief)


@register("samplers", "mcg", title="Manifold-constrained gradient", arxiv="2206.00941", proof=_PROOF)
@dataclass(frozen=True, eq=False)
class MCG(DPS):
    r"""Manifold-constrained gradients (Chung et al. 2022, arXiv:2206.00941 eq. 14–15): gradient, then projection.

    .. math::
        x_s'' &= x_s' - ζ ∇_{x_t} \|y - A \hat x_0\| \\
        x_s &= (I - A^+ A)\, x_s'' + A^+ y_s, \qquad y_s \sim q(y_s | y)

    as ``DPS`` followed by ``Projection``: what is measured is replaced, so noise in y stays in the result. The authors'
    code, written for masks, has the norm unsquared with ζ = 1 too, but takes y at the noise of t, one step of its table
    noisier than the x_s it goes into; here it has that of s, as the equation says.

    Args:
        measurement: by a linear operator.
        zeta, norm, eta: as of ``DPS``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.measurement.linear

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        x, belief = self.moved(state, s, denoiser, noise)
        x = project(denoiser.process, self.rows(x), x, s, noise.fold_in(Stream.REMEASURED))
        return state.move(x, s, belief=belief)


@register("samplers", "pigdm", title="ΠGDM, the published step", proof=_PROOF)
@dataclass(frozen=True, eq=False)
class PiGDM(MeasuredSampler):
    r"""ΠGDM as published (Song, Vahdat, Mardani and Kautz, ICLR 2023, alg. 1): a DDIM step, and a gradient added.

    The paper is at openreview.net/forum?id=9_gsMA8MRKQ; there is none on arXiv.

    .. math::
        x_s &= x_s' + α_t\, g, \qquad x_s' \sim q_η(x_s | x_t, \hat x_0) \\
        g &= \left(\frac{∂ \hat x_0}{∂ x_t}\right)^T A^T \left(A A^T + \frac{s^2}{r_t^2} I\right)^{-1} (y - A \hat x_0)

    Code that an author published later (RED-diff's ``pgdm``) has this factor α_t as an option, and α_s·α_t in its place
    otherwise. The shift does not know the length of the step. ``guidance.pigdm`` is the tilt by the same likelihood, of
    which the shift of x_s is (a/α_t)·g·(α_t² + σ_t²) for δ = 1, where a is the coefficient of x_0 in the step.

    Args:
        measurement: by a linear operator, with Gaussian noise.
        eta: share of noise in the step.
        sigma_data: δ of r² = δ²σ²/(δ²α² + σ²); 1 in the paper.
    """

    eta: float = 1.0
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.measurement.linear, self.measurement.std
        check_eta(self.eta)
        check_share(sigma_data=self.sigma_data)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process, measurement = denoiser.process, self.rows(state.x)
        variance = believed_variance(process, state.t, known_std(denoiser, self.sigma_data))
        weight = 0.0 if measurement.std == 0 else measurement.std**2 / variance

        def along(x0: Tensor) -> Tensor:
            with torch.no_grad():
                pull = measurement.linear.regularised_inverse(measurement.residual(x0), 1.0, weight)
            return (x0 * pull).flatten(1).sum(1)

        belief, mean, gradient = with_gradient(denoiser, state, along)
        x = process.reverse(state.x, Dirac(mean), state.t, s, self.eta).sample(noise)
        return state.move(x + expand(process.alpha(state.t), x) * gradient, s, belief=belief)
