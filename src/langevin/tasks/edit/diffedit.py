"""DiffEdit: the mask is where two conditions disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, check_numbers
from ..._registry import register
from ...denoisers import Denoiser, batched
from ...distributions import Noise, Stream
from ...processes import ScalarGaussian, require
from ...processes.grids import time_of_level
from ...samplers import DDIM, Blended, Replayed, Sampler, encoded
from .base import EditMethod, Request

EXTREME = 3.0
"""Contrasts beyond so many times their mean count as this: one pixel must not set the scale of all."""


def contrast(target: Denoiser, source: Denoiser, image: Tensor, level: float, noises: int, noise: Noise) -> Tensor:
    r"""Where two conditions disagree about an image (arXiv:2210.11427 §3.2, step 1), in [0, 1], ``(B, *shape)``:

    .. math:: \frac1n \sum_i \left| \hat ε(x_t^{(i)}, y) - \hat ε(x_t^{(i)}, y') \right|, \quad x_t^{(i)} \sim q(x_t|x)

    averaged over channels, cut at ``EXTREME`` times its mean over the image, and divided by its largest value.

    Args:
        target, source: the beliefs under the two conditions.
        image: clean, ``(B, *shape)``.
        level: σ/α of x_t.
        noises: n.
        noise: of these samples.
    """
    process = require(target.process, ScalarGaussian, "a contrast of two conditions")
    t = time_of_level(process, level, "level")
    total = torch.zeros_like(image)
    for i in range(noises):
        x = process.marginal(image, t).sample(noise.fold_in(Stream.CONTRAST + i)).to(image)
        new, old = (process.noise(x, belief, t) for belief in batched((target, source), x, t))
        total += (new - old).abs() / noises
    if total.ndim == 4:
        total = total.mean(1, keepdim=True).expand_as(total)
    flat = total.flatten(1)
    flat = torch.minimum(flat, EXTREME * flat.mean(1, keepdim=True))
    return (flat / flat.amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)).reshape(image.shape)


@register(
    "edit",
    "diffedit",
    title="DiffEdit",
    arxiv="2210.11427",
    proof="exact: tests/tasks/test_edit.py; data: benchmarks/edit.py",
)
@dataclass(frozen=True)
class DiffEdit(EditMethod):
    """DiffEdit (Couairon et al. 2022, arXiv:2210.11427): a mask by contrast, then a masked decoding.

    1. The mask is where ``contrast`` of the condition asked for and ``source`` reaches ``threshold``; inside a mask
       that is given, if one is.
    2. DDIM encodes the image up to the level of the edit, without a condition.
    3. DDIM decodes under the condition; outside the mask each state is replaced by that of the encoding.

    Args:
        noises: n ≥ 1 of the mask; 10 in the paper.
        level: σ/α at which the mask is made; 1.6 is the middle of Stable Diffusion's table, the paper's 50 %.
        threshold: in (0, 1); 0.5 in the paper.
        encode: whether steps 2 and 3 go through the encoding; else the known part is drawn from q(y_s | y) as in
            ``blend``, and the encoding's evaluations are saved.
        fixed_point: iterations of the encoding, see ``samplers.encode``.
    """

    compares: ClassVar[bool] = True
    noises: int = 10
    level: float = 1.6
    threshold: float = 0.5
    encode: bool = True
    fixed_point: int = 0

    def __post_init__(self) -> None:
        check_integer("noises", self.noises, 1, 1000)
        check_integer("fixed_point", self.fixed_point, 0)
        check_numbers(level=self.level, threshold=self.threshold)
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold must lie in (0, 1), got {self.threshold}")

    def sampler(self) -> Sampler:
        return DDIM()

    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        rule = request.sampler or self.sampler()
        share = contrast(request.denoiser, request.source, request.image, self.level, self.noises, request.noise)
        free = share >= self.threshold
        if request.free is not None:
            free = free & request.free
        if not self.encode:
            return request.down(Blended(rule, request.image, free), request.raised(request.guide)), free
        if len(request.times) < 3:
            raise UserError("strength must leave two steps of the grid or more for DiffEdit; take more steps")
        states = encoded(request.plain, request.image, sampler=rule, grid=request.times, fixed_point=self.fixed_point)
        known = {float(state.t): state.x for state in states}
        return request.down(Replayed(rule, request.image, free, known), states[-1].x), free


@register(
    "edit",
    "diffedit-fast",
    title="DiffEdit, the mask of one pass and no encoding",
    arxiv="2210.11427",
    proof="exact: tests/tasks/test_edit.py; data: benchmarks/edit.py",
)
def DiffEditFast(noises: int = 1, level: float = 1.6, threshold: float = 0.5) -> DiffEdit:
    """DiffEdit in half its evaluations: the contrast of one noise, and ``blend`` in place of the encoding."""
    return DiffEdit(noises, level, threshold, encode=False)
