"""Samplers made of the bridge and the whole belief: ancestral, DDPM, Analytic-DPM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser, dirac, gaussian_frame, identity, isotropic, unit
from ...distributions import Noise
from ...processes import Process, ScalarGaussian, expand
from ...processes.base import check_eta
from ..loop import Sampler, State
from .ddim import signal
from .step import Linear, StepCoefficients


@register(
    "samplers", "ancestral", title="Ancestral sampling, whole belief", arxiv="2006.11239", proof="exact: tests/laws"
)
@dataclass(frozen=True)
class Ancestral(Sampler):
    r"""x_s ~ E_belief[q_η(x_s | x_t, x_0)], for any process and any belief.

    With the true belief each step is exact, however long. The belief may be taken in part (``denoisers.dirac``,
    ``gaussian``, ``unit``, ``independent``), which gives DDPM and DDIM.

    Args:
        eta: η in [0, 1] of the bridge.
        belief: a function from denoisers to a denoiser, what of the belief is taken.
        final: at a last step to clean data, a ``"sample"`` of the law or its ``"mean"``. The mean shrinks the law
            by the variance of the last belief; DDPM's code does so.
    """

    eta: float = 1.0
    belief: Callable[[Denoiser], Denoiser] = identity
    final: Literal["sample", "mean"] = "sample"

    def __post_init__(self) -> None:
        check_eta(self.eta)
        if self.final not in ("sample", "mean"):
            raise UserError(f"final must be 'sample' or 'mean', got {self.final!r}")

    def __repr__(self) -> str:
        return f"Ancestral(eta={self.eta}, belief={self.belief.__name__}, final={self.final!r})"

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        std = ISOTROPIC.get(self.belief)
        if std is None or not isinstance(process, ScalarGaussian):
            return self
        return ScalarAncestral(self.eta, std, self.final == "mean").plan(process, grid)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        belief = self.belief(denoiser)(state.x, state.t)
        law = denoiser.process.reverse(state.x, belief, state.t, s, self.eta)
        if self.final == "mean" and bool((s == 0).any()):
            x = torch.where(expand(s, state.x) == 0, law.mean, law.sample(noise))
        else:
            x = law.sample(noise)
        return state.move(x, s, belief=belief)


ISOTROPIC: dict[Callable[[Denoiser], Denoiser], float] = {dirac: 0.0, unit: 1.0}
"""Beliefs that are the mean and the variance of isotropic normal data, and its standard deviation δ."""


@dataclass(frozen=True)
class ScalarAncestral(Linear[ScalarGaussian]):
    r"""Ancestral sampling from N(x̂_0, c), :math:`c = δ^2 σ^2 / (δ^2 α^2 + σ^2)`: a row a step.

    .. math:: x_s = a \hat x_0 + b x_t + \sqrt{v + a^2 c}\, z

    Args:
        eta: η in [0, 1] of the bridge.
        std: δ ≥ 0; 0 is a known x_0.
        mean: whether a last step to clean data returns the mean.
    """

    eta: float
    std: float
    mean: bool
    needs = ScalarGaussian, "ancestral sampling by rows"

    def brownian_time(self, process: ScalarGaussian) -> Callable[[Tensor], Tensor]:
        return signal(process)

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        t = torch.tensor(times[0], dtype=torch.float64)
        a, b, v = (float(c) for c in process.bridge_coefficients(t, s, self.eta))
        alpha2, sigma2 = float(process.alpha(t)) ** 2, float(process.sigma2(t))
        variance = self.std**2 * sigma2 / (self.std**2 * alpha2 + sigma2) if self.std else 0.0
        return StepCoefficients(b, (a,), 0.0 if self.mean and s == 0 else math.sqrt(v + a**2 * variance))


@register(
    "samplers",
    "ddpm",
    title="DDPM, variance β̃",
    arxiv="2006.11239",
    proof="exact: tests/laws; parity: tests/samplers/test_parity.py",
)
def DDPM() -> Ancestral:
    r"""DDPM with the small variance :math:`\tilde β` (arXiv:2006.11239 eq. 6–7, 11): a Dirac belief at x̂_0."""
    return Ancestral(belief=dirac)


@register(
    "samplers",
    "ddpm-large",
    title="DDPM, variance β",
    arxiv="2006.11239",
    proof="exact: tests/laws; parity: tests/samplers/test_parity.py",
)
def DDPMLarge() -> Ancestral:
    r"""DDPM with the large variance β: belief variance :math:`σ^2/(α^2+σ^2)`; the last step returns the mean."""
    return Ancestral(belief=unit, final="mean")


@register(
    "samplers",
    "ml-sde",
    title="Maximum-likelihood SDE solver",
    arxiv="2109.13821",
    proof="exact: tests/samplers/test_maximum_likelihood.py, tests/laws",
)
def MaximumLikelihoodSDE(std: float | None = None) -> Ancestral:
    r"""The reverse step of greatest likelihood of forward paths (Popov et al. 2021, arXiv:2109.13821, theorem 1).

    .. math:: x_{t-h} = x_t + β_t h ((\tfrac12 + \hatω^*) x_t + (1 + \hatκ^*) s(x_t, t)) + \hatσ^* ξ

    Its optimal κ̂* and ω̂* are the mean of ``reverse``, and its σ̂* has the variance of ``reverse`` for a belief of
    variance E tr Var[x_0 | x_t] / D. That is ancestral sampling: from ``denoisers.analytic`` with the variance of a
    calibrated model, here with that of isotropic normal data in closed form, for which the step is exact at any length.

    Args:
        std: standard deviation of the data a coordinate, ≥ 0, in units of the data; 0 is a known x_0 (β̃). That of the
            model's moments if not given.
    """

    def normal_data(denoiser: Denoiser) -> Denoiser:
        if std is not None:
            return isotropic(denoiser, std)
        frame = gaussian_frame(denoiser)
        if frame is None:
            raise UserError(
                "std must be given to 'ml-sde': this model does not know the mean and covariance of its data"
            )
        return isotropic(denoiser, frame.std)

    if std is not None and not 0 <= std < math.inf:
        raise UserError(f"std must be a finite number >= 0, got {std}")
    return Ancestral(belief=normal_data)
