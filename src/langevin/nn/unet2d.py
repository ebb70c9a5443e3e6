"""The U-Net of DDPM, block for block as diffusers has it, so that its weights can go there and come from there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import check_image
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import attention as attend
from .layers import fraction, integer, integers, zero
from .unet import Halving, conv

EPS = 1e-5
"""ε in the denominator of every group norm."""

NARROW = 100.0
"""Ranges of time inputs below this width are stretched to a thousand; others are indices of a table, or 1000·t."""


def sinusoids(time: Tensor, features: int) -> Tensor:
    r"""cos, then sin, of :math:`n · 10^{-4 i / h}` for i < h = features/2, in float32 (arXiv:1706.03762 §3.5)."""
    half = features // 2
    frequency = torch.exp(torch.arange(half, device=time.device, dtype=torch.float32) * (-math.log(1e4) / half))
    angle = time.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class TimeAndClass(Conditioning):
    """The embedding of DDPM: two layers on sinusoids of the index of the time, and the class added.

    Args:
        width: features of the embedding.
        features: of the sinusoids.
        conditions: ``label`` alone.
        time_range: where the time input lies.
    """

    def __init__(self, width: int, features: int, conditions: Mapping[str, int], time_range: Sequence[float]) -> None:
        super().__init__(width, conditions, time_range, takes=("label",))
        self.features = features
        self.time_in = nn.Linear(features, width)

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        low, high = self.time_range
        index = time if high - low >= NARROW else (time - low) * (1000 / (high - low))
        waves = sinusoids(index.clamp(-1e5, 1e5), self.features).to(self.time_in.weight.dtype)
        e = self.time_out(F.silu(self.time_in(waves)))
        if classes := self.sizes.get("label"):
            label = condition.get("label")
            none = torch.full_like(time, classes, dtype=torch.int64)
            e = e + self.label(none if label is None else torch.where(label < 0, none, label.long()))
        return F.silu(e), None


class Residual(nn.Module):
    """shortcut(x) + conv(SiLU(GN(conv(SiLU(GN(x))) + W e))) (arXiv:2006.11239, appendix B)."""

    def __init__(self, channels: int, out: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels, eps=EPS), conv(channels, out)
        self.time_emb_proj = nn.Linear(embedding, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps=EPS), zero(conv(out, out))
        self.dropout = nn.Dropout(dropout)
        self.conv_shortcut = conv(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Places(nn.Module):
    """x + attention over all places of GN(x)."""

    def __init__(self, channels: int, head: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([zero(nn.Linear(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        out = self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(x.shape)


class Resampling(nn.Module):
    """A 3 × 3 convolution that halves the size, or that follows a doubling."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class Level(nn.Module):
    """Residual blocks at one size, attention behind each if there is any, and a change of size at the end.

    Args:
        widths: (in, out) channels of each residual block.
        head: features of an attention head, 0 for no attention.
        resample: ``down``, ``up`` or nothing.
    """

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        embedding: int,
        groups: int,
        dropout: float,
        head: int,
        resample: str | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Residual(a, b, embedding, groups, dropout) for a, b in widths)
        self.attentions = nn.ModuleList(Places(b, head, groups) for _, b in widths) if head else None
        last = widths[-1][1]
        self.downsamplers = nn.ModuleList([Resampling(last, False)]) if resample == "down" else None
        self.upsamplers = nn.ModuleList([Resampling(last, True)]) if resample == "up" else None

    def block(self, i: int, x: Tensor, embedding: Tensor) -> Tensor:
        """Residual block i, and its attention."""
        x = self.resnets[i](x, embedding)
        return x if self.attentions is None else self.attentions[i](x)

    def resample(self, x: Tensor) -> Tensor:
        """x at the size of the next level."""
        for layers in (self.downsamplers, self.upsamplers):
            if layers is not None:
                x = layers[0](x)
        return x


class Middle(nn.Module):
    """A residual block, attention, and another, at the smallest size."""

    def __init__(self, channels: int, embedding: int, groups: int, dropout: float, head: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Residual(channels, channels, embedding, groups, dropout) for _ in range(2))
        self.attentions = nn.ModuleList([Places(channels, head, groups)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, embedding)), embedding)


