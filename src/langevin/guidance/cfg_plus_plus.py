"""CFG++: guidance that stays on the manifold of data, as a scale that depends on the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Dirac, Distribution
from ..processes import ScalarGaussian, expand, require
from .classifier_free import sides
from .pooling import Pooled

NEAR = 1e-9
"""Times nearer to one of the grid than this are that one."""


@dataclass(frozen=True, eq=False)
class StepScaled(Pooled):
    """Classifier-free guidance with a scale at each time of a grid."""

    times: Tensor
    scales: Tensor

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        apart = (t.cpu()[..., None] - self.times).abs()
        nearest = apart.min(-1)
        if bool((nearest.values > NEAR).any()):
            off = float(t.cpu().reshape(-1)[int(nearest.values.reshape(-1).argmax())])
            raise UserError(
                f"t must be a time of the grid that cfg_plus_plus was made for, at which a step starts, got {off:g}; "
                "its scale is that of a step, so samplers that ask between the times of the grid have none"
            )
        scale = expand(self.scales[nearest.indices], x_t)
        other, conditional = (b.mean for b in beliefs)
        return Dirac(other + scale * (conditional - other))


@register(
    "guidance",
    "cfg-plus-plus",
    title="CFG++",
    arxiv="2406.08070",
    proof="exact: tests/guidance/test_cfg_plus_plus.py",
)
def cfg_plus_plus(
    denoiser: Denoiser,
    condition: Mapping[str, Any] | None = None,
    /,
    *,
    scale: float,
    grid: Tensor | Sequence[float],
    negative: Mapping[str, Any] | None = None,
    **named: Any,
) -> Denoiser:
    r"""CFG++ (Chung et al. 2024, arXiv:2406.08070 alg. 2): guided clean data, noised again by the unconditional ε.

    .. math:: x_s = α_s \big(\hat x_u + λ(\hat x_c - \hat x_u)\big) + σ_s\, \hat ε_u

    For DDIM's step from t to s, :math:`x_s = (α_s - σ_s α_t/σ_t)\,\hat x_0' + (σ_s/σ_t)\, x_t`, that is ordinary
    classifier-free guidance with the scale

    .. math:: w_{t \to s} = \frac{λ}{1 - σ_s α_t / (σ_t α_s)}

    which is λ where a step removes all noise, and large where steps are small. So it is a belief for a grid: any
    sampler may use it that asks at the times of the grid alone, and with DDIM it is the published update.

    Args:
        denoiser: one that can be asked without the condition, on a scalar-Gaussian process.
        condition: what to bind, e.g. ``{"label": 3}``; or by keyword.
        scale: λ in [0, 1]; the paper's, not a guidance scale.
        grid: the times of the sampler's steps, decreasing: give the same to ``sample(…, grid=grid)``.
        negative: a condition to be led away from, in place of none.
    """
    check_numbers(scale=scale)
    if not 0 <= scale <= 1:
        raise UserError(f"scale must lie in [0, 1], CFG++'s λ and no guidance scale, got {scale}")
    other, conditional, names = sides(denoiser, condition, named, negative)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "CFG++")
    try:
        times = torch.as_tensor(grid, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"grid must be decreasing times in [0, 1], got {shown(grid)}") from None
    inside = times.ndim == 1 and len(times) > 1 and bool(((times >= 0) & (times <= 1)).all())
    if not inside or not bool((times.diff() < 0).all()):
        raise UserError(f"grid must be at least two decreasing times in [0, 1], got {shown(grid)}")
    t, s = times[:-1], times[1:]
    scales = scale / (1 - process.sigma(s) * process.alpha(t) / (process.sigma(t) * process.alpha(s)))
    return StepScaled((other, conditional), t, scales, names=names)
