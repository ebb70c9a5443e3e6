"""A residual network for points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import Backbone
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import fraction, integer, zero


class Block(nn.Module):
    """x + W₂ SiLU(W₁ SiLU(γ·LN(x) + β)), γ and β from the embedding; W₂ starts at zero."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.affine = nn.Linear(embedding, 2 * width)
        self.inner, self.outer = nn.Linear(width, width), zero(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding).chunk(2, 1)
        h = F.layer_norm(x, x.shape[1:]) * (1 + scale) + shift
        return x + self.outer(self.dropout(F.silu(self.inner(F.silu(h)))))


@register("nn", "mlp", title="Residual MLP", arxiv="2006.10739", proof="exact: tests/nn/test_backbones.py::test_learns")
class MLP(Backbone):
    """Residual MLP for points ``(B, D)``, D up to a few hundred; the time comes as Fourier features (arXiv:2006.10739).

    Args:
        channels: D, coordinates of a point.
        out_channels: coordinates of the output; None is D.
        width: features of a layer.
        depth: residual blocks, of two layers each.
        dropout: share of features dropped in a block while training.
        conditions, pictures, time_range: see :class:`~langevin.nn.conditioning.Conditioning`.
    """

    name = "mlp"
    takes = ("label", "vector")

    def __init__(
        self,
        channels: int = 2,
        out_channels: int | None = None,
        *,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        pictures: Mapping[str, Any] = NONE,
        time_range: tuple[float, float] = (-3.0, 3.0),
    ) -> None:
        super().__init__(
            channels=integer("channels", channels, 1, 10**5),
            out_channels=integer("out_channels", channels if out_channels is None else out_channels, 1, 10**5),
            width=integer("width", width, 1, 2**14),
            depth=integer("depth", depth, 1, 256),
            dropout=fraction("dropout", dropout),
            conditions=check_sizes(conditions, self.takes, pictures),
            pictures=pictures,
            time_range=time_range,
        )
        out = self.config["out_channels"]
        self.channels = channels
        self.conditioning = Conditioning(width, conditions, time_range, pictures=pictures)
        self.stem = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(Block(width, width, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), zero(nn.Linear(width, out))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != (self.channels,):
            raise UserError(f"shape must be ({self.channels},) for this network, a point, got {tuple(shape)}")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(F.silu(self.norm(h)))
