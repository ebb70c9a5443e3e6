"""The rows of every step's batch, read ahead by threads if asked for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ..data import Split
from .order import Order

AHEAD = 2
"""Batches read ahead by a worker."""

Rows = tuple[Tensor, Tensor | None]


class Batches:
    """This process's rows of the batch of a step: a pure function of (seed, step), whoever reads them.

    Data are in memory, so what a thread takes over is to pick, to cut, to mirror and to make floats; the indices of a
    batch are settled before. A run that stops forgets what was read ahead.

    Args:
        split: examples.
        order: which of them a batch holds.
        batch: examples a step, over all processes.
        rows: this process's.
        seed: of the augmentation.
        workers: threads; with 0 a batch is read when it is asked for.
    """

    def __init__(self, split: Split, order: Order, batch: int, rows: slice, seed: int, workers: int = 0) -> None:
        self.split, self.order, self.batch, self.rows, self.seed = split, order, batch, rows, seed
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "langevin-batches") if workers else None
        self._ahead: dict[int, Future[Rows]] = {}

    def __getitem__(self, step: int) -> Rows:
        if self._pool is None:
            return self._read(step, self._indices(step))
        for n in range(step, step + 1 + AHEAD * self.workers):
            if n not in self._ahead:
                self._ahead[n] = self._pool.submit(self._read, n, self._indices(n))
        return self._ahead.pop(step).result()

    def _indices(self, step: int) -> Tensor:
        return self.order.batch((step - 1) * self.batch, self.batch)[self.rows]

    def _read(self, step: int, indices: Tensor) -> Rows:
        return self.split.batch(indices, seed=self.seed, draw=step)

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
