"""``langevin league``."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from .._duration import duration
from .options import Whole, at_least_one, check_seed, console, writable

if TYPE_CHECKING:
    from rich.table import Table

    from ..tasks.restore import LeagueRow

QUICK: dict[str, Any] = {"dims": (16,), "stds": (0.3,), "evaluations": (20,)}
"""What `--quick` runs of the whole."""

SETTINGS = "settings"
"""The folder of finished settings, in that of the tables."""

FAR = 10.0
"""A sliced W2 above which a solver has diverged: the data have a root mean square of 0.7."""


@dataclass(frozen=True)
class Options:
    """Solvers of inverse problems against exact posteriors: distance, calibration, a two-sample test, and their floors.

    Prints the table; writes DIR/league.csv (a line for each solver, setting and number of evaluations) and
    DIR/league.json, which says how it was measured. As given it takes some ten minutes on two cores, with --evaluations
    20 100 1000 more than an hour. Finished settings are kept in DIR/settings as they come: the same call goes on where
    one was stopped.
    """

    quick: bool = False
    """16 dimensions, noise 0.3 and 20 evaluations alone: less than a minute."""
    solver: Annotated[tuple[str, ...], arg(metavar="NAME|FILE.py:FUNCTION ...", help_behavior_hint="")] = ()
    """Solvers: names (`langevin methods --category inverse`), or functions of yours,
    `solver(denoiser, measurement, *, noise, steps)`, which alone join all of them; all if not given."""
    dims: Annotated[tuple[int, ...], arg(metavar="D ...", help_behavior_hint="")] = ()
    """Dimensions of the worlds, multiples of 4; 16 and 64 if not given."""
    operators: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """inpainting, averages, random, magnitudes; all four if not given."""
    stds: Annotated[tuple[float, ...], arg(metavar="X ...", help_behavior_hint="")] = ()
    """Standard deviations of the noise; 0.05 and 0.3 if not given."""
    evaluations: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint="")] = ()
    """Evaluations of the denoiser a sample; 20 and 100 if not given. Time grows with them: 1000 takes ten times as long
    as 100."""
    n: Whole = None
    """Samples of one posterior, for distance and test; 128 if not given."""
    pairs: Whole = None
    """Pairs of data and measurement, for calibration; 32 if not given."""
    workers: Whole = None
    """Settings worked on at a time; one a core if not given."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("league")
    """Where the files go. The tables are those of the last call; finished settings of every request are kept."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of data, noise and exact samples."""


