"""The long versions of what breaks things on purpose, and one table of what stood.

    make torture                                  everything, ten minutes a reader of files: some hours
    python tests/torture.py --minutes 0.2 --short the same parts, some minutes

Every row is counted, none is a mark: kills survived of those tried, resumes exact, files read without a crash, shards
that are what an uninterrupted call writes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "training"), str(HERE / "fuzz"), str(HERE.parent / "benchmarks")]

Row = tuple[str, int, int]
"""What, how many went well, of how many."""


@dataclass
class Options:
    """How long."""

    minutes: float = 10
    """For each reader of files that are fuzzed."""
    short: bool = False
    """A share of the kills and of the interruptions."""


def kills(options: Options) -> list[Row]:
    """Writers killed, refused and cut off at every call that writes."""
    import kills

    found = kills.run(long=not options.short)
    for line in found["wrong"]:
        print(line, file=sys.stderr)
    bad = lambda kind: sum(line.startswith(kind) for line in found["wrong"])
    layer = "by LD_PRELOAD" if found["shim"] == "Library" else "in Python"
    return [(f"{kind}, calls caught {layer}", tried - bad(kind), tried) for kind, tried in found["tried"].items()]


def resumes(options: Options) -> list[Row]:
    """Runs stopped, and killed, in every step, whose files must equal those of the run that was not."""
    import test_resume

    from langevin.training import BudgetConfig, ParallelConfig

    torch.set_num_threads(1)
    steps = test_resume.STEPS if options.short else 60
    ways = {"plain": ParallelConfig(), "accumulated, with workers": ParallelConfig(accumulate=3, workers=2)}
    rows = []
    for name, work in ways.items():
        config = replace(test_resume.everything(work=work), budget=BudgetConfig(steps=steps))
        with tempfile.TemporaryDirectory() as folder:
            tried = test_resume.every_way_out(config, Path(folder), steps=steps)  # raises at the first that differs
        rows.append((f"resumes byte for byte, {name}", tried, tried))
    return rows


def fuzz(options: Options) -> list[Row]:
    """Files that nobody would write."""
    import run

    return [(f"files read as {name}", done - crashed, done) for name, done, crashed in run.run(options.minutes)]


def shards(options: Options) -> list[Row]:
    """`langevin sample` killed at random times, by one process and by three."""
    import shards

    return shards.run(long=not options.short)


PARTS: tuple[Callable[[Options], list[Row]], ...] = (kills, resumes, shards, fuzz)


def main(options: Options) -> int:
    """Print the table; 1 if anything fell."""
    table = Table("what", "stood", "of", "minutes")
    fell = 0
    for part in PARTS:
        begun = time.monotonic()
        try:
            rows = part(options)
        except Exception as error:
            print(f"{part.__name__}: {error}", file=sys.stderr)
            rows = [(f"{part.__name__} stopped: {type(error).__name__}", 0, 1)]
        for i, (what, good, tried) in enumerate(rows):
            spent = f"{(time.monotonic() - begun) / 60:.1f}" * (i == 0)
            table.add_row(what, str(good), str(tried), spent)
            fell += good != tried
    Console(width=110).print(table)
    return int(fell > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
