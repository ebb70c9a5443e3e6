"""What the backbones share: attention, normalisation with a modulation, time features, and checks of sizes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError

GROUP = 8
"""Channels a group of GroupNorm holds; channel counts of a U-Net are multiples of it."""

M = TypeVar("M", nn.Linear, nn.Conv2d)


def integer(name: str, value: object, low: int, high: int, multiple: int = 1) -> int:
    """``value`` as an integer in [low, high] and a multiple of ``multiple``, or a ``UserError`` that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high or value % multiple:
        of = f"a multiple of {multiple}" if multiple > 1 else "an integer"
        raise UserError(f"{name} must be {of} from {low} to {high}, got {value!r}")
    return value


def integers(name: str, value: object, low: int, high: int, lengths: range) -> tuple[int, ...]:
    """``value`` as a tuple of integers in [low, high], of a length in ``lengths``, or a ``UserError`` that names it."""
    if not isinstance(value, (tuple, list)) or len(value) not in lengths:
        many = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        raise UserError(f"{name} must be a list of {many} integers, got {value!r}")
    return tuple(integer(f"{name}[{i}]", n, low, high) for i, n in enumerate(value))


def fraction(name: str, value: object) -> float:
    """``value`` as a number in [0, 1), or a ``UserError`` that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


def zero(layer: M) -> M:
    """The layer with its parameters set to zero: a residual branch that starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def fourier(time: Tensor, low: float, high: float, count: int = 32) -> Tensor:
    r"""cos and sin of :math:`2π f u`, u = (time − low)/(high − low), f from 1/4 to 32, geometric: ``(B, 2 count)``.

    The slowest wave repeats after four times the declared range, so times outside it stay distinct up to 1.5 ranges
    away, where they are held: an infinite log-SNR is a time too. The fastest tells apart 1/200 of the range. Computed
    in float32 at least: a bfloat16 network still sees exact features.
    """
    u = (time.to(torch.promote_types(time.dtype, torch.float32)) - low) / (high - low)
    u = u.clamp(-1.5, 2.5)
    exponent = torch.arange(count, device=time.device, dtype=u.dtype) * (7 / (count - 1)) - 2
    angle = 2 * math.pi * u[:, None] * torch.exp2(exponent)
    return torch.cat([angle.cos(), angle.sin()], 1)


def waves(x: Tensor, exponents: Sequence[int]) -> Tensor:
    r"""x ``(B, C, ...)``, then sin 2ⁿπx and cos 2ⁿπx as further channels, for each n (arXiv:2107.00630 §5.1).

    What differs by less than a network resolves is told apart: of L levels on [−1, 1], cos 2ⁿπx has another sign at
    every second level if :math:`2^n = (L - 1)/2`. In float32 at least, in which 2⁸π·x is good to 1e-4.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32)) * math.pi
    parts = [f(2.0**n * wide).to(x.dtype) for n in exponents for f in (torch.sin, torch.cos)]
    return torch.cat([x, *parts], 1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""softmax(q kᵀ / √d) v over ``(B, heads, N, d)``; ``mask`` is true where a key may be read (arXiv:1706.03762).

    Training in bfloat16 on a CPU is written out: PyTorch's fused kernel has a backward there that is four to ten times
    slower. Everything else takes the fused kernel, which has no second derivative and no forward mode: ask for those
    under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """
    if q.device.type == "cpu" and q.dtype.itemsize < 4 and q.requires_grad:
        return attention_weights(q, k, mask) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""softmax(q kᵀ / √d) ``(B, heads, N, M)``, the weights by which :func:`attention` sums values, written out."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1)


class Attention(nn.Module):
    """Multi-head self-attention over tokens ``(B, N, width)``; with a context, its tokens are further keys and values.

    One softmax over both (GLIDE, arXiv:2112.10741), so a sample without a context attends to itself, exactly as if
    the layer had none. The output layer starts at zero.

    Args:
        width: features a token has.
        heads: number of heads, a divisor of ``width``.
        context: features a context token has, 0 for none.
    """

    control: Callable[[Tensor, int], Tensor] | None = None
    """What is put in the place of the weights, see ``attention_control.controlled``; None for the weights as they are,
    which are then never written out."""

    def __init__(self, width: int, heads: int, context: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.kv = nn.Linear(context, 2 * width) if context else None
        self.out = zero(nn.Linear(width, width))

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.reshape(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = self._split(self.qkv(x), 3)
        mask = None
        if self.kv is not None and context is not None:
            tokens, present = context
            more_k, more_v = self._split(self.kv(tokens), 2)
            k, v = torch.cat([k, more_k], 2), torch.cat([v, more_v], 2)
            mask = F.pad(present, (x.shape[1], 0), value=True)[:, None, None]
        if self.control is None or x.is_meta:  # on the meta device memory is measured
            out = attention(q, k, v, mask)
        else:
            out = self.control(attention_weights(q, k, mask), x.shape[1]) @ v
        return self.out(out.transpose(1, 2).flatten(2))


class Norm(nn.Module):
    r"""GroupNorm over groups of 8 channels, y = γ·x̂ + β; with an embedding, γ and β are read from it for each sample.

    The adaptive form (arXiv:2105.05233) costs no more than the plain one: samples fold into channels, and the
    kernel's own affine does the modulation in the same pass over memory.

    Args:
        channels: a multiple of 8.
        embedding: features of the embedding, 0 for learned constants.
    """

    def __init__(self, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.groups = channels // GROUP
        if embedding:
            self.affine = nn.Linear(embedding, 2 * channels)
        else:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if embedding is None:
            return _group_norm(x, self.groups, self.weight, self.bias)
        b, c, *size = x.shape
        scale, shift = self.affine(embedding).chunk(2, 1)
        # reshape: a channels_last x is copied here, since only the contiguous layout folds.
        folded = x.reshape(1, b * c, *size)
        return _group_norm(folded, b * self.groups, 1 + scale.reshape(-1), shift.reshape(-1)).reshape(x.shape)


def _group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    # Autocast would lift x to float32 on accelerators; the kernel sums in float32 anyway, and memory is what it costs.
    lifted = torch.amp.is_autocast_available(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if lifted else contextlib.nullcontext():
        return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype))