def run(options: Options) -> None:
    """Measure, print and write."""
    begun = time.monotonic()
    at_least_one(n=options.n, pairs=options.pairs, workers=options.workers)
    check_seed(options.seed)
    out = writable(options.out)
    from ..generate import machine, versions
    from ..report import Bar
    from ..storage import files
    from ..tasks.restore import league, settings
    from ..tasks.restore.league import DIMS, EVALUATIONS, OPERATORS, STDS, Sizes, finished_settings, solvers_named

    plain: dict[str, Any] = QUICK if options.quick else {"dims": DIMS, "stds": STDS, "evaluations": EVALUATIONS}
    evaluations = options.evaluations or plain["evaluations"]
    problems = settings(
        options.dims or plain["dims"], options.operators or tuple(OPERATORS), options.stds or plain["stds"]
    )
    at_least_one(**{f"evaluations[{i}]": count for i, count in enumerate(evaluations)})
    solvers = solvers_named(options.solver or ("all",))
    sizes = Sizes(options.n or Sizes.n, options.pairs or Sizes.pairs)
    kept = finished_settings(out / SETTINGS, options.solver, solvers, evaluations, sizes, options.seed)
    problems = list(dict.fromkeys(problems))
    there = sum(1 for setting in problems if kept.read(setting) is not None)
    with files.lock(out):
        print(
            f"{len(problems)} setting{'s' * (len(problems) != 1)} (world, operator, noise), each with {len(solvers)} "
            f"solver{'s' * (len(solvers) != 1)} at {listed(evaluations)} evaluations a sample"
            + (f"; {there} were there" if there else ""),
            flush=True,
        )
        with Bar("league") as bar:
            rows = league(
                list(options.solver) or None,
                problems=problems,
                evaluations=evaluations,
                sizes=sizes,
                seed=options.seed,
                workers=options.workers or cores(),
                folder=kept.folder,
                progress=lambda done, total, row: bar(done, total),
            )
        record = {
            "kind": "league",
            "sizes": vars(sizes),
            "seed": options.seed,
            "solvers": kept.request["solvers"],
            "evaluations": list(evaluations),
            "settings_kept": there,
            "machine": machine(),
            "versions": versions(),
            "seconds": round(time.monotonic() - begun, 2),
            "rows": [row.to_dict() for row in rows],
        }
        files.publish(out, {"league.csv": as_csv(rows).encode(), "league.json": files.as_json(record)})
    printed = console(160)
    printed.print(summary(rows), highlight=False, markup=False)
    print(
        "W2: sliced distance to exact samples over that of two exact sets (1 is the floor), the geometric mean over "
        "the settings in which the solver\nis defined. C2ST: accuracy of a nearest-neighbour classifier (floor "
        f"{floor(rows, 'c2st_floor'):.2f}). Ranks: the largest distance of the ranks of the truth from\nuniform ones "
        f"(floor {floor(rows, 'calibration_floor'):.3f}). Half: how much of the truth lies in the central half of the "
        "samples (0.5 is right)."
    )
    print(f"{out} holds league.csv and league.json: every setting by itself. {duration(time.monotonic() - begun)}.")


def listed(counts: Sequence[int]) -> str:
    """Numbers in a sentence."""
    *first, last = map(str, counts)
    return f"{', '.join(first)} and {last}" if first else last


def cores() -> int:
    """The cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_csv(rows: Sequence[LeagueRow]) -> str:
    """A line for each row."""
    text = io.StringIO()
    made = [row.to_dict() for row in rows]
    writer = csv.DictWriter(text, list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    return text.getvalue()


def floor(rows: Sequence[LeagueRow], name: str) -> float:
    """The mean of a floor over the rows."""
    return sum(getattr(row, name) for row in rows) / len(rows)


def mean(values: Sequence[float], *, of_ratios: bool = False) -> float:
    """The mean of those that are there; geometric for ratios."""
    kept = [v for v in values if math.isfinite(v)]
    if not kept:
        return math.nan
    if of_ratios:
        return math.exp(sum(math.log(v) for v in kept) / len(kept))
    return sum(kept) / len(kept)


def summary(rows: Sequence[LeagueRow]) -> Table:
    """A line for each solver, a group of columns for each number of evaluations, means over the settings."""
    from rich.table import Table

    counts = sorted({row.evaluations for row in rows if row.evaluations})
    heads = ["solver", "settings", *(f"{name} @{n}" for n in counts for name in ("W2", "C2ST", "ranks", "half"))]
    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys(row.solver for row in rows):
        own = [row for row in rows if row.solver == name]
        cells = []
        for n in counts:
            here = [row for row in own if row.evaluations in (0, n)]
            good = [row for row in here if not row.note and row.w2 <= FAR]
            ratio = mean([row.w2 / row.w2_floor for row in good], of_ratios=True)
            lost = sum(1 for row in here if row.note == "diverged" or row.w2 > FAR)
            others = ("c2st", "calibration", "coverage")
            figures = [ratio, *(mean([getattr(row, key) for row in good]) for key in others)]
            written = ["–" if math.isnan(v) else f"{v:.{d}f}" for v, d in zip(figures, (2, 2, 3, 2))]
            cells += [written[0] + (f" ({lost} lost)" if lost else ""), *written[1:]]
        tried = [row for row in own if math.isfinite(row.w2) or row.note == "diverged"]
        defined = len({(row.dim, row.operator, row.std) for row in tried})
        table.add_row(name, str(defined), *cells)
    return table
