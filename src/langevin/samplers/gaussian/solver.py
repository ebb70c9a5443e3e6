"""The Gaussian-remainder solver: the flow of the data's Gaussian in closed form, and only the rest by quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError, check_instance, check_integer, check_numbers
from ..._registry import register
from ...denoisers import Denoiser, gaussian_frame
from ...distributions import Dirac, Distribution, Noise
from ...numerics.frame import UNKNOWN_VARIANCE, GaussianFrame
from ...numerics.quadrature import SPARE
from ...processes import Process, ScalarGaussian, require
from ..linear.ddim import check_upwards
from ..linear.step import combine, earlier
from ..loop import OnGrid, Sampler, State, check_shared_time
from .guided import corrected_below, guided_frame, order_under
from .integrals import Remainder
from .noise_grid import CONSTANT, PURE, remainder_times, time_warp


@dataclass(frozen=True, eq=False)
class GaussianStep:
    r"""One step along the directions of a frame, with :math:`c = V^T (x - α m)`:

    .. math:: c_s = scale\, c_t + \sum_j w_j q_j + std\, V^T z, \quad q = a\, c_t + b\, V^T (\hat x_0 - m)

    Coefficients are ``(D,)``, or ``(1,)`` if all directions have the same variance.

    Attributes:
        alpha: α at both ends.
        scale: of c_t.
        weights: w_j, of q at t and then of earlier values, newest first.
        read: (a, b); None if the network is not asked.
        std: of the noise; None for none.
        gain: where the network is not asked, the Gaussian's own belief V^T(x̂_0 − m) is gain·c_t.
    """

    alpha: tuple[float, float]
    scale: Tensor
    weights: tuple[Tensor, ...] = ()
    read: tuple[Tensor, Tensor] | None = None
    std: Tensor | None = None
    gain: Tensor | None = None


class Memory(NamedTuple):
    """Times at which q is known and q there, newest first; the time from which nothing was asked yet, if there is."""

    times: tuple[float, ...] = ()
    values: tuple[Tensor, ...] = ()
    prefix: float | None = None


@register(
    "samplers", "remainder", title="Gaussian remainder", proof="exact: tests/samplers/test_remainder.py, tests/laws"
)
@dataclass(frozen=True)
class GaussianRemainder(OnGrid[ScalarGaussian]):
    r"""The flow of the Gaussian with the data's mean and covariance in closed form, the rest by multistep quadrature.

    With y = x/α, σ the noise-to-signal ratio, u = log σ, and along a direction of variance λ: S² = λ + σ², the flow is

    .. math:: \frac{dz}{du} = -\frac{Δ}{S}, \quad z = \frac{y - m}{S},
              \quad Δ = (\hat x_0 - m) - \frac{λ}{S^2} (y - m)

    Δ is what the network says beyond the Gaussian. −Δ/S is written as W q with :math:`W = σ^2/S^{1 + r}`, r from 2 to
    3.2 by what is known, so that q stays regular at both ends; q is interpolated by a polynomial in the ``time_warp``
    of the frame, and W times the polynomial is integrated exactly. When a new value arrives, the last two steps are
    integrated again with it, at no evaluation; not with noise, nor where ``guided`` says so. See docs/remainder.md.
    On its own grid (``default_grid``) the first step asks nothing: states far above the data's largest scale follow the
    Gaussian, and what that leaves out is added with the first value.

    Args:
        frame: mean and covariance of the data; by default those that travel with the model, or an assumption.
        order: of the interpolation, 1 to 4; by default 4, blended with 3 on sparse grids, and less under guidance.
        guidance_scale: w of a guided belief, ≥ 1 (``guided``); by default what the model says of itself.
        variance: assumed in every direction where nothing is known of the data.
        eta: share of the reverse SDE's noise, ≥ 0; with noise the order is at most 2, and nothing is integrated again.
        prefix: whether a first step from noise alone asks nothing.
    """

    frame: GaussianFrame | None = None
    order: int | None = None
    eta: float = 0.0
    prefix: bool = True
    guidance_scale: float | None = None
    variance: float = UNKNOWN_VARIANCE
    needs = ScalarGaussian, "the Gaussian-remainder solver"

    def __post_init__(self) -> None:
        if self.order is not None:
            check_integer("order", self.order, 1, 4)
        scale = 1.0 if self.guidance_scale is None else self.guidance_scale
        for name, value, least in (("eta", self.eta, 0), ("guidance_scale", scale, 1), ("variance", self.variance, 0)):
            check_numbers(**{name: value})
            if not least <= value < math.inf:
                raise UserError(f"{name} must be a finite number >= {least}, got {value}")
        if self.frame is not None:
            check_instance("frame", self.frame, GaussianFrame, "a GaussianFrame; samplers.estimate_moments makes one")

    def for_model(self, denoiser: Denoiser) -> GaussianRemainder:
        """The solver with the frame of this model's data, unless it has its own."""
        size, frame = math.prod(denoiser.shape), self.frame
        if frame is not None and len(frame.mean) != size:
            raise UserError(
                f"frame must be of {size} coordinates for data of shape {denoiser.shape}, got {len(frame.mean)}"
            )
        found = frame or gaussian_frame(denoiser) or _assumed(size, self.variance)
        scale = (1 + denoiser.extrapolation) / 2 if self.guidance_scale is None else self.guidance_scale
        order = order_under(scale) if self.order is None else self.order
        return replace(self, frame=found.on(denoiser.device), guidance_scale=scale, order=order)

    @property
    def wide(self) -> GaussianFrame:
        """The frame of guided states: that of the data, √w times as wide."""
        return guided_frame(self.frame or _assumed(1, self.variance), self.guidance_scale or 1.0)

    @property
    def order_used(self) -> int:
        """The order of the interpolation, which ``order`` or the guidance says; 2 at most with noise."""
        return min(self.order or order_under(self.guidance_scale or 1.0), 2 if self.eta else 4)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        check_integer("steps", steps, 1)
        gaussian: ScalarGaussian = require(process, ScalarGaussian, "the Gaussian-remainder solver")
        return remainder_times(gaussian, steps, self.wide, self.prefix)

    def plan(self, process: ScalarGaussian, grid: Tensor) -> Sampler:
        return self if self.frame is None else super().plan(process, grid)

    @property
    def history(self) -> int:
        """Values remembered: those of the stencils that the newest changes, and some for steps that leave out some."""
        used = self.order_used - 1 if self.eta else self.order_used
        return used + SPARE if used else 0

    def skips(self, process: ScalarGaussian, t: float, s: float, first: bool) -> bool:
        """Whether a step from t to s asks nothing: the first one, from a state that is noise alone."""
        return self.prefix and first and 0 < s < t and _ratio(process, t) > PURE * self.wide.largest

    def tabulate(self, process: ScalarGaussian, grid: tuple[float, ...]) -> Mapping[tuple[Any, ...], GaussianStep]:
        table: dict[tuple[Any, ...], GaussianStep] = {}
        times: tuple[float, ...] = ()
        prefix: float | None = None
        for t, s in itertools.pairwise(grid):
            step = table[t, times, prefix, s] = self.coefficients(process, t, times, prefix, s)
            if step.read is None:
                prefix = t
            else:
                times, prefix = (t, *times)[: self.history], None
        return table

    def coefficients(
        self, process: ScalarGaussian, t: float, past: tuple[float, ...], prefix: float | None, s: float
    ) -> GaussianStep:
        """The step from t to s, with q known at ``past``, newest first."""
        frame = self.wide
        check_upwards(t, s, self.eta)
        w = self.guidance_scale or 1.0
        weight = CONSTANT if self.eta or w > 1 else time_warp(frame).density.weight
        rest = Remainder(frame, self.order_used, self.eta, weight, corrected_below(frame, w))
        variances, kappa, device = rest.variances, 1 + self.eta**2, frame.mean.device
        tensor = lambda a: torch.as_tensor(a, dtype=torch.float64, device=device)
        ends = torch.tensor([t, s], dtype=torch.float64)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = process.alpha(ends).tolist(), process.sigma(ends).tolist()
        total_t, total_s = (np.sqrt(a**2 * variances + v**2) for a, v in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        # y − m goes with S^κ; α_s/α_t (S_s/S_t)^κ is written so that α_t = 0 does no harm.
        shrink = alpha_t * total_s / total_t / alpha_s if alpha_s > 0 else np.ones_like(variances)
        step = GaussianStep((alpha_t, alpha_s), tensor(total_s / total_t * shrink ** (kappa - 1)))
        if s == t:
            return replace(step, read=(tensor(0.0), tensor(0.0)))
        if self.eta:
            step = replace(step, std=tensor(total_s * np.sqrt(np.maximum(0.0, 1 - shrink ** (2 * self.eta**2)))))
        if self.skips(process, t, s, not past and prefix is None):
            return replace(step, gain=tensor(alpha_t * variances / total_t**2))
        here, there = _ratio(process, t), _ratio(process, s)
        if math.isinf(here):  # no signal at all: only the last step to data is asked from here, and returns x̂_0
            raise UserError("grid must start below t = 1 where α(1) = 0, or leave it in a first step that asks nothing")
        ratios = [*(_ratio(process, r) for r in reversed(past)), here]
        gains = rest.gains(ratios, None if prefix is None else _ratio(process, prefix), there)[::-1]
        used = 1 + max((j for j, gain in enumerate(gains) if gain.any()), default=0)
        outer = total_s * np.sqrt(variances + there**2) ** (kappa - 1)
        a, b = rest.read(alpha_t, here)
        return replace(step, weights=tuple(tensor(outer * gain) for gain in gains[:used]), read=(tensor(a), tensor(b)))

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        if self.frame is None:
            return self.for_model(denoiser).step(state, s, denoiser, noise)
        check_shared_time(state.t, s, "the Gaussian-remainder solver")
        x, t, frame, memory = state.x, float(state.t), self.frame, state.memory or Memory()
        past, values = earlier(memory.times, memory.values, t)
        k = self.looked_up(denoiser.process, t, past, memory.prefix, float(s))
        # The remainder is a difference of nearly equal numbers where there is much noise: float64 whatever x is.
        c = frame.to(x, k.alpha[0])
        belief: Distribution
        if k.read is None:
            belief = Dirac(frame.back(c * k.gain).to(x).reshape(x.shape))
            c = c * k.scale
            memory = memory._replace(prefix=t if memory.prefix is None else memory.prefix)
        else:
            belief = denoiser(x, state.t)
            q = torch.addcmul(c * k.read[0], frame.to(belief.mean), k.read[1])
            c = combine(k.scale, c, k.weights, (q, *values))
            memory = Memory((t, *past)[: self.history], (q, *values)[: self.history])
        if k.std is not None:
            c = c + k.std * frame.basis.to(noise.normal(tuple(x.shape[1:])).to(c).reshape(c.shape))
        return State(frame.back(c, k.alpha[1]).to(x).reshape(x.shape), s, memory, belief)


def _ratio(process: ScalarGaussian, t: float) -> float:
    """σ/α."""
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(process.alpha(at)), float(process.sigma(at))
    return sigma / alpha if alpha > 0 else math.inf


@lru_cache(maxsize=16)
def _assumed(size: int, variance: float) -> GaussianFrame:
    return GaussianFrame.unknown(size, variance)
