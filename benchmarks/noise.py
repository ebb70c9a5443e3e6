"""What a normal costs, in nanoseconds: ours beside torch.randn and one torch.Generator a sample.

    python benchmarks/noise.py

One thread, processor time, the best of several repetitions. Ours and the generators give sample i the same numbers in
any batch; torch.randn does not.
"""

from __future__ import annotations

import math
import time
import timeit
from collections.abc import Callable

import torch

from langevin import Noise

CASES = [(64, (2,)), (64, (1, 8, 8)), (64, (3, 32, 32)), (16, (3, 128, 128)), (2000, (2,))]


def nanoseconds(draw: Callable[[], object], numbers: int) -> float:
    """Processor time of one number."""
    loops = max(1, 200_000 // numbers)
    return min(timeit.repeat(draw, number=loops, repeat=9, timer=time.process_time)) / loops / numbers * 1e9


def by_generator(batch: int, shape: tuple[int, ...]) -> torch.Tensor:
    """What others do for the same property: a generator a sample."""
    generators = (torch.Generator().manual_seed(i) for i in range(batch))
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])


def row(batch: int, shape: tuple[int, ...]) -> str:
    """One line of the table."""
    numbers = batch * math.prod(shape)
    noise = Noise(0, batch)
    columns = (
        nanoseconds(lambda: noise.normal(shape), numbers),
        nanoseconds(lambda: torch.randn(batch, *shape, dtype=torch.float64), numbers),
        nanoseconds(lambda: by_generator(batch, shape), numbers),
    )
    return f"{f'{batch} × {shape}':>20} " + " ".join(f"{c:14.1f}" for c in columns)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'batch × event':>20} {'Noise.normal':>14} {'torch.randn':>14} {'generators':>14}   ns a float64 normal")
    for batch, shape in CASES:
        print(row(batch, shape))


if __name__ == "__main__":
    main()
