"""PSLD: gradient steps on codes that keep to what an encoder makes of the measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Noise
from ...guidance.measurement.dps import check_norm
from ...operators import Decoded, LinearOperator, Measurement
from ...processes import ScalarGaussian
from ...processes.base import check_eta
from ..loop import State
from .base import MeasuredSampler, check_share, with_gradient


def size(v: Tensor, norm: str) -> Tensor:
    """The norm of each sample, ``(B,)``, squared if that is asked for; the gradient of the norm at 0 is 0."""
    square = v.flatten(1).square().sum(1)
    if norm == "squared":
        return square
    return torch.where(square > 0, torch.sqrt(square.clamp_min(1e-30)), 0.0 * square)


def glued(operator: Decoded, y: Tensor, z: Tensor, x: Tensor) -> Tensor:
    r""":math:`z - E(A^T y + (I - A^T A)\, x)` for the data x = D(z): 0 where x fits y and its code is z."""
    linear = operator.operator
    assert isinstance(linear, LinearOperator)
    return z - operator.encode(x + linear.adjoint(y - linear(x)))


@register(
    "samplers",
    "psld",
    title="PSLD: posterior sampling with latent diffusion",
    arxiv="2307.00619",
    proof="exact: tests/tasks/test_restore_codes.py",
)
@dataclass(frozen=True, eq=False)
class PSLD(MeasuredSampler):
    r"""PSLD (Rout et al. 2023, arXiv:2307.00619 alg. 2) on codes, with encoder E and decoder D:

    .. math::
        z_s' &\sim q_η(z_s | z_t, \hat z_0) \\
        z_s'' &= z_s' - ζ ∇_{z_t} \|y - A(D(\hat z_0))\|^2 \\
        z_s &= z_s'' - γ ∇_{z_t} \|\hat z_0 - E(A^T y + (I - A^T A)\, D(\hat z_0))\|^2

    The last line glues ẑ_0 to a code of an image that has what was measured in its place. With γ = 0 it is latent DPS.
    As of DPS, the code of the authors has both norms unsquared (``norm="unsquared"``), and the shift does not know the
    length of the step.

    Let D be a matrix of orthonormal columns, E = Dᵀ, the codes N(0, c²I) and y without noise. Squared norms then shift
    ẑ_0 towards the true code along each singular direction of A D, by 2κ(ζh² + γh⁴) of the distance, where h is its
    singular value and κ = ∂ẑ_0/∂z_t. If A D has full column rank and 0 < ζh² + γh⁴ < 1 the chain recovers the code as
    the grid gets finer, as the paper proves for linear models.

    Args:
        measurement: by ``operators.Decoded`` of a linear operator; its noise is not looked at.
        zeta: ζ ≥ 0.
        gamma: γ ≥ 0.
        norm: ``"unsquared"`` or ``"squared"``, of both terms.
        eta: share of noise in the step; 1 is DDPM, as in the paper.
    """

    zeta: float = 1.0
    gamma: float = 0.1
    norm: Literal["unsquared", "squared"] = "unsquared"
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(zeta=self.zeta)
        check_share(gamma=self.gamma)
        check_norm(self.norm)
        check_eta(self.eta)
        inner = getattr(self.measurement.operator, "operator", None)
        if not isinstance(self.measurement.operator, Decoded) or not isinstance(inner, LinearOperator):
            raise UserError(
                f"operator must be of decoded codes and linear in the data for PSLD, got {self.measurement.operator!r}"
            )

    def distance(self, measurement: Measurement, z0: Tensor) -> Tensor:
        """What is followed downwards, ``(B,)``."""
        operator = measurement.operator
        assert isinstance(operator, Decoded)
        x = operator.decode(z0)
        y = measurement.y.to(x)
        total = self.zeta * size(y - operator.operator(x), self.norm)
        return total + self.gamma * size(glued(operator, y, z0, x), self.norm) if self.gamma > 0 else total

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        measurement = self.rows(state.x)
        belief, mean, gradient = with_gradient(denoiser, state, lambda z0: self.distance(measurement, z0))
        x = denoiser.process.reverse(state.x, Dirac(mean), state.t, s, self.eta).sample(noise)
        return state.move(x - gradient, s, belief=belief)
