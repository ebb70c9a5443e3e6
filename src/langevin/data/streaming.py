"""Examples that are read while they are trained on, from data that are never in memory or on the disk as a whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from ..storage.untrusted import reason
from .order import permutation
from .split import Split

BUFFER = 2048
"""Rows that are shuffled with each other."""

MEASURED = 2048
"""Examples in memory that the description of streamed data is measured on."""

HELD = 1024
"""Examples that are held out of streamed data."""

KEPT = 3
"""Blocks kept: a batch may end one and begin the next, and workers are a few batches ahead."""

TRIES = 16
"""Rows in a row that may hold no usable picture."""

SourceRow = dict[str, Any]
Example = tuple[Tensor, dict[str, Tensor]]
Block = tuple[int, list[SourceRow]]


class Streamed:
    """The training examples of streamed data, in an order that is a function of (seed, position) alone.

    Epoch follows epoch. In each, the shards come in an order drawn by (seed, epoch); the rows that they hold one after
    another are cut into blocks of ``BUFFER``, and each block is shuffled by (seed, position of its first row). A
    position is reached by reading what comes before it in its epoch, without decoding a picture; a shard whose length
    is known from an epoch before is passed over unread.

    Every process reads the rows of all and decodes its own. A row that holds no usable picture is replaced by the next
    of its block.

    Args:
        shards: the rows of each shard, from the first, every time it is iterated.
        example: the picture uint8 ``(C, H, W)`` of a row, and its conditions; or why it has none.
        like: a split with the same conditions, whose mirroring, windows and damage hold for these examples too.
        apart: how many rows at the beginning of a shard are held out.
        count: rows of an epoch, or None where the data do not say.
        title: of the data, for messages.
    """

    def __init__(
        self,
        shards: Sequence[Iterable[SourceRow]],
        example: Callable[[SourceRow], Example | str],
        like: Split,
        *,
        apart: Mapping[int, int],
        count: int | None,
        title: str,
    ) -> None:
        self.shards, self.example, self.like, self.apart = shards, example, like, apart
        self.count, self.title = count, title
        self._lengths: dict[int, int] = {}
        self._lock = threading.Lock()
        self._seed: int | None = None
        self._kept: deque[Block] = deque()
        self._blocks: Iterator[Block] = iter(())

    def batch(self, indices: Tensor, *, seed: int = 0, draw: int = 0) -> dict[str, Tensor]:
        """The examples at positions of the stream, augmented; as :meth:`Split.batch`.

        Args:
            indices: int64 ``(B,)``, positions ≥ 0; those of one epoch after another go on without end.
            seed: the run's seed, of the order and of the augmentation.
            draw: counts the visits to the data.

        Raises:
            OSError: if the data cannot be read on.
            UserError: for too many rows without a usable picture, or data of another length than they say.
        """
        with self._lock:
            try:
                places = [self._find(position, seed) for position in indices.tolist()]
            except BaseException:
                self._kept.clear()  # what was interrupted is begun anew
                raise
        found = [self._usable(*place) for place in places]
        images = [image for image, _ in found]
        told = {name: torch.stack([conditions[name] for _, conditions in found]) for name in found[0][1]}
        x = images if self.like.crop is not None else torch.stack(images)
        return self.like.augmented(x, told, indices, seed=seed, draw=draw)

    def _usable(self, block: list[SourceRow], place: int) -> Example:
        refused = ""
        for i in range(min(TRIES, len(block))):
            found = self.example(block[(place + i) % len(block)])
            if not isinstance(found, str):
                return found
            refused = found
        raise UserError(f"{self.title}: {TRIES} rows in a row hold no usable picture; the last: {refused}")

    def _find(self, position: int, seed: int) -> tuple[list[SourceRow], int]:
        """The block that holds a position, and its place there."""
        if self._seed != seed or not self._kept or position < self._kept[0][0]:
            self._seed, self._blocks = seed, self._from(seed, position)
            self._kept = deque([next(self._blocks)], KEPT)
        while position >= self._kept[-1][0] + len(self._kept[-1][1]):
            self._kept.append(next(self._blocks))
        first, block = next((first, block) for first, block in reversed(self._kept) if first <= position)
        return block, position - first

    def _from(self, seed: int, position: int) -> Iterator[Block]:
        """The blocks from that of a position on, each with the position of its first row."""
        epoch = 0 if self.count is None else position // self.count
        begin = epoch * (self.count or 0)
        while True:
            skip = max(0, position - begin) // BUFFER * BUFFER
            rows, first = self.rows(seed, epoch, skip), begin + skip
            while block := list(islice(rows, BUFFER)):
                yield first, [block[i] for i in permutation(len(block), seed, first, inner=True).tolist()]
                first += len(block)
            length = sum(self._lengths.values())
            if not length or length != (self.count or length):
                raise UserError(f"{self.title} says that it has {self.count} rows to train on, and has {length}")
            begin, epoch = begin + length, epoch + 1

    def rows(self, seed: int, epoch: int, skip: int = 0) -> Iterator[SourceRow]:
        """The rows of an epoch, shard after shard, but for the first ``skip``."""
        for shard in permutation(len(self.shards), seed, epoch).tolist():
            length = self._lengths.get(shard)
            if length is not None and length <= skip:
                skip -= length
                continue
            place = 0
            for place, row in enumerate(self._shard(shard), 1):
                if place > skip:
                    yield row
            self._lengths[shard] = place
            skip = max(0, skip - place)

    def _shard(self, shard: int) -> Iterator[SourceRow]:
        try:
            yield from islice(self.shards[shard], self.apart.get(shard, 0), None)
        except Exception as error:  # of the network, of a format, of a decoder: the library has one for each
            raise OSError(f"{self.title} cannot be read on: {reason(error)}") from error
