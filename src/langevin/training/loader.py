"""Which examples a step sees, a pure function of the seed and the step, and their rows, read ahead if asked for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ..data import Split
from ..data.order import permutation
from ..data.streaming import Streamed

AHEAD = 2
"""Batches read ahead by a worker."""

Batch = dict[str, Tensor]


class Order:
    """The training stream: epoch after epoch, each a permutation of the examples by (seed, epoch) alone.

    Args:
        examples: N ≥ 1.
        seed: in [0, 2⁶⁴).
    """

    def __init__(self, examples: int, seed: int) -> None:
        self.examples, self.seed = examples, seed
        self._kept: tuple[int, Tensor] | None = None

    def permutation(self, epoch: int) -> Tensor:
        """The examples of an epoch, int64 ``(N,)``."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, permutation(self.examples, self.seed, epoch))
        return self._kept[1]

    def batch(self, first: int, size: int) -> Tensor:
        """Examples first … first + size − 1 of the stream; a batch may end one epoch and begin the next."""
        parts = []
        while size > 0:
            epoch, offset = divmod(first, self.examples)
            part = self.permutation(epoch)[offset : offset + size]
            parts.append(part)
            first, size = first + len(part), size - len(part)
        return torch.cat(parts)


class InOrder:
    """The positions of a stream, which shuffles its examples itself."""

    def batch(self, first: int, size: int) -> Tensor:
        """first … first + size − 1."""
        return torch.arange(first, first + size)


class Loader:
    """This process's rows of the batch of a step: a pure function of (seed, step), whoever reads them.

    Of data in memory a thread takes over to pick, to cut, to mirror and to make floats, of a stream also to read and to
    decode; the indices of a batch are known before. A run that stops forgets what was read ahead.

    Args:
        split: examples, in memory or streamed.
        order: which of them a batch holds.
        batch: examples a step, over all processes.
        rows: this process's.
        seed: of the augmentation.
        workers: threads; with 0 a batch is read when it is asked for.
    """

    def __init__(
        self, split: Split | Streamed, order: Order | InOrder, batch: int, rows: slice, seed: int, workers: int = 0
    ) -> None:
        self.split, self.order, self.batch, self.rows, self.seed = split, order, batch, rows, seed
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "langevin-batches") if workers else None
        self._ahead: dict[int, Future[Batch]] = {}

    def __getitem__(self, step: int) -> Batch:
        if self._pool is None:
            return self._read(step, self._indices(step))
        for n in range(step, step + 1 + AHEAD * self.workers):
            if n not in self._ahead:
                self._ahead[n] = self._pool.submit(self._read, n, self._indices(n))
        return self._ahead.pop(step).result()

    def _indices(self, step: int) -> Tensor:
        return self.order.batch((step - 1) * self.batch, self.batch)[self.rows]

    def _read(self, step: int, indices: Tensor) -> Batch:
        return self.split.batch(indices, seed=self.seed, draw=step)

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
