"""The league table of solvers of inverse problems, as `langevin league` makes it, recorded for the docs.

    python benchmarks/inverse.py --evaluations 20 --record      # benchmarks/records/inverse.json

Exact worlds of 16 and 64 dimensions, three linear operators and one that is not, two noise levels. What the columns are
is printed by the command and said in docs/restore.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from langevin.cli.league import cores, summary
from langevin.report import Bar
from langevin.tasks.restore import league, settings
from langevin.tasks.restore.league import DIMS, EVALUATIONS, OPERATORS, STDS
from record import show


@dataclass
class Options:
    """What is run."""

    dims: tuple[int, ...] = DIMS
    """Dimensions of the worlds."""
    operators: tuple[str, ...] = tuple(OPERATORS)
    """Operators by their names."""
    stds: tuple[float, ...] = STDS
    """Standard deviations of the noise."""
    evaluations: tuple[int, ...] = EVALUATIONS
    """Evaluations of the denoiser a sample."""
    workers: int = 0
    """Settings worked on at a time; 0 is one a core."""
    name: str = "inverse"
    """Of the record."""


def main(options: Options) -> None:
    """Run the league and show its table."""
    with Bar("league") as bar:
        rows = league(
            problems=settings(options.dims, options.operators, options.stds),
            evaluations=options.evaluations,
            workers=options.workers or cores(),
            progress=lambda done, total, row: bar(done, total),
        )
    show(options.name, summary(rows), width=160)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, args=[word for word in sys.argv[1:] if word != "--record"]))
