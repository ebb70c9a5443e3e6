"""A transformer for sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import Backbone
from .conditioning import NONE, Conditioning, Context, check_sizes
from .dit import Block, modulate, stack_options
from .layers import integer, zero


@register(
    "nn",
    "transformer",
    title="Bidirectional transformer for sequences",
    arxiv="1706.03762",
    proof="exact: tests/nn/test_backbones.py::test_learns",
)
class Transformer(Backbone):
    """The blocks of ``dit`` over a sequence ``(B, channels, length)``, each place reading every other.

    A convolution of 5 places comes first: attention alone stands for hundreds of steps at how often each token occurs,
    before it finds that neighbours matter. Places are learned; time and conditions enter by
    adaLN-Zero (arXiv:2212.09748). For tokens of an image, ``dit`` with patches of 1 is the same in the plane.

    Args:
        channels: features of a token: S for tokens that come one-hot.
        out_channels: features of the output; None is ``channels``.
        length: L ≥ 1, the number of places.
        width: features inside; a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        ratio: hidden features of a block's MLP over ``width``.
        dropout: share of the MLP's hidden features dropped while training.
        conditions, text, pictures, time_range: see :class:`~langevin.nn.conditioning.Conditioning`.
    """

    name = "transformer"
    takes = ("label", "caption", "vector", "sequence")

    def __init__(
        self,
        channels: int = 2,
        out_channels: int | None = None,
        *,
        length: int = 64,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        ratio: int = 4,
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        text: Mapping[str, Any] = NONE,
        pictures: Mapping[str, Any] = NONE,
        time_range: Sequence[float] = (-3.0, 3.0),
    ) -> None:
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels=integer("channels", channels, 1, 10**5),
            out_channels=integer("out_channels", out, 1, 10**5),
            length=integer("length", length, 1, 10**5),
            **stack_options(width, depth, heads, ratio, dropout),
            conditions=check_sizes(conditions, self.takes, pictures),
            pictures=pictures,
            text=text,
            time_range=time_range,
        )
        self.shape = (channels, length)
        self.conditioning = Conditioning(width, conditions, time_range, text=text, pictures=pictures)
        self.stem = nn.Conv1d(channels, width, 5, padding=2)
        self.places = nn.Parameter(torch.randn(length, width) * width**-0.5)
        context = width if self.conditioning.has_context else 0
        self.blocks = nn.ModuleList(Block(width, heads, ratio, dropout, context) for _ in range(depth))
        self.affine, self.head = zero(nn.Linear(width, 2 * width)), zero(nn.Linear(width, out))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.shape:
            raise UserError(f"shape must be {self.shape} for this network, features and places, got {tuple(shape)}")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = self.stem(x).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, embedding, context)
        return self.head(modulate(h, *self.affine(embedding).chunk(2, 1))).transpose(1, 2)
