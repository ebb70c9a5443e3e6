"""Every solver of ours and of the peers on exact worlds: error against evaluations, one table, one picture.

    python benchmarks/solvers.py --quick          # one seed, two worlds, 5/10/20 evaluations: under a minute
    python benchmarks/solvers.py                  # everything; interrupt and start again as you like
    python benchmarks/solvers.py --solver ddim --world 2-D --no-peers

Deterministic solvers: the error at the end of the path (t_min, or 0 with ``--end 0``) against the exact flow from the
same noise, as the RMS of a coordinate over the RMS of the data; the median over samples, and the RMS over samples
beside it (in 64 dimensions that is a handful of samples which land in another mode). Stochastic solvers: sliced
Wasserstein-2 between 20,000 samples at t = 0 and as many of the truth, beside what two sets of the truth show.

Evaluations are counted, not assumed: a solver that takes several a step gets as many steps as the budget allows. Ours
are all rows of the registry, on their own grid and on every registered grid that a process allows; peers are what is
installed. The strongest fixed peer is the one configuration with the smallest geometric mean of its ratio to the best
peer of each cell. Ratios are means over seeds of the ratio within a seed.

What was measured is kept under ``out/solvers`` by the source of the solver, so that a second run only measures what
changed. ``solvers.csv`` holds every cell, ``solvers.json`` the tables, ``solvers.png`` the picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import re
import time
from pathlib import Path as File

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

import exact
import langevin
import peers
import record
import tables
from entries import Entry, Ours, ours, theirs
from exact import CACHE, PROCESSES, WORLDS, Problem
from langevin.metrics import sliced_wasserstein

LAW_SAMPLES = 20_000
PROJECTIONS = 64


# --- measuring --------------------------------------------------------------------------------------------------------


@functools.cache
def fingerprint() -> dict[str, str]:
    """What a figure depends on beside its cell: the source for ours, versions and the adapters for peers."""

    def digest(paths: list[File], more: str = "") -> str:
        text = b"".join(p.read_bytes() for p in sorted(paths))
        return hashlib.blake2b(text + more.encode(), digest_size=6).hexdigest()

    here, package = File(__file__).parent, File(langevin.__file__).parent
    rooms = [
        p
        for room in ("samplers", "processes", "denoisers", "distributions", "numerics")
        for p in (package / room).rglob("*.py")
    ]
    mixture = package / "worlds" / "mixture.py"
    truth = "".join(map(inspect.getsource, (exact.FastMean, exact.ring, exact.fine, exact.flow, exact.Problem)))
    return {
        "langevin": digest([*rooms, mixture], truth + inspect.getsource(Ours)),
        "peers": digest([mixture, here / "peers.py"], truth + json.dumps(peers.versions())),
    }


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure to measure."""

    entry: Entry
    process: str
    world: str
    seed: int
    budget: int
    end: str
    samples: int
    kind: str

    @property
    def problem(self) -> str:
        """The problem's name."""
        return f"{self.process} {self.world}"

    @property
    def row(self) -> tables.Row:
        """Name and grid."""
        return self.entry.name, self.entry.grid

    @property
    def family(self) -> str:
        """``"langevin"`` or the peer's package."""
        return self.entry.family

    def key(self, prints: dict[str, str]) -> str:
        """What it is kept under."""
        mark = prints["langevin" if self.entry.family == "langevin" else "peers"]
        parts = (mark, self.kind, self.problem, self.seed, self.samples, self.end, self.budget, self.entry.name)
        return json.dumps([*parts, self.entry.grid])


class Store:
    """Measured cells, a line each."""

    def __init__(self, path: File) -> None:
        self.path, self.cells = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # a run stopped while it wrote
                    continue
                self.cells[row["key"]] = row["value"]

    def __contains__(self, key: str) -> bool:
        return key in self.cells

    def put(self, key: str, value: dict[str, object]) -> None:
        self.cells[key] = value
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")


