"""Random numbers as a pure function of (seed, sample, draw, position)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._errors import UserError, shown
from ..numerics.streams import Stream

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_GAMMA, _MIX0, _MIX1 = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's, as the int64 of the same bits."""
_UNIFORM, _NORMAL = 0, 1
"""The last counter word says what the bits are for, so that uniforms and normals of one draw are independent."""


FEW, SMALL = 16, 2**10
"""Blocks of four numbers on the CPU by Python (4 µs each), and by NumPy (a third of the time of torch), at most."""

Words = TypeVar("Words", Tensor, NDArray[np.int64], int)


def philox(counter: tuple[Words, Words, Words, Words], key: int) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words out for a 128-bit counter and a 64-bit key.

    Args:
        counter: four integers, or int64 tensors or arrays, in [0, 2³²), that broadcast to one shape; words that do not
            vary along an axis are best given with size 1 there, since the first rounds then work on them alone.
        key: an integer in [0, 2⁶⁴).

    Returns:
        Four of the same kind and of that shape with values in [0, 2³²), the same bits on every device.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _MASK, key >> 32
    for _ in range(10):
        # An int64 product wraps, but its 64 bits are those of the unsigned product. What is left above the low words
        # does no harm until they are multiplied again: one mask a word and round.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c2 = (p1 >> 32) ^ c1, (p0 >> 32) ^ c3
        c0 ^= k0
        c0 &= _MASK
        c2 ^= k1
        c2 &= _MASK
        c1, c3 = p1, p0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    c1 &= _MASK
    c3 &= _MASK
    return c0, c1, c2, c3


