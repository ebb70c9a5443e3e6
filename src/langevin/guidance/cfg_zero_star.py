"""CFG-Zero*: guidance of flows with an optimised scale, and no step where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Dirac, Distribution
from ..processes import ScalarGaussian, as_time, expand, require
from .classifier_free import sides
from .interval import noise_level
from .pooling import Pooled, check_scale


@dataclass(frozen=True, eq=False)
class ZeroStar(Pooled):
    """The mean whose velocity is the optimised combination of two; see ``cfg_zero_star``."""

    scale: float
    zero_above: float | None

    @property
    def extrapolation(self) -> float:
        return max(1.0, 2 * self.scale - 1) * super().extrapolation

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        t = as_time(t)
        if self.zero_above is None:
            return super().__call__(x_t, t)
        still = noise_level(self.process, t) >= self.zero_above
        if not bool(still.any()):
            return super().__call__(x_t, t)
        a, b = self._affine(t)
        rest = expand(-b / a, x_t) * x_t
        if bool(still.all()):
            return Dirac(rest)
        chosen = expand(still.to(torch.float64), x_t) > 0
        return Dirac(torch.where(chosen, rest, super().__call__(x_t, t).mean))

    def _affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the velocity a·x̂_0 + b·x_t."""
        process = require(self.process, ScalarGaussian, "CFG-Zero*")
        b = process.rate(process.sigma, t) / process.sigma(t)
        return process.rate(process.alpha, t) - b * process.alpha(t), b

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        a, b = (expand(c, x_t) for c in self._affine(t))
        other, conditional = (a * belief.mean + b * x_t for belief in beliefs)
        flat = other.flatten(1)
        square = flat.square().sum(1).clamp_min(torch.finfo(flat.dtype).tiny)
        best = expand((conditional.flatten(1) * flat).sum(1) / square, x_t)
        velocity = best * other + self.scale * (conditional - best * other)
        return Dirac((velocity - b * x_t) / a)


@register(
    "guidance",
    "cfg-zero-star",
    title="CFG-Zero*",
    arxiv="2503.18886",
    proof="exact: tests/guidance/test_cfg_zero_star.py",
)
def cfg_zero_star(
    denoiser: Denoiser,
    condition: Mapping[str, Any] | None = None,
    /,
    *,
    guidance_scale: float,
    zero_above: float | None = None,
    negative: Mapping[str, Any] | None = None,
    **named: Any,
) -> Denoiser:
    r"""CFG-Zero* (Fan et al. 2025, arXiv:2503.18886 alg. 1), in the velocity of the process's probability flow:

    .. math::
        v = (1 - w)\, s^* v_u + w\, v_c, \qquad s^* = \frac{⟨v_c, v_u⟩}{\|v_u\|^2}

    with s* that of each sample, which projects v_c on v_u; and zero-init: v = 0 at the first times, where a flow that
    is not yet learned leads the wrong way. There nothing is asked, and a step by the velocity stands still.

    Args:
        denoiser: one that can be asked without the condition, on a scalar-Gaussian process.
        condition: what to bind, e.g. ``{"label": 3}``; or by keyword.
        guidance_scale: w; 1 is the plain conditional mean.
        zero_above: the noise level σ/α at and above which v = 0; None for nowhere. For a flow, σ/α = t/(1 − t):
            ``math.inf`` is the first step alone, from t = 1, which is the paper's choice for few steps.
        negative: a condition to be led away from, in place of none.
    """
    scale = check_scale(guidance_scale=guidance_scale)
    if zero_above is not None:
        check_numbers(False, zero_above=zero_above)
        if not zero_above > 0:
            raise UserError(f"zero_above must be a noise level σ/α > 0, got {zero_above}")
    other, conditional, names = sides(denoiser, condition, named, negative)
    require(denoiser.process, ScalarGaussian, "CFG-Zero*")
    level = None if zero_above is None else float(zero_above)
    return ZeroStar((other, conditional), scale, level, names=names)