def measure(cell: Cell, problem: Problem, truth: Tensor | None) -> dict[str, object]:
    """Errors of a cell, or why there are none."""
    try:
        y, evaluations, whole = cell.entry.run(problem, cell.budget, cell.end)
    except (peers.Unsupported, langevin.UserError) as reason:
        return {"refused": str(reason)}
    except Exception as error:  # a peer that breaks down is a result, and must not end the run
        return {"refused": f"{type(error).__name__}: {error}"[:200]}
    value: dict[str, object] = {"evaluations": evaluations, "whole": whole}
    if truth is None:
        return {**value, **problem.errors(y, cell.end)}
    if not y.isfinite().all():
        return {**value, "w2": math.inf}
    return {**value, "w2": sliced_wasserstein(y.double(), truth, projections=PROJECTIONS, seed=0)}


def floor_of(problem: Problem, store: Store, samples: int, pairs: int = 16) -> dict[str, float]:
    """Sliced W2 between two sets of the truth: its mean, and mean + 4 sd, over independent pairs."""
    key = json.dumps(["floor", problem.name, problem.seed, samples, PROJECTIONS, pairs])
    if key not in store:
        draw = lambda i: problem.world.sample(samples, 10_000 + i)
        values = [
            sliced_wasserstein(draw(2 * i), draw(2 * i + 1), projections=PROJECTIONS, seed=0) for i in range(pairs)
        ]
        found = torch.tensor(values, dtype=torch.float64)
        store.put(key, {"mean": float(found.mean()), "most": float(found.mean() + 4 * found.std())})
    return store.cells[key]


def plan(settings: argparse.Namespace, entries: list[Entry]) -> list[Cell]:
    """All cells in the order they are measured: a problem at a time."""
    cells = []
    for seed in range(settings.seeds):
        for world in settings.world:
            for process in settings.process:
                for entry in entries:
                    if not entry.stochastic and settings.flow:
                        for n in settings.evaluations:
                            cells.append(Cell(entry, process, world, seed, n, settings.end, settings.samples, "flow"))
                    reference = (entry.name, entry.grid) in (tables.DEFAULT, tables.STRONG, tables.COMMON)
                    of_law = entry.stochastic and (entry.grid in ("", "own", "karras") or settings.all_grids)
                    if settings.law and seed < settings.law_seeds and (of_law or reference):
                        for n in settings.evaluations:
                            cells.append(Cell(entry, process, world, seed, n, "0", settings.law_samples, "law"))
    return sorted(
        cells, key=lambda c: (c.kind, c.seed, settings.world.index(c.world), settings.process.index(c.process))
    )


def run(cells: list[Cell], store: Store, prints: dict[str, str], console: Console, seconds: float) -> bool:
    """Measure what is not there yet; whether all of it is there now."""
    todo = [cell for cell in cells if cell.key(prints) not in store]
    begun, at, problem, truth = time.monotonic(), None, None, None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for cell in todo:
            if time.monotonic() - begun > seconds:
                return False
            if at != (cell.kind, cell.problem, cell.seed):
                at = (cell.kind, cell.problem, cell.seed)
                problem = Problem(cell.world, cell.process, cell.seed, cell.samples)
                truth = problem.world.sample(cell.samples, 7) if cell.kind == "law" else None
                if cell.kind == "law":
                    floor_of(problem, store, cell.samples)
            assert problem is not None
            name = f"{cell.problem}, seed {cell.seed}: {cell.entry.name} {cell.entry.grid}"
            progress.update(task, description=f"{name[:60]:60}")
            store.put(cell.key(prints), measure(cell, problem, truth))
            progress.advance(task)
    return True


