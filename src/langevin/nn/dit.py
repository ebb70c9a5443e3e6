"""The diffusion transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import Backbone, check_image
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import Attention, fraction, integer, zero


def positions(height: int, width: int, features: int, like: Tensor) -> Tensor:
    """Fixed 2-D sine–cosine positions ``(height · width, features)``: half for the row, half for the column."""
    frequency = torch.exp(torch.arange(features // 4, device=like.device) * (-4 * math.log(10.0) / (features // 4)))
    rows, columns = (torch.arange(n, device=like.device)[:, None] * frequency for n in (height, width))
    waves = [torch.cat([a.sin(), a.cos()], 1) for a in (rows, columns)]
    grid = [waves[0][:, None].expand(-1, width, -1), waves[1][None].expand(height, -1, -1)]
    return torch.cat(grid, 2).flatten(0, 1).to(like.dtype)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """x + g₁·attention(AdaLN(x)), then x + g₂·MLP(AdaLN(x)); scales, shifts and gates start at zero (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, ratio: int, dropout: float, context: int) -> None:
        super().__init__()
        self.affine = zero(nn.Linear(width, 6 * width))
        self.attention = Attention(width, heads, context)
        # The gate starts the branch at nothing; were the output layer zero too, neither would get a gradient.
        nn.init.xavier_uniform_(self.attention.out.weight)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(ratio * width, width),
        )

    def forward(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.affine(embedding).chunk(6, 1)
        x = x + gate1[:, None] * self.attention(modulate(x, scale1, shift1), context)
        return x + gate2[:, None] * self.mlp(modulate(x, scale2, shift2))


def stack_options(
    width: int, depth: int, heads: int, ratio: int, dropout: float, multiple: int = 1
) -> dict[str, int | float]:
    """The settings of a stack of blocks, checked; ``multiple`` is what else must divide the width."""
    options = {
        "width": integer("width", width, multiple, 2**14, multiple=multiple),
        "depth": integer("depth", depth, 1, 256),
        "heads": integer("heads", heads, 1, 256),
        "ratio": integer("ratio", ratio, 1, 16),
        "dropout": fraction("dropout", dropout),
    }
    if width % heads:
        raise UserError(f"heads must divide width = {width}, got {heads}")
    return options


@register(
    "nn",
    "dit",
    title="Diffusion transformer",
    arxiv="2212.09748",
    proof="exact: tests/nn/test_backbones.py::test_learns",
)
class DiT(Backbone):
    """Diffusion transformer with adaLN-Zero (arXiv:2212.09748) over patches of an image, any size patches divide.

    Positions are fixed waves. A sequence is read by every block: its tokens are further keys and values.

    Args:
        channels: C of the image.
        out_channels: channels of the output; None is C.
        patch: side of a patch.
        width: features of a token; a multiple of 4 and of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        ratio: hidden features of a block's MLP over ``width``.
        dropout: share of the MLP's hidden features dropped while training.
        conditions, text, pictures, time_range: see :class:`~langevin.nn.conditioning.Conditioning`.
    """

    name = "dit"

    def __init__(
        self,
        channels: int = 3,
        out_channels: int | None = None,
        *,
        patch: int = 2,
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        ratio: int = 4,
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        text: Mapping[str, Any] = NONE,
        pictures: Mapping[str, Any] = NONE,
        time_range: Sequence[float] = (-3.0, 3.0),
    ) -> None:
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out, 1, 10**4),
            patch=integer("patch", patch, 1, 256),
            **stack_options(width, depth, heads, ratio, dropout, multiple=4),
            conditions=check_sizes(conditions, self.takes, pictures),
            pictures=pictures,
            text=text,
            time_range=time_range,
        )
        self.channels, self.patch, self.width = channels, patch, width
        self.conditioning = Conditioning(width, conditions, time_range, text=text, pictures=pictures)
        self.stem = nn.Conv2d(channels + self.conditioning.planes, width, patch, stride=patch)
        context = width if self.conditioning.has_context else 0
        self.blocks = nn.ModuleList(Block(width, heads, ratio, dropout, context) for _ in range(depth))
        self.affine, self.head = zero(nn.Linear(width, 2 * width)), zero(nn.Linear(width, patch**2 * out))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        check_image(shape, self.channels, self.patch, f"cut into patches of {self.patch}")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = self.stem(x)
        height, width = h.shape[2:]
        h = h.flatten(2).transpose(1, 2)
        h = h + positions(height, width, self.width, h)
        for block in self.blocks:
            h = block(h, embedding, context)
        h = self.head(modulate(h, *self.affine(embedding).chunk(2, 1)))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (height, width)), self.patch)
