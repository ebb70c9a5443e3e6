"""The U-Net of the package denoising-diffusion-pytorch, layer for layer, so that its weights can come from there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import Backbone, check_image
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import attention as attend
from .layers import fraction, integer, integers, zero

INDICES = 999.0
"""A range of time inputs is brought to 0 … 999, the indices of a table of a thousand steps."""


class Index(Conditioning):
    r"""e = W_2 GELU(W_1 s), s the sines, then the cosines, of :math:`n θ^{-i / (h - 1)}`, i < h = features/2.

    The blocks take SiLU(e).

    Args:
        width: features of the embedding.
        features: of the sinusoids.
        theta: the slowest wave's period over that of the fastest.
        time_range: where the time input lies.
    """

    def __init__(self, width: int, features: int, theta: float, time_range: Sequence[float]) -> None:
        super().__init__(width, NONE, time_range, takes=())
        self.features, self.theta = features, theta
        self.time_in = nn.Linear(features, width)

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        low, high = self.time_range
        index = ((time.float() - low) * (INDICES / (high - low))).clamp(-1e5, 1e5)
        half = self.features // 2
        order = torch.arange(half, device=time.device, dtype=torch.float32)
        angle = index[:, None] * torch.exp(order * (-math.log(self.theta) / (half - 1)))
        waves = torch.cat([angle.sin(), angle.cos()], 1).to(self.time_in.weight.dtype)
        return F.silu(self.time_out(F.gelu(self.time_in(waves)))), None


class RMSNorm(nn.Module):
    """x / rms(x) over the channels of each place, times a factor a channel (arXiv:1910.07467)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.g * x.shape[1] ** 0.5)


