"""Samples that need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 4096
"""Samples that are measured at a time."""

Piece = tuple[Tensor, "Tensor | None"]


@dataclass(frozen=True)
class Parts:
    """Samples in pieces, to be walked through as often as it takes.

    Whatever is summed over them is summed over ``blocks``, which begin at fixed indices, so that no figure depends on
    how the samples were cut into pieces: not by a bit.

    Args:
        count: how many in all.
        read: the pieces ``(x, label)`` in turn, ``(n, *shape)`` and int64 ``(n,)`` or None, of any lengths ≥ 1.
    """

    count: int
    read: Callable[[], Iterable[Piece]]

    @classmethod
    def of(cls, x: Tensor, label: Tensor | None = None) -> Parts:
        """A tensor and its labels as one part."""
        return cls(len(x), lambda: [(x, label)])

    def __len__(self) -> int:
        return self.count

    def blocks(self) -> Iterator[Piece]:
        """The samples, ``BLOCK`` at a time."""
        held: list[Piece] = []
        size = 0
        for x, label in self.read():
            held.append((x, label))
            size += len(x)
            while size >= BLOCK:
                x, label = _joined(held)
                yield x[:BLOCK], None if label is None else label[:BLOCK]
                size -= BLOCK
                held = [(x[BLOCK:], None if label is None else label[BLOCK:])] if size else []
        if size:
            yield _joined(held)

    def through(self, apply: Callable[[Tensor], Tensor], dim: int = 0) -> Tensor:
        """What a map makes of the blocks, put together: what is small of each sample."""
        return torch.cat([apply(x) for x, _ in self.blocks()], dim)

    def some(self, index: Tensor) -> Piece:
        """The samples of these indices, in their order."""
        rank = index.argsort()
        found, first = [], 0
        for x, label in self.blocks():
            inside = (index[rank] >= first) & (index[rank] < first + len(x))
            at = index[rank][inside] - first
            found.append((x[at], None if label is None else label[at]))
            first += len(x)
        x, label = _joined(found)
        back = rank.argsort()
        return x[back], None if label is None else label[back]


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    labels = [label for _, label in pieces if label is not None]
    return torch.cat([x for x, _ in pieces]), torch.cat(labels) if labels else None