@register(
    "nn",
    "unet2d",
    title="U-Net of DDPM, with diffusers' blocks",
    arxiv="2006.11239",
    proof="parity: tests/nn/test_unet2d.py",
)
class UNet2D(Halving):
    """The U-Net of DDPM (arXiv:2006.11239) with the blocks of diffusers' ``UNet2DModel``, which a model can become.

    Level l works at size / 2^l with ``width · multipliers[l]`` channels and ``blocks`` residual blocks going down, one
    more going up, where each takes a skip connection. ``unet`` is faster and learns as well; this one is for models
    that go to diffusers (``langevin export``). The class is added to the embedding of the time.

    Args:
        channels: C of the image.
        out_channels: channels of the output; None is C.
        size: (height, width) it is trained at; places the attention, any other size the halvings allow may be fed.
        width: channels at the full size are ``width · multipliers[0]``; a multiple of ``groups``.
        multipliers: a factor a level.
        blocks: residual blocks of a level going down.
        attention: sizes (of the shorter side) where there is attention behind every block; the smallest has some in its
            middle always.
        head: features of an attention head, a divisor of the channels where there is attention.
        groups: groups of every group norm.
        dropout: share of features dropped in a block while training.
        conditions: ``label`` alone, the number of classes.
        time_range: where the time input lies. An index of a table, or 1000·t, is taken as it is, as diffusers
            does; a narrow range, such as that of t, is stretched to a thousand.
    """

    name = "unet2d"
    takes = ("label",)

    def __init__(
        self,
        channels: int = 3,
        out_channels: int | None = None,
        *,
        size: Sequence[int] = (32, 32),
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        head: int = 32,
        groups: int = 8,
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        time_range: Sequence[float] = (-3.0, 3.0),
    ) -> None:
        multipliers = integers("multipliers", multipliers, 1, 64, range(1, 11))
        size = integers("size", size, 1, 2**14, range(2, 3))
        attention = integers("attention", attention, 1, 2**14, range(0, 11))
        groups = integer("groups", groups, 1, 2**10)
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out, 1, 10**4),
            size=size,
            width=integer("width", width, 2, 2**12, multiple=groups),
            multipliers=multipliers,
            blocks=integer("blocks", blocks, 1, 64),
            attention=attention,
            head=integer("head", head, 1, 2**12),
            groups=groups,
            dropout=fraction("dropout", dropout),
            conditions=check_sizes(conditions, self.takes),
            time_range=time_range,
        )
        wide = [width * m for m in multipliers]
        embedding = 4 * wide[0]
        self.conditioning = TimeAndClass(embedding, wide[0], conditions, time_range)
        sizes, _ = self.set_levels(channels, size, len(multipliers), attention)
        heads = [head if side in attention else 0 for side in sizes]
        for c in {wide[-1], *(c for c, h in zip(wide, heads) if h)}:
            if c % head:
                raise UserError(f"head must divide the channels where there is attention, {c}, got {head}")
        if wide[0] % 2:
            raise UserError(f"width times the first multiplier must be even, got {wide[0]}")

        last = len(wide) - 1
        self.conv_in = conv(channels, wide[0])
        common = (embedding, groups, dropout)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [wide[0]]
        for i, (before, c) in enumerate(itertools.pairwise([wide[0], *wide])):
            pairs = [(before if j == 0 else c, c) for j in range(blocks)]
            self.down_blocks.append(Level(pairs, *common, heads[i], "down" if i < last else None))
            skips += [c] * (blocks + (i < last))
        self.mid_block = Middle(wide[-1], *common, head)
        now = wide[-1]
        for i in reversed(range(len(wide))):
            pairs = []
            for _ in range(blocks + 1):
                pairs.append((now + skips.pop(), wide[i]))
                now = wide[i]
            self.up_blocks.append(Level(pairs, *common, heads[i], "up" if i else None))
        self.conv_norm_out, self.conv_out = nn.GroupNorm(groups, wide[0], eps=EPS), zero(conv(wide[0], out))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        check_image(shape, self.channels, 2**self.halvings, f"halved {self.halvings} times")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            assert isinstance(level, Level)
            for i in range(len(level.resnets)):
                h = level.block(i, h, embedding)
                skips.append(h)
            if level.downsamplers is not None:
                h = level.resample(h)
                skips.append(h)
        h = self.mid_block(h, embedding)
        for level in self.up_blocks:
            assert isinstance(level, Level)
            for i in range(len(level.resnets)):
                h = level.block(i, torch.cat([h, skips.pop()], 1), embedding)
            h = level.resample(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


RENAMED = {"conditioning.time_in": "time_embedding.linear_1", "conditioning.time_out": "time_embedding.linear_2"}
"""Layers of ``UNet2D`` that have another name in diffusers; every other layer has the same."""

CLASSES = {"conditioning.label": "class_embedding"}
"""The table of classes, of which the last is none."""


def as_diffusers(network: UNet2D) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of the ``UNet2DModel`` that computes the same."""
    options = network.config
    wide = [options["width"] * m for m in options["multipliers"]]
    sizes = [min(options["size"]) >> level for level in range(len(wide))]
    kinds = ["Attn" if side in options["attention"] else "" for side in sizes]
    classes = options.get("conditions", {}).get("label", 0)
    config = {
        "_class_name": "UNet2DModel",
        "sample_size": list(options["size"]) if len(set(options["size"])) > 1 else options["size"][0],
        "in_channels": options["channels"],
        "out_channels": options["out_channels"],
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "block_out_channels": wide,
        "layers_per_block": options["blocks"],
        "dropout": options["dropout"],
        "act_fn": "silu",
        "attention_head_dim": options["head"],
        "norm_num_groups": options["groups"],
        "norm_eps": EPS,
        "resnet_time_scale_shift": "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": classes + 1 if classes else None,
    }
    names = {**RENAMED, **CLASSES}
    weights = {}
    for key, value in network.state_dict().items():
        layer, _, end = key.rpartition(".")
        weights[f"{names.get(layer, layer)}.{end}"] = value
    return config, weights
