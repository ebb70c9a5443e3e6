"""DiffPIR: a proximal step on the predicted clean data, then back to the noise of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..._errors import check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Noise
from ...processes import ScalarGaussian, expand
from ..loop import State
from .base import MeasuredSampler, check_share, level, proximal


@register(
    "samplers",
    "diffpir",
    title="DiffPIR: plug-and-play restoration",
    arxiv="2305.08995",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class DiffPIR(MeasuredSampler):
    r"""DiffPIR (Zhu et al. 2023, arXiv:2305.08995 alg. 1, eq. 12–13):

    .. math::
        \hat x_0' &= \mathrm{arg}\min_x \|y - A(x)\|^2 + ρ_t \|x - \hat x_0\|^2, \qquad ρ_t = λ\, s^2 / (σ_t/α_t)^2 \\
        \hat ε &= (x_t - α_t \hat x_0') / σ_t \\
        x_s &= α_s \hat x_0' + σ_s (\sqrt{1 - ζ}\, \hat ε + \sqrt{ζ}\, z)

    Where A is linear the minimum is one solve (s = 0: the nearest point that fits y); else ``inner`` steps of descent.
    It moves towards the most probable image of a local Gaussian, so its samples vary too little.

    Args:
        measurement: with Gaussian noise of standard deviation s.
        lam: λ > 0, the weight of the prior; 1 is Bayes' rule for a belief of variance (σ_t/α_t)². 7 or so in the paper.
        zeta: ζ in [0, 1], the share of fresh noise; 0.3 or so in the paper.
        inner: steps of descent for an operator that is not linear, ≥ 1.
    """

    lam: float = 7.0
    zeta: float = 0.3
    inner: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.measurement.std
        check_share(1e-12, math.inf, lam=self.lam)
        check_share(0.0, 1.0, zeta=self.zeta)
        check_integer("inner", self.inner, 1)

    def fitted(self, mean: Tensor, t: Tensor, process: ScalarGaussian) -> Tensor:
        """x̂_0', the predicted clean data moved towards the measurement."""
        weight = self.lam * self.measurement.std**2 / level(process, t) ** 2
        return proximal(self.rows(mean), mean, weight, steps=self.inner)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process, x = denoiser.process, state.x
        belief = denoiser(x, state.t)
        fitted = self.fitted(belief.mean, state.t, process)
        eps = process.noise(x, Dirac(fitted), state.t)
        z = noise.normal(tuple(x.shape[1:])).to(x)
        sigma = expand(process.sigma(s), x)
        x = expand(process.alpha(s), x) * fitted + sigma * (math.sqrt(1 - self.zeta) * eps + math.sqrt(self.zeta) * z)
        return state.move(x, s, belief=belief)
