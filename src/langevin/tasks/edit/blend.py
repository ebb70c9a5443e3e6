"""Blended diffusion: inside a mask the model's states, outside it those of the noised image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..._registry import register
from ...samplers import Blended
from .base import EditMethod, Request


@register(
    "edit",
    "blend",
    title="Blended (latent) diffusion",
    arxiv="2111.14818, 2206.02779",
    proof="exact: tests/tasks/test_edit.py; data: benchmarks/edit.py",
)
@dataclass(frozen=True)
class Blend(EditMethod):
    r"""Blended diffusion (Avrahami et al. 2021, arXiv:2111.14818 alg. 2; of codes 2206.02779 alg. 1):

    .. math:: x_s \leftarrow m \odot x_s + (1 - m) \odot y_s, \qquad y_s \sim q(y_s | y)

    with y the image. What steers the inside is the condition (or any guidance of the denoiser), in the paper's case the
    gradient of CLIP. The last blend is with y itself: known pixels come back as they are. Of a latent model the mask is
    brought to the size of the codes (a code may change where any of its pixels may), and the decoded image is blended
    with y at the end. With one pass and the image for its guide SDEdit with a mask is the same algorithm.
    """

    needs_mask: ClassVar[bool] = True

    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        assert request.free is not None
        rule = Blended(request.sampler or self.sampler(), request.image, request.free)
        return request.down(rule, request.raised(request.guide)), request.free