# --- the command -----------------------------------------------------------------------------------------------------


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 2-D and 64-D under EDM, 5/10/20 evaluations")
    parser.add_argument("--solver", action="append", default=[], help="only solvers whose name matches; repeatable")
    parser.add_argument("--world", action="append", choices=list(WORLDS), default=[])
    parser.add_argument("--process", action="append", choices=list(PROCESSES), default=[])
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--flow", action=argparse.BooleanOptionalAction, default=True, help="deterministic solvers")
    parser.add_argument("--law", action=argparse.BooleanOptionalAction, default=True, help="stochastic solvers")
    parser.add_argument("--grids", dest="all_grids", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--evaluations", type=int, nargs="+", default=list(tables.EVALUATIONS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--law-seeds", type=int, default=1, help="of the stochastic table")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--law-samples", type=int, default=LAW_SAMPLES)
    parser.add_argument("--end", choices=("t_min", "0"), default="t_min")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop measuring after so long; resumes")
    parser.add_argument("--top", type=int, default=5, help="rows of other solvers in each table")
    parser.add_argument("--out", type=File, default=CACHE)
    parser.add_argument("--record", action="store_true", help="keep the tables for the documentation")
    settings = parser.parse_args(argv)
    if settings.quick:
        settings.seeds, settings.evaluations, settings.process = 1, [5, 10, 20], settings.process or ["EDM"]
        settings.world = settings.world or ["2-D", "64-D"]
        settings.law_samples, settings.all_grids = min(settings.law_samples, 1000), False
    settings.world = settings.world or list(WORLDS)
    settings.process = settings.process or list(PROCESSES)
    return settings


def main(argv: list[str] | None = None) -> None:
    """Measure, print, draw."""
    settings = arguments(argv)
    console = Console(width=150)
    entries, notes = ours()
    if settings.peers:
        more, missing = theirs()
        entries, notes = entries + more, notes + missing
    wanted = lambda e: not settings.solver or any(re.search(s, f"{e.name} {e.grid}", re.I) for s in settings.solver)
    chosen = [e for e in entries if wanted(e) and (settings.all_grids or e.grid in ("", "own", "karras"))]
    cells, prints, store = plan(settings, chosen), fingerprint(), Store(settings.out / "cells.jsonl")
    console.print(
        f"{len(chosen)} configurations, {len(cells)} cells, {settings.samples} samples, {settings.seeds} seeds, "
        f"to t = {settings.end}; torch {torch.__version__}, "
        + ", ".join(f"{k} {v}" for k, v in peers.versions().items() if k != "torch")
    )
    try:
        complete = run(cells, store, prints, console, settings.seconds)
    except KeyboardInterrupt:
        complete = False
    measured = [(cell, store.cells.get(cell.key(prints))) for cell in cells]
    flow, law = (tables.Results(kind, measured) for kind in ("flow", "law"))
    floors = {}
    for problem in law.problems:
        process, world = problem.split(" ", 1)
        floors[problem] = floor_of(Problem(world, process, 0), store, settings.law_samples)
    told: dict[str, object] = {"complete": complete, "versions": peers.versions(), "settings": _plain(settings)}
    told["flow"] = tables.tell_flow(flow, console, settings.top)
    told["law"] = tables.tell_law(law, console, floors)
    tables.write(settings.out, (flow, law), told)
    if complete:
        for name, table in (tables.flow_records(flow) | tables.law_records(law, floors)).items():
            record.show(name, table, width=150)
    tables.draw(flow, law, floors, settings.out / "solvers.png")
    reasons = {f"{tables.title(row)}: {why}" for part in (flow, law) for row, why in part.refused.items()}
    for note in (*notes, *sorted(reasons)):
        console.print(note, style="dim", markup=False)
    missing_cells = sum(cell.key(prints) not in store for cell in cells)
    if not complete:
        console.print(f"stopped with {missing_cells} of {len(cells)} cells to measure; the same command goes on")
    console.print(f"{settings.out}/solvers.csv, solvers.json, solvers.png")


def _plain(settings: argparse.Namespace) -> dict[str, object]:
    return {k: str(v) if isinstance(v, File) else v for k, v in vars(settings).items() if v != math.inf}


if __name__ == "__main__":
    main()
