"""AdamW beside Muon: the held-out loss of the same network on the same batches, after each quarter of a run.

    python benchmarks/optimisers.py [DATA] [--steps N] [--network unet|dit|mlp|…] [--lr RATE …] [--record]

One run for each optimiser and learning rate, from the same weights, with the same data and noise in each step, and the
rate falling along a cosine. The loss is that of the moving average on held-out data, with the same noise for all.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from langevin import data, training
from record import show

NAMES = ("adamw", "muon")
PARTS = 4
"""Looks at each run."""


def run(
    options: argparse.Namespace, dataset: Any, name: str, rate: float | None, out: Path
) -> tuple[list[float], float]:
    """The held-out losses of a run, and its seconds a step."""
    config = training.Config(
        network=training.NetworkConfig(options.network, {k: json.dumps(v) for k, v in options.options.items()}),
        optimiser=training.OptimiserConfig(name, lr=rate),
        budget=training.BudgetConfig(options.steps),
        output=training.OutputConfig(validate_every=options.steps // PARTS, sample_every=0, checkpoint_every=10**9),
    )
    begun = time.monotonic()
    training.train(config, dataset, out, device="cpu", quiet=True)
    took = time.monotonic() - begun
    with open(out / "metrics.csv", encoding="utf-8") as file:
        found = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    return found[-PARTS:], took / options.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--network", help="by name; the data's own if not given")
    parser.add_argument("--options", type=json.loads, default={}, help="of the network, as JSON")
    parser.add_argument("--lr", type=float, nargs="*", default=[], help="learning rates, if not the data's own")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    dataset = data.load(options.data)
    steps = [f"{k * options.steps // PARTS:,}" for k in range(1, PARTS + 1)]
    table = Table("optimiser", "rate", *steps, "ms a step", title=f"held-out loss on {options.data} by steps")
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            for rate in options.lr or [None]:
                losses, seconds = run(options, dataset, name, rate, Path(folder) / f"{name}-{rate}")
                told = "default" if rate is None else f"{rate:g}"
                table.add_row(name, told, *(f"{loss:.4f}" for loss in losses), f"{1000 * seconds:.0f}")
    show(f"optimisers-{options.data}", table)


if __name__ == "__main__":
    main()
