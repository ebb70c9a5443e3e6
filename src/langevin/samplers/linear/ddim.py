"""DDIM: the bridge through the predicted clean data, with a share of its noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...processes import ScalarGaussian
from .step import Linear, StepCoefficients


@register(
    "samplers",
    "ddim",
    title="DDIM",
    arxiv="2010.02502",
    proof="exact: tests/laws; parity: tests/samplers/test_parity.py",
)
@dataclass(frozen=True)
class DDIM(Linear[ScalarGaussian]):
    r"""DDIM (Song et al. 2020, arXiv:2010.02502 eq. 12, 16): the bridge through x̂_0, with a share η of its noise.

    .. math:: x_s = α_s \hat x_0 + \sqrt{σ_s^2 - v}\,\hat ε + \sqrt{v} z, \quad v = η^2 σ_s^2 (1 - e^{λ_t - λ_s})

    At η = 0 it also runs upwards (inversion); from t = 0 itself there is no noise to scale, so start at ``t_min``.

    With ``eta="hat"`` it is the paper's σ̂: the mean of η = 1, and noise of the larger variance, that of q(x_t | x_s),
    which is 1 − ᾱ_t/ᾱ_s for processes that preserve variance; the step to clean data adds none.

    .. math:: \hatσ^2 = σ_t^2 (1 - e^{λ_t - λ_s})

    Args:
        eta: η in [0, 1]; 0 is deterministic, 1 is DDPM with β̃; or ``"hat"``.
    """

    eta: float | Literal["hat"] = 0.0
    needs = ScalarGaussian, "DDIM"

    def __post_init__(self) -> None:
        number = isinstance(self.eta, (int, float)) and not isinstance(self.eta, bool)
        if self.eta != "hat" and not (number and 0.0 <= self.eta <= 1.0):
            raise UserError(f"eta must lie in [0, 1] or be 'hat', got {self.eta!r}")

    def brownian_time(self, process: ScalarGaussian) -> Callable[[Tensor], Tensor]:
        return signal(process)

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        eta, t = 1.0 if self.eta == "hat" else float(self.eta), times[0]
        check_upwards(t, s, eta)
        a, b, v = process.bridge_coefficients(t, s, eta)
        if self.eta == "hat" and s > 0:
            here = torch.tensor(t, dtype=torch.float64)
            v = -process.sigma2(here) * torch.expm1(process.log_snr(t) - process.log_snr(s))
        return StepCoefficients(float(b), (float(a),), math.sqrt(float(v)))


@register(
    "samplers",
    "ddim-hat",
    title="DDIM, σ̂",
    arxiv="2010.02502",
    proof="exact: tests/laws; parity: tests/samplers/test_ddim_hat.py",
)
def DDIMHat() -> DDIM:
    """DDIM's σ̂ (arXiv:2010.02502 §5): the larger variance, which on a sub-sequence is much too large."""
    return DDIM("hat")


def signal(process: ScalarGaussian) -> Callable[[Tensor], Tensor]:
    """α²/σ²: the time in which the noise of the bridge is a Brownian motion's."""
    return lambda t: torch.exp(process.log_snr(t))


def check_upwards(t: float, s: float, eta: float) -> None:
    """Steps towards noise are deterministic and do not start at clean data."""
    if s > t:
        if eta:
            raise UserError(f"eta must be 0 for a grid that goes up (encoding is deterministic), got {eta}")
        if t == 0:
            raise UserError("grid must start above 0 to go up: at t = 0 there is no noise to scale (use process.t_min)")
