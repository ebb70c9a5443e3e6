"""The U-Nets of EDM: DDPM++ and NCSN++ (arXiv:2011.13456) and ADM (2105.05233), so that their weights can come here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from .._registry import register
from .backbone import Backbone, check_image
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import attention as attend
from .layers import fraction, integer, integers, zero


@dataclass(frozen=True)
class Style:
    """What tells the two families apart.

    Attributes:
        endpoint: whether the slowest sinusoid has the full period of 10⁴ (positional embeddings).
        adaptive: whether the embedding scales and shifts what is normalised, or is added before the norm.
        gain: of x + f(x), which keeps its variance.
        eps: of every group norm.
        head: features of an attention head at least, None for one head.
        project: whether a change of size has a 1 × 1 convolution in its shortcut.
    """

    endpoint: bool
    adaptive: bool
    gain: float
    eps: float
    head: int | None
    project: bool


STYLES = {
    "song": Style(endpoint=True, adaptive=False, gain=0.5**0.5, eps=1e-6, head=None, project=True),
    "adm": Style(endpoint=False, adaptive=True, gain=1.0, eps=1e-5, head=64, project=False),
}
"""``song``: DDPM++ and NCSN++ of the authors of score SDEs; ``adm``: the ablated diffusion model."""


def norm(channels: int, style: Style) -> nn.GroupNorm:
    """Groups of four channels at least, 32 at most."""
    groups = max(1, min(32, channels // 4))
    if channels % groups:
        raise UserError(
            f"channels of a block, with those of a skip connection, must be divisible by {groups}, got {channels}"
        )
    return nn.GroupNorm(groups, channels, eps=style.eps)


def lowpass(taps: Sequence[float], x: Tensor) -> Tensor:
    """The filter taps ⊗ taps, its sum 1, for each channel of x on its own: ``(C, 1, n, n)``."""
    line = torch.tensor(taps, dtype=x.dtype, device=x.device)
    return (torch.outer(line, line) / line.sum() ** 2).expand(x.shape[1], 1, -1, -1)


def halved(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Filtered, and every second place kept."""
    return F.conv2d(x, lowpass(taps, x), stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])


