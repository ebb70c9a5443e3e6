"""Levels: their values, and the law under which a receiver that has a noisy sample expects them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError
from ...data import DataInfo

SCALES = 16
"""Scales of the pixel law: one for each sixteenth of the range that a prediction can lie in."""

GRID = 64
"""Parts of a level that a prediction is rounded to before its law is formed: no rounding error moves it."""

WHOLE = 2**16
"""Sum of the counts of a law, about."""

FLOOR = 0.002
"""Share of the counts that is spread over all levels, for what a normal law does not expect."""


@dataclass(frozen=True)
class Levels:
    """``count`` levels from ``low`` to ``high``, and a law for each given a prediction.

    A coordinate with prediction x̂_0 has the normal law around it, cut into levels, its tails added to the ends, and
    a floor. Its scale is that of predictions of about this value: where a model is sure of black, it is small.
    """

    low: float
    high: float
    count: int

    @classmethod
    def of(cls, data: DataInfo) -> Levels:
        """Those of a data set that has them."""
        if data.low is None or data.high is None or data.levels is None:
            raise UserError(f"coding needs data with levels (8-bit images, digits); {data.name!r} is continuous")
        return cls(data.low, data.high, data.levels)

    @property
    def span(self) -> float:
        """high − low."""
        return self.high - self.low

    @property
    def width(self) -> float:
        """The distance of two levels."""
        return self.span / (self.count - 1)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest levels, int64, of values."""
        return ((x.double() - self.low) / self.width).round().clamp(0, self.count - 1).to(torch.int64)

    def values(self, levels: Tensor) -> Tensor:
        """The values of levels, float64."""
        return self.low + self.span * levels.double() / (self.count - 1)

    def psnr(self, x: Tensor, y: Tensor) -> float:
        """Peak signal-to-noise ratio of values in dB, over all images: 10 log₁₀ (high − low)²/MSE."""
        return 10 * math.log10(self.span**2 / max(float((x - y).square().mean()), 1e-300))

    def cost(self, mean: Tensor, levels: Tensor) -> Tensor:
        """−log₂ probability of the levels of each image under the best scales, float64 ``(B,)``."""
        place, row = self._place(mean)
        flat = levels.flatten()
        return self._length(place, self._scales(place, row, flat)[row], flat).reshape(len(levels), -1).sum(1)

    def encode(self, mean: Tensor, levels: Tensor) -> tuple[bytes, tuple[int, ...], float]:
        """The levels given predictions: the entropy coder's bytes, the scales, and the bits they should take."""
        encoder, _, law = coder()
        place, row = self._place(mean)
        flat = levels.flatten()
        scales = self._scales(place, row, flat)
        made = encoder()
        for rows, counts in self._tables(place, scales[row]):
            made.encode(flat[rows].numpy().astype(np.int32), law, counts)
        bits = float(self._length(place, scales[row], flat).sum())
        return made.get_compressed().astype("<u4").tobytes(), tuple(scales.tolist()), bits

    def decode(self, mean: Tensor, words: bytes, scales: Sequence[int]) -> Tensor:
        """The inverse of ``encode``: levels in the shape of the predictions.

        Raises:
            UserError: for bytes that no encoder writes.
        """
        _, decoder, law = coder()
        if len(words) % 4:
            raise UserError(f"the file contradicts itself: its residual has {len(words)} bytes, no whole words")
        place, row = self._place(mean)
        made = decoder(np.frombuffer(words, "<u4").astype(np.uint32))
        try:
            parts = [made.decode(law, counts) for _, counts in self._tables(place, torch.tensor(scales)[row])]
        except AssertionError as error:  # the coder's word for it
            raise UserError(f"the file is damaged: its residual cannot be read ({error})") from None
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).reshape(mean.shape)

    def _place(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions in units of levels, on a grid, and the row of the scales that each has."""
        units = ((mean.double() - self.low) / self.width).clamp(-0.5, self.count - 0.5)
        fixed = (units * GRID).round().to(torch.int64).flatten()
        return fixed.double() / GRID, (fixed + GRID // 2) * SCALES // (GRID * self.count + 1)

    @cached_property
    def _least(self) -> int:
        """Counts that every level has."""
        return max(1, round(FLOOR * WHOLE / self.count))

    def _counts(self, place: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
        """Counts of levels, integers in float64, so that both sides agree to the last bit."""
        deviation = 2.0 ** (scale.double() / 8 - 5)  # from a thirty-second of a level upwards
        edge = lambda k: torch.special.ndtr((k - 0.5 - place) / deviation)
        upper = torch.where(levels == self.count - 1, 1.0, edge(levels + 1))
        lower = torch.where(levels == 0, 0.0, edge(levels))
        return ((upper - lower) * ((1 - FLOOR) * WHOLE)).round() + self._least

    def _length(self, place: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
        """−log₂ probability of each coordinate's level."""
        total = (1 - FLOOR) * WHOLE + self.count * self._least
        return -torch.log2(self._counts(place, scale, levels) / total)

    def _scales(self, place: Tensor, row: Tensor, levels: Tensor) -> Tensor:
        """The scale of each row whose code is shortest, int64 ``(SCALES,)``."""
        best = torch.zeros(SCALES, dtype=torch.int64)
        tried = torch.arange(8 * (5 + math.ceil(math.log2(self.count))))[:, None]
        for k in row.unique().tolist():
            mine = (row == k).nonzero()[:5000, 0]
            best[k] = self._length(place[mine], tried, levels[mine]).sum(1).argmin()
        return best

    def _tables(self, place: Tensor, scale: Tensor) -> Iterator[tuple[slice, np.ndarray]]:
        """The counts of all levels, float64 ``(some, count)``, a part of the coordinates at a time."""
        every = torch.arange(self.count)
        some = max(1, min(8192, 2**22 // self.count))
        for first in range(0, len(place), some):
            rows = slice(first, first + some)
            yield rows, self._counts(place[rows, None], scale[rows, None], every).numpy()


def coder() -> tuple[Any, Any, Any]:
    """The entropy coder's two ends and its kind of law."""
    try:
        import constriction
    except ImportError:
        raise UserError("exact files need an entropy coder: pip install 'langevin[compress]'") from None
    queue = constriction.stream.queue
    return queue.RangeEncoder, queue.RangeDecoder, constriction.stream.model.Categorical(perfect=False)