class Block(nn.Module):
    """A convolution, the norm, (1 + scale)·x + shift where they are given, SiLU, dropout."""

    def __init__(self, channels: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(channels, out, 3, padding=1), RMSNorm(out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (1 + scale) + shift
        return self.dropout(F.silu(x))


class Residual(nn.Module):
    """Two blocks beside a shortcut; the embedding scales and shifts the first."""

    def __init__(self, channels: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(embedding, 2 * out)
        self.block1, self.block2 = Block(channels, out, dropout), Block(out, out)
        self.res_conv = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, 1)
        return self.res_conv(x) + self.block2(self.block1(x, (scale, shift)))


class Attention(nn.Module):
    r"""x + W_o attention(W_qkv norm(x)), with learned keys and values beside those of the places.

    With ``full`` softmax(q kᵀ / √d) v, with every place over all; else linear attention (arXiv:1812.01243):
    :math:`d^{-1/2} φ(q) (ρ(k)^T v)`, φ a softmax over features and ρ one over places, in a time that grows as the
    number of places, and a norm behind W_o.

    Args:
        channels: of x.
        heads: number of heads.
        head: features of one.
        memory: learned keys and values.
    """

    def __init__(self, channels: int, heads: int, head: int, memory: int, full: bool) -> None:
        super().__init__()
        self.heads, self.full = heads, full
        self.norm = RMSNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, *((memory, head) if full else (head, memory))))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head, 1, bias=False)
        out = nn.Conv2d(heads * head, channels, 1)
        self.to_out = out if full else nn.Sequential(out, RMSNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        # (3, B, heads, features, places)
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(0, 1)
        more = self.mem_kv[:, None].expand(-1, len(x), -1, -1, -1)
        if self.full:
            more = more.mT
        k, v = torch.cat([more[0], k], -1), torch.cat([more[1], v], -1)
        if self.full:
            out = attend(q.mT, k.mT, v.mT).mT
        else:
            context = k.softmax(-1) @ v.mT  # (B, heads, features of a key, of a value)
            out = context.mT @ q.softmax(-2) * q.shape[-2] ** -0.5
        return x + self.to_out(out.reshape(len(x), -1, *x.shape[2:]))


@register(
    "nn",
    "lucidrains",
    title="U-Net of denoising-diffusion-pytorch",
    arxiv="2006.11239",
    proof="parity: tests/adapters/test_checkpoints.py",
)
class LucidrainsUNet(Backbone):
    """The ``Unet`` of the package ``denoising-diffusion-pytorch`` (2.x): its weights come here by ``langevin convert``.

    Level l works at size / 2^l: two residual blocks of ``widths[l]`` channels, attention, then ``widths[l + 1]``
    channels at half the size; the last level keeps its size. Going up there are as many, and each block takes a skip
    connection. It takes no conditions. ``unet`` is faster; this one is for models that exist.

    Args:
        channels: C of the image.
        out_channels: channels of the output; None is C.
        width: features of the sinusoids of the time, even and at least 4; the embedding has four times as many.
        widths: channels at the full size, then those that each level ends with.
        full: whether each level has attention of every place over all; else it is linear.
        heads: attention heads of each level; the middle has those of the last.
        head: features of a head of each level.
        memory: learned keys and values of every attention.
        theta: the slowest wave's period over that of the fastest, > 1.
        dropout: share of features dropped in the first half of a block while training.
        conditions: none, or of size 0.
        time_range: where the time input lies; it is brought to 0 … 999. An index n − 1 of a table is as it is
            with (0, 999), whatever the length of the table.
    """

    name = "lucidrains"
    takes = ()

    def __init__(
        self,
        channels: int = 3,
        out_channels: int | None = None,
        *,
        width: int = 64,
        widths: Sequence[int] = (64, 64, 128, 256),
        full: Sequence[bool] = (False, False, True),
        heads: Sequence[int] = (4, 4, 4),
        head: Sequence[int] = (32, 32, 32),
        memory: int = 4,
        theta: float = 10_000.0,
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        time_range: Sequence[float] = (0.0, INDICES),
    ) -> None:
        widths = integers("widths", widths, 1, 2**14, range(2, 12))
        levels = len(widths) - 1
        each = range(levels, levels + 1)
        if not isinstance(full, (list, tuple)) or len(full) not in each or not all(type(v) is bool for v in full):
            raise UserError(f"full must be a list of {levels} times true or false, one a level, got {full!r}")
        if any(check_sizes(conditions, ("label",)).values()):
            raise UserError(f"lucidrains takes no conditions, got {conditions!r}")
        if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 1 < theta < math.inf:
            raise UserError(f"theta must be a number > 1, got {theta!r}")
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out, 1, 10**4),
            width=integer("width", width, 4, 2**12, multiple=2),
            widths=widths,
            full=tuple(full),
            heads=integers("heads", heads, 1, 2**10, each),
            head=integers("head", head, 1, 2**12, each),
            memory=integer("memory", memory, 0, 2**12),
            theta=float(theta),
            dropout=fraction("dropout", dropout),
            time_range=time_range,
        )
        self.channels, self.halvings = channels, levels - 1
        self.conditioning = Index(4 * width, width, theta, time_range)
        block = lambda a, b: Residual(a, b, 4 * width, dropout)
        attention = lambda c, level, full: Attention(c, heads[level], head[level], memory, full)

        self.init_conv = nn.Conv2d(channels, widths[0], 7, padding=3)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (a, b) in enumerate(itertools.pairwise(widths)):
            halve = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * a, b, 1))
            resize = halve if level < levels - 1 else nn.Conv2d(a, b, 3, padding=1)
            self.downs.append(nn.ModuleList([block(a, a), block(a, a), attention(a, level, full[level]), resize]))
        last = widths[-1]
        self.mid_block1, self.mid_block2 = block(last, last), block(last, last)
        self.mid_attn = attention(last, levels - 1, True)
        for level, (a, b) in reversed(list(enumerate(itertools.pairwise(widths)))):
            widen = nn.Conv2d(b, a, 3, padding=1)
            resize = nn.Sequential(nn.Upsample(scale_factor=2), widen) if level else widen
            self.ups.append(nn.ModuleList([block(a + b, b), block(a + b, b), attention(b, level, full[level]), resize]))
        self.final_res_block, self.final_conv = block(2 * widths[0], widths[0]), zero(nn.Conv2d(widths[0], out, 1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        check_image(shape, self.channels, 2**self.halvings, f"halved {self.halvings} times")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        h = first = self.init_conv(x)
        skips = []
        for level in self.downs:
            block1, block2, attention, resize = level.children()
            h = block1(h, embedding)
            skips.append(h)
            h = attention(block2(h, embedding))
            skips.append(h)
            h = resize(h)
        h = self.mid_block2(self.mid_attn(self.mid_block1(h, embedding)), embedding)
        for level in self.ups:
            block1, block2, attention, resize = level.children()
            h = block1(torch.cat([h, skips.pop()], 1), embedding)
            h = resize(attention(block2(torch.cat([h, skips.pop()], 1), embedding)))
        return self.final_conv(self.final_res_block(torch.cat([h, first], 1), embedding))
