"""Resident memory along a long training run: its slope, in MB per 1000 steps, with the slope's standard error.

python benchmarks/leaks.py                    # 20,000 steps of a tiny network: about a minute and a half
python benchmarks/leaks.py --workers 2 --accumulate 2
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
from pathlib import Path
from unittest import mock

import torch

from langevin import data, training
from langevin.training import (
    BudgetConfig,
    Config,
    Learner,
    NetworkConfig,
    ObjectiveConfig,
    OutputConfig,
    ParallelConfig,
)

EVERY = 100


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def along(steps: int, work: ParallelConfig) -> list[float]:
    """Resident memory at every hundredth step, with rows, validation and checkpoints as a run has them."""
    config = Config(
        batch=2,
        network=NetworkConfig("mlp", {"width": "8", "depth": "1", "dropout": "0.1"}),
        objective=ObjectiveConfig(times="importance", times_options={"bins": "4", "terms": "4"}),
        budget=BudgetConfig(steps=steps),
        output=OutputConfig(validate_every=1000, validate_on=64, sample_every=0, checkpoint_every=1000),
        work=work,
    )
    seen: list[float] = []
    plain = Learner.step

    def step(self: Learner, *given: object, **named: object) -> object:
        if named["number"] % EVERY == 0:  # type: ignore[operator]
            gc.collect()
            seen.append(resident())
        return plain(self, *given, **named)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Learner, "step", step):
        training.train(config, data.load("moons", limit=500, progress=False), folder, device="cpu", quiet=True)
    return seen


def slope(values: list[float]) -> tuple[float, float]:
    """Least-squares slope of the means of 16 stretches, per value, and its standard error from their scatter."""
    stretch = len(values) // 16
    means = torch.tensor(values[-16 * stretch :], dtype=torch.float64).reshape(16, stretch).mean(1)
    place = stretch * (torch.arange(16, dtype=torch.float64) - 7.5)
    best = float((place * means).sum() / (place**2).sum())
    rest = means - means.mean() - best * place
    return best, math.sqrt(float((rest**2).sum()) / 14 / float((place**2).sum()))


def run(steps: int = 20_000, work: ParallelConfig | None = None) -> dict[str, float]:
    """The slope after the first fifth of the steps, in which caches fill."""
    seen = along(steps, work or ParallelConfig())
    best, error = slope(seen[len(seen) // 5 :])
    each = 1000 / EVERY
    return {"steps": steps, "MB": seen[-1], "MB per 1000 steps": each * best, "standard error": each * error}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1)
    asked = parser.parse_args()
    found = run(asked.steps, ParallelConfig(workers=asked.workers, accumulate=asked.accumulate))
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
