"""The way down of a U-Net, and a few numbers at its end: classifiers and discriminators of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .._registry import register
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import GROUP, Norm, fraction, integer, integers, zero
from .unet import Halving, conv, stage_of


@register(
    "nn",
    "encoder",
    title="Encoder of images: the way down of the U-Net",
    arxiv="2105.05233",
    proof="exact: tests/nn/test_encoder.py",
)
class Encoder(Halving):
    """Residual blocks at halving sizes, the mean over the last, and ``out_channels`` numbers (arXiv:2105.05233 §4).

    As :class:`~langevin.nn.unet.UNet` goes down; ``(x, time, condition) -> (B, out_channels)``.

    Args:
        channels: C of the image.
        out_channels: numbers returned: classes, or 1 of a discriminator.
        size: (height, width) it is trained at.
        width: channels at the full size are ``width · multipliers[0]``; a multiple of 8.
        multipliers: a factor a level.
        blocks: residual blocks a level.
        attention: sizes (of the shorter side) where the last block of a level has attention.
        dropout: share of features dropped in a block while training.
        conditions, text, pictures, time_range: see :class:`~langevin.nn.conditioning.Conditioning`.
    """

    name = "encoder"

    def __init__(
        self,
        channels: int = 3,
        out_channels: int = 1,
        *,
        size: Sequence[int] = (32, 32),
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        text: Mapping[str, Any] = NONE,
        pictures: Mapping[str, Any] = NONE,
        time_range: tuple[float, float] = (-3.0, 3.0),
    ) -> None:
        multipliers = integers("multipliers", multipliers, 1, 64, range(1, 11))
        size = integers("size", size, 1, 2**14, range(2, 3))
        attention = integers("attention", attention, 1, 2**14, range(0, 11))
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out_channels, 1, 10**6),
            size=size,
            width=integer("width", width, GROUP, 2**12, multiple=GROUP),
            multipliers=multipliers,
            blocks=integer("blocks", blocks, 1, 64),
            attention=attention,
            dropout=fraction("dropout", dropout),
            conditions=check_sizes(conditions, self.takes, pictures),
            pictures=pictures,
            text=text,
            time_range=time_range,
        )
        embedding = max(128, 4 * width)
        self.conditioning = Conditioning(embedding, conditions, time_range, text=text, pictures=pictures)
        sizes, context = self.set_levels(channels, size, len(multipliers), attention)
        wide = [width * m for m in multipliers]
        place = lambda level: blocks - 1 if sizes[level] in attention else -1
        self.stem = conv(channels + self.conditioning.planes, wide[0])
        self.stages = nn.ModuleList(
            stage_of(wide[level], blocks, place(level), embedding, dropout, context) for level in range(len(wide))
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(wide[level], wide[level + 1], 2, stride=2) for level in range(self.halvings)
        )
        self.norm, self.head = Norm(wide[-1]), zero(nn.Linear(wide[-1], out_channels))

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        return self.head(self.features(x, embedding, context).mean((2, 3)))

    def features(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        """The map ``(B, width · multipliers[-1], h, w)`` whose mean over places ``body`` makes its numbers of."""
        h = self.stages[0](self.stem(x), embedding, context)
        for shrink, stage in zip(self.shrink, list(self.stages)[1:]):
            h = stage(shrink(h), embedding, context)
        return F.silu(self.norm(h))
