"""The U-Net: residual blocks at several sizes, attention at some, one skip connection a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, check_instance
from .._registry import register
from .backbone import Backbone, check_image
from .conditioning import NONE, Conditioning, Context, check_sizes
from .dit import positions as places
from .layers import GROUP, Attention, Norm, fraction, integer, integers, waves, zero


def conv(channels: int, out: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, padding=size // 2)


class Block(nn.Module):
    r"""x + conv(SiLU(AdaGN(conv(SiLU(GN(x))), e))), then x + attention(GN(x)) if it has heads (arXiv:2105.05233).

    Both branches end in a layer that starts at zero, so the stream keeps its scale and needs no factor √½.
    """

    def __init__(self, channels: int, embedding: int, dropout: float, heads: int, context: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(channels), conv(channels, channels)
        self.norm2, self.conv2 = Norm(channels, embedding), zero(conv(channels, channels))
        self.dropout = nn.Dropout(dropout)
        if heads:
            self.norm3, self.attention = Norm(channels), Attention(channels, heads, context)
        self.heads = heads

    def forward(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.dropout(F.silu(self.norm2(h, embedding)))
        x = x + self.conv2(h)
        if self.heads:
            tokens = self.norm3(x).flatten(2).transpose(1, 2)
            x = x + self.attention(tokens, context).transpose(1, 2).reshape(x.shape)
        return x


class Stage(nn.ModuleList):
    """Blocks at one size."""

    def forward(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        for block in self:
            x = block(x, embedding, context)
        return x


def stage_of(channels: int, blocks: int, place: int, embedding: int, dropout: float, context: int) -> Stage:
    """Blocks of so many channels, of which that at ``place`` has attention, with heads of at least 32 features."""
    heads = max(h for h in range(1, max(1, channels // 32) + 1) if channels % h == 0)
    return Stage(Block(channels, embedding, dropout, heads if i == place else 0, context) for i in range(blocks))


class Halving(Backbone):
    """A backbone of images each of whose levels has half the size of the one before."""

    channels: int
    halvings: int
    patch: int = 1

    def set_levels(
        self, channels: int, size: tuple[int, ...], levels: int, attention: tuple[int, ...]
    ) -> tuple[list[int], int]:
        """The shorter side at each level, and the features of a context token, 0 for none.

        Raises:
            UserError: for a size that cannot be halved so often, attention at a size of no level, or none for tokens.
        """
        self.channels, self.halvings = channels, levels - 1
        self.check_shape((channels, *size))
        sizes = [min(size) // self.patch >> level for level in range(levels)]
        if not set(attention) <= set(sizes):
            raise UserError(f"attention must name sizes of the levels, {sizes}, got {attention}")
        if self.conditioning.has_context and not attention:
            raise UserError("sequences and captions are read by attention: give at least one attention size, got ()")
        return sizes, self.conditioning.time_out.out_features if self.conditioning.has_context else 0

    def check_shape(self, shape: tuple[int, ...]) -> None:
        times = "halved once" if self.halvings == 1 else f"halved {self.halvings} times"
        cut = "" if self.patch == 1 else f"cut into patches of {self.patch} and "
        check_image(shape, self.channels, self.patch * 2**self.halvings, cut + times)


@register(
    "nn",
    "unet",
    title="U-Net with adaptive group norm",
    arxiv="2105.05233",
    proof="exact: tests/nn/test_backbones.py::test_learns",
)
class UNet(Halving):
    """U-Net of residual blocks with adaptive group norm (ADM, arXiv:2105.05233; EDM, 2206.00364), for images.

    Level l works at size / 2^l with ``width · multipliers[l]`` channels. Going down it has ``blocks[l]`` blocks, going
    up as many; the smallest level has its blocks once. A level's skip is added to what comes up: joining by channels at
    every block, as published, costs a fifth more time and gave the same loss on small images.

    Args:
        channels: C of the image.
        out_channels: channels of the output; None is C.
        size: (height, width) it is trained at; places the attention, any other size the halvings allow may be fed.
        width: channels at the full size are ``width · multipliers[0]``; a multiple of 8. Multiples of 32 run fastest.
        multipliers: a factor a level.
        blocks: residual blocks, a number for all levels or one a level.
        attention: sizes (of the shorter side) where a level has attention, once going down and once going up, in the
            middle of its blocks. Heads have at least 32 features.
        dropout: share of features dropped in a block while training.
        patch: side of the squares of pixels that become channels before the first convolution and pixels behind the
            last (simple diffusion, arXiv:2301.11093 §3.3): the full size is then that of the patches, a quarter of the
            pixels for 2, which makes large images cheap.
        positions: add what says where a pixel stands, :func:`~langevin.nn.dit.positions`, behind the first convolution.
            Convolutions know no place but the border's, so what a caption says of one reaches a pixel far from it late.
        fourier: n of the waves sin 2ⁿπx, cos 2ⁿπx that are fed along with x (see ``waves``): 7, 8 for 8-bit images in
            the paper. They stand for levels of x itself: read the network with ``scale_input`` false.
        conditions, text, pictures, time_range: see :class:`~langevin.nn.conditioning.Conditioning`; tokens of a
            sequence or a caption are read by the attention layers.
    """

    name = "unet"

    def __init__(
        self,
        channels: int = 3,
        out_channels: int | None = None,
        *,
        size: Sequence[int] = (32, 32),
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int | Sequence[int] = 2,
        attention: Sequence[int] = (4,),
        dropout: float = 0.0,
        patch: int = 1,
        positions: bool = False,
        fourier: Sequence[int] = (),
        conditions: Mapping[str, int] = NONE,
        text: Mapping[str, Any] = NONE,
        pictures: Mapping[str, Any] = NONE,
        time_range: tuple[float, float] = (-3.0, 3.0),
    ) -> None:
        multipliers = integers("multipliers", multipliers, 1, 64, range(1, 11))
        levels = len(multipliers)
        counts = integers("blocks", [blocks] * levels if isinstance(blocks, int) else blocks, 1, 64, range(1, 11))
        if len(counts) != levels:
            raise UserError(f"blocks must be a number or one a level ({levels}), got {counts}")
        size = integers("size", size, 1, 2**14, range(2, 3))
        attention = integers("attention", attention, 1, 2**14, range(0, 11))
        patch = integer("patch", patch, 1, 64)
        check_instance("positions", positions, bool, "true or false")
        fourier = integers("fourier", fourier, 0, 16, range(0, 17))
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out, 1, 10**4),
            size=size,
            width=integer("width", width, GROUP, 2**12, multiple=GROUP),
            multipliers=multipliers,
            blocks=counts,
            attention=attention,
            dropout=fraction("dropout", dropout),
            **({"patch": patch} if patch != 1 else {}),
            **({"positions": True} if positions else {}),
            **({"fourier": fourier} if fourier else {}),
            conditions=check_sizes(conditions, self.takes, pictures),
            pictures=pictures,
            text=text,
            time_range=time_range,
        )
        embedding = max(128, 4 * width)
        self.conditioning = Conditioning(embedding, conditions, time_range, text=text, pictures=pictures)
        self.patch, self.positions = patch, positions
        sizes, context = self.set_levels(channels, size, levels, attention)
        wide = [width * m for m in multipliers]

        def stage(level: int) -> Stage:
            place = (counts[level] - 1) // 2 if sizes[level] in attention else -1
            return stage_of(wide[level], counts[level], place, embedding, dropout, context)

        halvings = range(self.halvings)
        self.fourier = fourier
        given = channels * (1 + 2 * len(fourier)) + self.conditioning.planes
        self.stem = conv(given * patch**2, wide[0])
        self.down = nn.ModuleList(stage(level) for level in halvings)
        self.shrink = nn.ModuleList(nn.Conv2d(wide[level], wide[level + 1], 2, stride=2) for level in halvings)
        self.middle = stage(self.halvings)
        self.grow = nn.ModuleList(conv(wide[level + 1], wide[level], 1) for level in halvings)
        self.up = nn.ModuleList(stage(level) for level in halvings)
        self.norm, self.head = Norm(wide[0]), zero(conv(wide[0], out * patch**2))

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        if self.fourier:
            x = torch.cat([waves(x[:, : self.channels], self.fourier), x[:, self.channels :]], 1)
        h, skips = self.stem(F.pixel_unshuffle(x, self.patch)), []
        if self.positions:
            h = h + places(h.shape[2], h.shape[3], h.shape[1], h).T.reshape(h.shape[1:])
        for stage, shrink in zip(self.down, self.shrink):
            h = stage(h, embedding, context)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h, embedding, context)
        for stage, grow in zip(reversed(self.up), reversed(self.grow)):
            # The 1x1 convolution runs before the enlargement: the same map at a quarter of the cost.
            h = skips.pop() + F.interpolate(grow(h), scale_factor=2.0, mode="nearest")
            h = stage(h, embedding, context)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)