def doubled(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Zeros laid between the places, and filtered with a sum of 4."""
    return F.conv_transpose2d(x, 4 * lowpass(taps, x), stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])


class Level(Conditioning):
    r"""The embedding of the noise level and the class.

    Waves are sines and cosines of c·n, :math:`c = a\,t + b` of the time t, n geometric from 1 to 10⁻⁴, or random.
    ``song`` has SiLU(W_2 SiLU(W_1 (waves + E_label))), ``adm`` SiLU(W_2 SiLU(W_1 waves) + E_label).

    Args:
        style: row of ``STYLES``.
        width: features of the embedding.
        features: of the waves.
        random: whether frequencies are random, of standard deviation 16, and kept with the weights.
        scale, shift: a and b.
        conditions: ``label`` alone.
        time_range: where the time input lies.
    """

    def __init__(
        self,
        style: str,
        width: int,
        features: int,
        random: bool,
        scale: float,
        shift: float,
        conditions: Mapping[str, int],
        time_range: Sequence[float],
    ) -> None:
        super().__init__(width, conditions, time_range, takes=("label",))
        self.style, self.features, self.scale, self.shift = style, features, scale, shift
        self.time_in = nn.Linear(features, width)
        if (classes := self.sizes.get("label")) and style == "song":
            self.label = nn.Embedding(classes + 1, features)
        self.register_buffer("frequencies", 16 * torch.randn(features // 2) if random else None)

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        level = (time.double() * self.scale + self.shift).clamp(-1e5, 1e5).float()
        half = self.features // 2
        if not isinstance(self.frequencies, Tensor):
            order = torch.arange(half, device=time.device, dtype=torch.float32)
            frequencies = 1e-4 ** (order / (half - STYLES[self.style].endpoint))
        else:
            frequencies = 2 * math.pi * self.frequencies.float()
        angle = level[:, None] * frequencies
        pair = (angle.sin(), angle.cos()) if self.style == "song" else (angle.cos(), angle.sin())
        e = torch.cat(pair, 1).to(self.time_in.weight.dtype)
        label: Tensor | float = 0.0
        if classes := self.sizes.get("label"):
            given = condition.get("label")
            none = torch.full_like(time, classes, dtype=torch.int64)
            label = self.label(none if given is None else torch.where(given < 0, none, given.long()))
        if self.style == "song":
            return F.silu(self.time_out(F.silu(self.time_in(e + label)))), None
        return F.silu(self.time_out(F.silu(self.time_in(e))) + label), None


class Block(nn.Module):
    """A residual block that may halve or double the size first, and attention over all places behind it.

    Args:
        channels, out: of x and of the result.
        embedding: features of the embedding.
        resize: ``halved``, ``doubled`` or None.
        taps: of the filter of a change of size.
        attention: whether there is attention.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        style: Style,
        taps: Sequence[float],
        dropout: float,
        attention: bool = False,
        resize: Literal["halved", "doubled"] | None = None,
    ) -> None:
        super().__init__()
        self.style, self.taps, self.resize = style, taps, {"halved": halved, "doubled": doubled, None: None}[resize]
        self.norm0, self.conv0 = norm(channels, style), nn.Conv2d(channels, out, 3, padding=1)
        self.affine = nn.Linear(embedding, out * (1 + style.adaptive))
        self.norm1, self.conv1 = norm(out, style), zero(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        projects = channels != out or (style.project and resize is not None)
        self.skip = nn.Conv2d(channels, out, 1) if projects else None
        self.heads = 0
        if attention:
            self.heads = 1 if style.head is None else max(1, out // style.head)
            if out % self.heads:
                raise UserError(
                    f"channels where there is attention must be divisible into {self.heads} heads, got {out}"
                )
            self.norm2, self.qkv = norm(out, style), nn.Conv2d(out, 3 * out, 1)
            self.proj = zero(nn.Conv2d(out, out, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h, shortcut = F.silu(self.norm0(x)), x
        if self.resize is not None:
            h, shortcut = self.resize(h, self.taps), self.resize(x, self.taps)
        h, told = self.conv0(h), self.affine(embedding)[:, :, None, None]
        if self.style.adaptive:
            scale, shift = told.chunk(2, 1)
            h = F.silu(self.norm1(h) * (1 + scale) + shift)
        else:
            h = F.silu(self.norm1(h + told))
        h = self.conv1(self.dropout(h))
        h = (h + (shortcut if self.skip is None else self.skip(shortcut))) * self.style.gain
        return (h + self._attention(h)) * self.style.gain if self.heads else h

    def _attention(self, x: Tensor) -> Tensor:
        # The channels are heads, features, then query, key and value.
        places = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.heads, -1, 3))
        q, k, v = places.permute(3, 0, 1, 4, 2)
        return self.proj(attend(q, k, v).mT.reshape(x.shape))


class Pyramid(nn.Conv2d):
    """A 3 × 3 convolution and a halving, as one filter: the image beside the encoder of NCSN++ (2011.13456, app. H)."""

    def __init__(self, channels: int, out: int, taps: Sequence[float]) -> None:
        super().__init__(channels, out, 3)
        self.taps = taps

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(x, self.weight, padding=1 + (len(self.taps) - 1) // 2)
        h = F.conv2d(h, lowpass(self.taps, h), stride=2, groups=h.shape[1])
        return h if self.bias is None else h + self.bias[:, None, None]


@register(
    "nn",
    "edm-unet",
    title="U-Nets of EDM: DDPM++, NCSN++ and ADM",
    arxiv="2206.00364",
    proof="parity: tests/adapters/test_checkpoints.py",
)
class EDMUNet(Backbone):
    """The U-Nets of EDM (arXiv:2206.00364, appendix F.2): their weights come here by ``langevin convert``.

    Level l works at size / 2^l with ``width · multipliers[l]`` channels and ``blocks`` residual blocks going down, one
    more going up, where each takes a skip connection. DDPM++ is ``song``; NCSN++ is ``song`` with ``random``,
    ``pyramid`` and the taps (1, 3, 3, 1); ADM is ``adm``. ``unet`` is faster; this one is for models that exist.

    Args:
        channels: C of the image.
        out_channels: channels of the output; None is C.
        size: side of the images it is trained on; places the attention and names the layers.
        style: ``song`` or ``adm``.
        width: channels at the full size are ``width · multipliers[0]``; a multiple of 4.
        multipliers: a factor a level.
        blocks: residual blocks of a level going down.
        attention: sizes where there is attention: behind every block, going up of ``song`` behind the last of a level.
            The smallest has some in its middle always.
        embedding: features of the embedding; None is 4 · width.
        features: waves of the noise level, an even number; None is width, of random ones 2 · width.
        random: whether their frequencies are random.
        pyramid: whether the image, halved again and again, is added to each level going down.
        taps: of the filter that changes sizes, an even number of them.
        dropout: share of features dropped in a block while training.
        conditions: ``label`` alone, the number of classes.
        scale, shift: the network is told scale · time + shift.
        time_range: where the time input lies; it is taken as it is.
    """

    name = "edm-unet"
    takes = ("label",)

    def __init__(
        self,
        channels: int = 3,
        out_channels: int | None = None,
        *,
        size: int = 32,
        style: str = "song",
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        embedding: int | None = None,
        features: int | None = None,
        random: bool = False,
        pyramid: bool = False,
        taps: Sequence[int] = (1, 1),
        dropout: float = 0.0,
        conditions: Mapping[str, int] = NONE,
        scale: float = 1.0,
        shift: float = 0.0,
        time_range: Sequence[float] = (-3.0, 3.0),
    ) -> None:
        if style not in STYLES:
            raise UserError(f"style must be {' or '.join(STYLES)}, got {style!r}")
        for key, value in (("random", random), ("pyramid", pyramid)):
            if not isinstance(value, bool):
                raise UserError(f"{key} must be true or false, got {value!r}")
        for key, number in (("scale", scale), ("shift", shift)):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) < math.inf:
                raise UserError(f"{key} must be a finite number, got {number!r}")
        width = integer("width", width, 4, 2**12, multiple=4)
        multipliers = integers("multipliers", multipliers, 1, 64, range(1, 11))
        attention = integers("attention", attention, 1, 2**14, range(0, 11))
        taps = integers("taps", taps, 1, 2**10, range(2, 9, 2))
        out = channels if out_channels is None else out_channels
        embedding = 4 * width if embedding is None else embedding
        features = width * (1 + random) if features is None else features
        super().__init__(
            channels=integer("channels", channels, 1, 10**4),
            out_channels=integer("out_channels", out, 1, 10**4),
            size=integer("size", size, 1, 2**14),
            style=style,
            width=width,
            multipliers=multipliers,
            blocks=integer("blocks", blocks, 1, 64),
            attention=attention,
            embedding=integer("embedding", embedding, 1, 2**16),
            features=integer("features", features, 4, 2**14, multiple=2),
            random=random,
            pyramid=pyramid,
            taps=taps,
            dropout=fraction("dropout", dropout),
            conditions=check_sizes(conditions, self.takes),
            scale=float(scale),
            shift=float(shift),
            time_range=time_range,
        )
        self.channels, self.halvings = channels, len(multipliers) - 1
        self.check_shape((channels, size, size))
        sides = [size >> level for level in range(len(multipliers))]
        if not set(attention) <= set(sides):
            raise UserError(f"attention must name sizes of the levels, {sides}, got {attention}")
        self.conditioning = Level(style, embedding, features, random, scale, shift, conditions, time_range)
        made = lambda a, b, attention=False, resize=None: Block(
            a, b, embedding, STYLES[style], taps, dropout, attention, resize
        )

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        now = width * (multipliers[0] if style == "adm" else 1)
        image, skips = channels, [now]
        self.enc[f"{size}x{size}_conv"] = nn.Conv2d(channels, now, 3, padding=1)
        for level, (side, factor) in enumerate(zip(sides, multipliers)):
            at = f"{side}x{side}"
            if level:
                self.enc[f"{at}_down"] = made(now, now, resize="halved")
                if pyramid:
                    self.enc[f"{at}_aux_residual"] = Pyramid(image, now, taps)
                    image = now
                skips.append(now)
            for i in range(blocks):
                self.enc[f"{at}_block{i}"] = made(now, width * factor, side in attention)
                now = width * factor
                skips.append(now)
        for level, (side, factor) in reversed(list(enumerate(zip(sides, multipliers)))):
            at = f"{side}x{side}"
            if level == self.halvings:
                self.dec[f"{at}_in0"], self.dec[f"{at}_in1"] = made(now, now, True), made(now, now)
            else:
                self.dec[f"{at}_up"] = made(now, now, resize="doubled")
            for i in range(blocks + 1):
                there = side in attention and (style == "adm" or i == blocks)
                self.dec[f"{at}_block{i}"] = made(now + skips.pop(), width * factor, there)
                now = width * factor
        self.out_norm, self.out_conv = norm(now, STYLES[style]), zero(nn.Conv2d(now, out, 3, padding=1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        check_image(shape, self.channels, 2**self.halvings, f"halved {self.halvings} times")

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        image, skips = x, list[Tensor]()
        for block in self.enc.values():
            if isinstance(block, Pyramid):
                x = image = skips[-1] = (x + block(image)) * 0.5**0.5
            else:
                x = block(x, embedding) if isinstance(block, Block) else block(x)
                skips.append(x)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], 1) if "_block" in name else x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))
