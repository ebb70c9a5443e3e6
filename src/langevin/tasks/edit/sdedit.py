"""SDEdit: noise a guide to a level, and come down from there by the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..._errors import check_integer
from ..._registry import register
from ...samplers import Blended
from .base import EditMethod, Request, composite


@register(
    "edit",
    "sdedit",
    title="SDEdit",
    arxiv="2108.01073",
    proof="exact: tests/tasks/test_edit.py; data: benchmarks/edit.py",
)
@dataclass(frozen=True)
class SDEdit(EditMethod):
    r"""SDEdit (Meng et al. 2021, arXiv:2108.01073 alg. 1 and, with a mask, alg. 3):

    .. math:: x_t = α_t\,x_{guide} + σ_t z, \qquad x_0 \sim p(x_0 | x_t) \text{ by the reverse SDE from } t

    With a mask the rest of the state is the noised image in every step. With ``repeats`` the result is the guide of
    the next pass. ``sampler`` is ancestral if none is named, which is the reverse SDE in steps; DDIM makes it the
    flow. On an exact belief and with the image for its guide the result has the law of the model if the image has.

    Args:
        repeats: K ≥ 1.
    """

    repeats: int = 1

    def __post_init__(self) -> None:
        check_integer("repeats", self.repeats, 1, 1000)

    @property
    def passes(self) -> int:
        return self.repeats

    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        rule = request.sampler or self.sampler()
        if request.free is not None:
            rule = Blended(rule, request.image, request.free)
        x = request.guide
        for number in range(self.repeats):
            x = composite(request.free, x, request.image)
            x = request.down(rule, request.raised(x, number), number)
        return x, request.free
