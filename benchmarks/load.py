"""Training beside other processes: images a second and the share that is left, for each way in which OpenMP may wait.

    python benchmarks/load.py [--seconds 12] [--busy 0 1 3]

Each cell is a process of its own, since OpenMP reads its settings when torch is loaded: the optimiser step of the
demo's model (``langevin demo``), on as many threads as named, beside so many processes that do nothing but count. The
cells of a row are taken one after the other, and the median over rounds is printed. What the
commands of langevin set is the row ``passive, all``; ``active, all`` is what OpenMP does when nothing is set.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

BUSY = "while True: pass"


@dataclass
class Settings:
    """What to measure."""

    seconds: float = 12.0
    """Seconds of training steps in a cell."""
    busy: tuple[int, ...] = (0, 1, 3)
    """Numbers of processes beside it."""
    rounds: int = 3
    """Times each cell is taken."""


def rate(seconds: float) -> float:
    """Images a second of the demo's optimiser step in this process."""
    import torch

    from langevin import data, training
    from langevin.distributions import Noise
    from langevin.report import demo_config
    from langevin.training import Learner

    dataset = data.load("digits")
    config = training.resolve_config(demo_config(), dataset.info)
    batch = int(config.batch or 0)
    torch.manual_seed(0)
    denoiser, objective = training.build(config, dataset.info)
    learner = Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=batch)
    rows, hidden = dataset.train.batch(torch.arange(batch)), {"label": 0.1}
    step = lambda number: learner.step(rows, Noise(0, batch, draw=number), number=number, rate=1e-4, dropout=hidden)
    for number in range(1, 4):
        step(number)
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        count += 1
        step(3 + count)
    return batch * count / (time.monotonic() - begun)


def cell(policy: str, threads: int | None, busy: int, seconds: float) -> float:
    """Images a second in a fresh process beside ``busy`` others."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = {**known, **({"OMP_WAIT_POLICY": policy} if policy == "passive" else {})}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        code = f"import runpy; print(runpy.run_path({__file__!r})['rate']({seconds}))"
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return float(json.loads(out.stdout.splitlines()[-1]))


def main(settings: Settings) -> None:
    """Print the table."""
    rows: tuple[tuple[str, int | None], ...] = (("active", None), ("passive", None), ("passive", 1))
    found: dict[tuple[str, int | None, int], list[float]] = {}
    for _ in range(settings.rounds):
        for policy, threads in rows:
            for busy in settings.busy:
                found.setdefault((policy, threads, busy), []).append(cell(policy, threads, busy, settings.seconds))
    print(f"images a second in training the demo's model, {os.cpu_count()} cores; share of the first column")
    print(f"| {'OpenMP waits, threads':24} |" + "".join(f" {n} busy beside |" for n in settings.busy))
    print("|---|" + "---|" * len(settings.busy))
    for policy, threads in rows:
        medians = [statistics.median(found[policy, threads, n]) for n in settings.busy]
        cells = "".join(f" {m:.0f} ({m / medians[0]:.2f}) |" for m in medians)
        print(f"| {policy + ', ' + ('all' if threads is None else str(threads)):24} |{cells}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