def splitmix(start: Tensor, size: int) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood 2014): the ``size`` words of 64 bits that follow each start, ``(B, size)``.

    Args:
        start: int64 ``(B,)``, the bits of the generators' states.
        size: words of each.
    """
    z = start[:, None] + torch.arange(1, size + 1, device=start.device) * _GAMMA
    for shift, factor in ((30, _MIX0), (27, _MIX1)):
        # A shift of an int64 repeats its sign; what comes in from above is masked away.
        z = (z >> shift).bitwise_and_((1 << 64 - shift) - 1).bitwise_xor_(z).mul_(factor)
    return (z >> 31).bitwise_and_(2**33 - 1).bitwise_xor_(z)


def _unit(word: Tensor) -> Tensor:
    """Midpoints of the 2³² cells of (0, 1), float64."""
    return word.to(torch.float64).add_(0.5).mul_(2.0**-32)


def _words(sample: Tensor, size: int, word: int | Tensor, use: int | Tensor, key: int) -> tuple[Tensor, ...]:
    """Four words ``(B, ⌈size/4⌉)`` of the counters (position/4, word, sample, use); word and use may be ``(B,)``."""
    word, sample, use = (torch.as_tensor(v, device=sample.device).reshape(-1, 1) for v in (word, sample, use))
    block = torch.arange(-(-size // 4), device=sample.device)[None]
    count = len(sample) * block.numel()
    if count > SMALL or not sample.is_cpu:
        return torch.broadcast_tensors(*philox((block, word, sample, use), key))
    counter = block.numpy(), word.numpy(), sample.numpy(), use.numpy()
    if count > FEW:
        return tuple(torch.from_numpy(w) for w in np.broadcast_arrays(*philox(counter, key)))
    made = [philox((int(b), int(w), int(n), int(u)), key) for b, w, n, u in np.broadcast(*counter)]
    return torch.tensor(made, dtype=torch.int64).reshape(len(sample), block.numel(), 4).unbind(-1)


def box_muller(sample: Tensor, size: int, word: int | Tensor, use: int | Tensor, key: int) -> Tensor:
    """Standard normal numbers, float64 ``(B, size)``, from pairs of the words of these counters."""
    words = _words(sample, size, word, use, key)
    radius = _unit(torch.stack(words[::2], -1)).log_().mul_(-2).sqrt_()
    angle = _unit(torch.stack(words[1::2], -1)).mul_(2 * math.pi)
    z = torch.stack((radius * torch.cos(angle), radius * angle.sin_()), -1)
    return z.flatten(1)[:, :size]


def starts(sample: Tensor, word: int | Tensor, use: int | Tensor, key: int) -> Tensor:
    """A start for ``stream``, int64 ``(B,)``: the first two words of these counters."""
    low, high, *_ = (w.reshape(-1).expand(len(sample)) for w in _words(sample, 1, word, use, key))
    return low | high << 32


def stream(start: Tensor, size: int) -> Tensor:
    """Standard normal numbers with the digits of float32, float64 ``(B, size)``, |z| < 6.8.

    By Box–Muller from the words of SplitMix64, one for two numbers: a third of the work of ``box_muller``.
    """
    bits = splitmix(start, -(-size // 2))
    radius = _unit(bits.bitwise_and(_MASK)).float().log_().mul_(-2).sqrt_()
    angle = (bits >> 32).float().mul_(2 * math.pi * 2.0**-32)
    z = torch.empty(*bits.shape, 2, dtype=torch.float64, device=start.device)
    z[..., 0] = torch.cos(angle).mul_(radius)
    z[..., 1] = angle.sin_().mul_(radius)
    return z.reshape(len(start), -1)[:, :size]


def midpoints(sample: Tensor, size: int, word: int | Tensor, use: int | Tensor, key: int) -> Tensor:
    """Uniform numbers, float64 ``(B, size)``, from the words of these counters."""
    u = torch.stack([_unit(w) for w in _words(sample, size, word, use, key)], dim=-1)
    return u.flatten(1)[:, :size]


def _column(c: Tensor, event: tuple[int, ...], like: Tensor) -> Tensor:
    """A coefficient ``()`` or ``(B,)`` shaped to multiply ``(B, *event)``."""
    c = c.to(like.device)
    return c if c.ndim == 0 else c.reshape(-1, *[1] * len(event))


@dataclass(frozen=True, eq=False)
class Noise:
    r"""Noise of a batch: each number is a function of (seed, sample, draw, position in the event) alone.

    The key of a counter-based generator is the seed and its counter (position/4, draw, sample, use), so a sample gets
    the same numbers whatever the batch it stands in, the order of batches, or the number of processes.

    Args:
        seed: an integer in [0, 2⁶⁴).
        sample: the number of samples, or their global indices, int64 ``(B,)`` with values in [0, 2³²).
        draw: which draw this is, in [0, 2³²); a sampling loop takes draw 0 for its start and draw i for its step i.
    """

    seed: int
    sample: Tensor
    draw: int = 0

    def __init__(self, seed: int, sample: Tensor | int, draw: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise UserError(f"seed must be an integer in [0, 2**64), got {seed!r}")
        if not isinstance(draw, int) or not 0 <= draw < 2**32:
            raise UserError(f"draw must be an integer in [0, 2**32), got {draw!r}")
        if isinstance(sample, bool) or not isinstance(sample, (int, Tensor)):
            raise UserError(f"sample must be a number of samples or int64 indices (B,), got {shown(sample)}")
        counted = isinstance(sample, int)
        if isinstance(sample, int):
            if not 0 <= sample <= 2**32:
                raise UserError(f"sample must be a number of samples in [0, 2**32], got {sample}")
            sample = torch.arange(sample)
        if sample.ndim != 1 or sample.dtype != torch.int64:
            raise UserError(f"sample must be int64 (B,), got {sample.dtype} {tuple(sample.shape)}")
        # Values are looked at on the CPU alone, where they are made: elsewhere a look is a wait for the device.
        if not counted and sample.device.type == "cpu" and ((sample < 0) | (sample >= 2**32)).any():
            raise UserError(f"sample must hold indices in [0, 2**32), got {sample.tolist()[:8]}")
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "sample", sample)
        object.__setattr__(self, "draw", draw)

    def __len__(self) -> int:
        return self.sample.shape[0]

    def __repr__(self) -> str:
        return f"Noise(seed={self.seed}, samples={len(self)}, draw={self.draw})"

    def step(self, draw: int) -> Noise:
        """The noise of step ``draw``: the same samples at another draw."""
        if not isinstance(draw, int) or not 0 <= draw < 2**32:
            raise UserError(f"draw must be an integer in [0, 2**32), got {draw!r}")
        other = object.__new__(type(self))  # a loop calls this every step: the samples are not looked through again
        other.__dict__.update(self.__dict__, draw=draw)
        return other

    def fold_in(self, tag: int) -> Noise:
        """An independent stream for part ``tag`` ≥ 0 of this draw: a new key, hashed from seed, draw and tag.

        The library's own tags are the names of ``Stream``.
        """
        words = f"{self.seed} {self.draw} {int(tag)}".encode()
        key = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
        return Noise(key, self.sample, self.draw)

    def rows(self, index: slice | Tensor) -> Noise:
        """The noise of some of the samples."""
        return replace(self, sample=self.sample[index])

    def to(self, device: torch.device | str) -> Noise:
        """The same numbers, made on another device."""
        return self if self.sample.device == torch.device(device) else replace(self, sample=self.sample.to(device))

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers in (0, 1), float64 ``(B, *shape)``, at the midpoints of 2³² cells."""
        return midpoints(self.sample, math.prod(shape), self.draw, _UNIFORM, self.seed).reshape(len(self), *shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float64 ``(B, *shape)``, by Box–Muller from pairs of 32-bit words (|z| < 6.8)."""
        return box_muller(self.sample, math.prod(shape), self.draw, _NORMAL, self.seed).reshape(len(self), *shape)

    def increment(
        self, event: tuple[int, ...], t: Tensor | float, s: Tensor | float, brownian_time: Callable[[Tensor], Tensor]
    ) -> Tensor:
        r"""W(V(s)) − W(V(t)) of a Brownian motion W run in the time V: normal with variance \|V(s) − V(t)\|.

        Here every interval has numbers of its own, those of this draw; :class:`BrownianPath` has a path, so that the
        increments of two parts of an interval sum to that of the whole.

        Args:
            event: shape of an event.
            t, s: times, ``()`` or ``(B,)``, in any order.
            brownian_time: V, a monotone function of times, elementwise, float64.

        Returns:
            float64 ``(B, *event)``.
        """
        t, s = torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(s, dtype=torch.float64)
        return _column(torch.sqrt((brownian_time(s) - brownian_time(t)).abs()), event, self.sample) * self.normal(event)

    def along_path(self, t: Tensor | float, s: Tensor | float, brownian_time: Callable[[Tensor], Tensor]) -> Noise:
        """The noise whose ``normal`` is the increment from t to s divided by its standard deviation.

        A law sampled with it moves along the path: ``law.sample(noise.along_path(t, s, brownian_time))``. Here it is
        this noise.
        """
        return self

    def log_gamma(self, concentration: Tensor, shape: tuple[int, ...]) -> Tensor:
        r"""log G for G ~ Gamma(concentration, 1), float64 ``(B, *shape)``; −∞ where the concentration is 0.

        Marsaglia and Tsang (2000) for k + 1, then :math:`\log G_k = \log G_{k+1} + \tfrac1k \log U`, which holds for
        every k > 0 and does not underflow. Every element rejects on numbers of its own, so batches do not matter.
        """
        k = concentration.to(torch.float64).expand(len(self), *shape)
        d = k + 1 - 1 / 3
        c = 1 / torch.sqrt(9 * d)
        result = torch.full_like(d, math.nan)
        for round_ in range(200):  # a try fails with probability < 0.05: 200 in a row never happen
            stream = self.fold_in(Stream.GAMMA_TRY + round_)
            z, u = stream.normal(shape), stream.uniform(shape)
            v = (1 + c * z) ** 3
            inside = torch.where(v > 0, v, torch.ones_like(v))
            accept = (v > 0) & (torch.log(u) < 0.5 * z**2 + d * (1 - inside + torch.log(inside)))
            result = torch.where(result.isnan() & accept, torch.log(d * inside), result)
            if not result.isnan().any():
                break
        boost = torch.log(self.fold_in(Stream.GAMMA_BOOST).uniform(shape)) / k
        return result + boost
