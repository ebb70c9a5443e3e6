"""Adaptive projected guidance: the difference of guidance, without what only raises contrast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser, Transform
from ..distributions import Dirac, Distribution
from ..processes import expand
from .classifier_free import sides
from .interval import Interval
from .pooling import Pooled, check_scale


@dataclass(frozen=True, eq=False)
class ProjectedGuidance(Pooled):
    """The conditional mean, moved along the projected difference to the other; see ``apg``.

    Attributes:
        scale, eta, norm_threshold: of ``apg``.
        momentum: added to the difference, shaped like x_0; None for none.
        seen: where the differences go, each with the momentum that was added; None for nowhere.
    """

    scale: float
    eta: float
    norm_threshold: float
    momentum: Tensor | None = None
    seen: list[Tensor] | None = None

    @property
    def extrapolation(self) -> float:
        return max(1.0, 2 * self.scale - 1) * super().extrapolation

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        other, conditional = (b.mean for b in beliefs)
        difference = conditional - other
        if self.momentum is not None:
            difference = difference + self.momentum
        if self.seen is not None:
            self.seen.append(difference)
        flat = difference.flatten(1)
        norm = flat.norm(dim=1)
        shrink = (self.norm_threshold / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
        difference = difference * expand(shrink, difference)
        flat, along = difference.flatten(1), conditional.flatten(1)
        square = along.square().sum(1).clamp_min(torch.finfo(norm.dtype).tiny)
        parallel = expand((flat * along).sum(1) / square, difference) * conditional
        return Dirac(conditional + (self.scale - 1) * (difference - parallel + self.eta * parallel))

    def rows(self, index: slice | Tensor) -> Denoiser:
        momentum = None if self.momentum is None else self.momentum[index]
        return replace(self, parts=tuple(p.rows(index) for p in self.parts), momentum=momentum)


@register(
    "guidance",
    "apg",
    title="Adaptive projected guidance",
    arxiv="2410.02416",
    proof="exact: tests/guidance/test_apg.py",
)
def apg(
    denoiser: Denoiser,
    condition: Mapping[str, Any] | None = None,
    /,
    *,
    guidance_scale: float,
    eta: float = 0.0,
    norm_threshold: float = math.inf,
    negative: Mapping[str, Any] | None = None,
    **named: Any,
) -> Denoiser:
    r"""Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416 eq. 5–9, alg. 1), on x̂_0:

    .. math::
        ΔD = D_c - D_u, \qquad
        ΔD ← ΔD \cdot \min(1, r / \|ΔD\|), \qquad
        ΔD_\parallel = \frac{⟨ΔD, D_c⟩}{⟨D_c, D_c⟩} D_c, \qquad
        D = D_c + (w - 1)(ΔD_\perp + η\, ΔD_\parallel)

    The part of the difference along D_c is what saturates images at large scales. With η = 1 and no threshold it is
    classifier-free guidance. The reverse momentum of the paper, :math:`ΔD_i ← ΔD_i + β\,\overline{ΔD}_{i-1}`, is a
    memory from step to step, which a denoiser has not: ``samplers.ReverseMomentum(sampler, beta)`` keeps it.

    Args:
        denoiser: one that can be asked without the condition, of real data.
        condition: what to bind, e.g. ``{"label": 3}``; or by keyword.
        guidance_scale: w; 1 is the plain conditional mean.
        eta: η, the share of the parallel part that stays; 0 in the paper.
        norm_threshold: r > 0, the largest norm of ΔD of a sample, in units of the data; infinite for none.
        negative: a condition to be led away from, in place of none.
    """
    scale = check_scale(guidance_scale=guidance_scale)
    check_numbers(eta=eta)
    check_numbers(False, norm_threshold=norm_threshold)
    if not norm_threshold > 0:
        raise UserError(f"norm_threshold must be > 0, got {norm_threshold}")
    other, conditional, names = sides(denoiser, condition, named, negative)
    if denoiser.process.discrete:
        raise UserError(f"apg needs a process of real data, got {type(denoiser.process).__name__}")
    return ProjectedGuidance((other, conditional), scale, float(eta), float(norm_threshold), names=names)


def with_momentum(denoiser: Denoiser, momentum: Tensor | None, seen: list[Tensor]) -> Denoiser:
    """The denoiser with a momentum added to the difference of its ``apg``, which may stand inside other functions.

    Args:
        denoiser: made by ``apg``, or by functions around it.
        momentum: β times the running difference, ``(B, *shape)``; None for none.
        seen: to which every evaluation appends the difference with its momentum.

    Raises:
        UserError: for a denoiser without ``apg``.
    """
    if isinstance(denoiser, ProjectedGuidance):
        return replace(denoiser, momentum=momentum, seen=seen)
    if isinstance(denoiser, Interval):
        return replace(denoiser, guided=with_momentum(denoiser.guided, momentum, seen))
    if isinstance(denoiser, Transform):
        return replace(denoiser, base=with_momentum(denoiser.base, momentum, seen))
    raise UserError(f"reverse momentum needs a denoiser under guidance.apg, got {type(denoiser).__name__}")
