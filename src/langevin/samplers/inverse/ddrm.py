"""DDRM: a step in the coordinates of the operator's singular values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...operators import SVD
from ...processes import ScalarGaussian, expand
from ...processes.base import check_eta
from ..loop import Sampler, State
from .base import MeasuredSampler, check_share, level


@register(
    "samplers",
    "ddrm",
    title="Denoising diffusion restoration models",
    arxiv="2201.11793",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class DDRM(MeasuredSampler):
    r"""DDRM (Kawar et al. 2022, arXiv:2201.11793 eq. 7–8) in coordinates x̄ = Vᵀx of A = U S Vᵀ, with ȳ = S⁺Uᵀy.

    With σ the noise level σ_s/α_s of the step's end, σ_y the measurement's noise, and x̄_θ of x̂_0:

    .. math::
        \bar x_s \sim \begin{cases}
        N(\bar x_θ + \sqrt{1 - η^2}\, σ\, \bar ε_θ,\; η^2 σ^2) & s_i = 0 \\
        N(\bar x_θ + \sqrt{1 - η^2}\, σ \frac{\bar y - \bar x_θ}{σ_y / s_i},\; η^2 σ^2) & σ < σ_y / s_i \\
        N((1 - η_b)\, \bar x_θ + η_b\, \bar y,\; σ^2 - \frac{σ_y^2}{s_i^2} η_b^2) & σ ≥ σ_y / s_i
        \end{cases}

    where ε̄_θ = (x̄_t − x̄_θ)/(σ_t/α_t). ``start`` draws the first state with what is known of y.

    Args:
        measurement: by a linear operator that knows its singular values, with Gaussian noise.
        eta: η in [0, 1]; 0.85 in the paper.
        eta_b: η_b in [0, 1]; 1 in the paper.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.measurement.linear, self.measurement.std
        check_eta(self.eta)
        check_share(0.0, 1.0, eta_b=self.eta_b)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        super().for_model(denoiser)
        self.factors(tuple(denoiser.shape))
        return self

    def factors(self, shape: tuple[int, ...]) -> SVD:
        """The singular values of A.

        Raises:
            UserError: for an operator that does not know them.
        """
        known = self.measurement.linear.svd(shape)
        if known is None:
            raise UserError(
                f"operator must know its singular values for DDRM, got {self.measurement.operator!r}, which does not; "
                "DiffPIR and pigdm need none"
            )
        return known

    def _seen(self, x: Tensor) -> tuple[SVD, Tensor, Tensor, Tensor]:
        """The factors, where something is measured, ȳ, and σ_y/s_i."""
        known = self.factors(tuple(x.shape[1:]))
        values = known.values.to(x)
        seen = values > 1e-6 * values.max()
        inverse = torch.where(seen, 1 / values.clamp_min(1e-30), 0.0)
        y_bar = inverse * known.measured_to(self.rows(x).y.to(x))
        return known, seen, y_bar, self.measurement.std * inverse

    def start(self, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> Tensor:
        r"""The state at t = 1: N(ȳ, σ² − σ_y²/s_i²) where something is measured, N(0, σ²) elsewhere (eq. 7)."""
        process, one = denoiser.process, torch.ones((), dtype=torch.float64)
        z = process.prior(tuple(denoiser.shape)).sample(noise)
        known, seen, y_bar, std = self._seen(z)
        sigma, c = float(level(process, one)), known.to(z)
        scale = torch.sqrt((1 - (std / sigma) ** 2).clamp_min(0))
        return known.back(torch.where(seen, float(process.alpha(one)) * y_bar + scale * c, c))

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process, x = denoiser.process, state.x
        belief = denoiser(x, state.t)
        known, seen, y_bar, std = self._seen(x)
        mean, eps = known.to(belief.mean), known.to(process.noise(x, belief, state.t))
        sigma = level(process, s).to(x).reshape(-1, 1)
        z = known.to(noise.normal(tuple(x.shape[1:])).to(x))
        kept = (1 - self.eta**2) ** 0.5
        unseen = mean + kept * sigma * eps + self.eta * sigma * z
        coarse = mean + kept * sigma * (y_bar - mean) / std.clamp_min(1e-30) + self.eta * sigma * z
        left = torch.sqrt((sigma**2 - (std * self.eta_b) ** 2).clamp_min(0))
        fine = (1 - self.eta_b) * mean + self.eta_b * y_bar + left * z
        c = torch.where(seen, torch.where(sigma < std, coarse, fine), unseen)
        return state.move(expand(process.alpha(s), x) * known.back(c), s, belief=belief)
