"""Tables, the picture and the files of ``solvers.py``."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path as File
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

Row = tuple[str, str]
"""Name and grid of a configuration; the grid is ``"own"`` or empty where it has no name of its own."""

EVALUATIONS = (5, 8, 10, 15, 20, 30, 50)

DEFAULT: Row = ("langevin default", "own")
STRONG: Row = ("azula exponential AB4 ε, log", "")
COMMON: Row = ("diffusers DPM-Solver++(2M), karras", "")
"""What the library takes by itself, a peer that is strong everywhere, and what most people use."""

BLIND: tuple[Row, ...] = (("langevin default knowing a spread", "own"), ("langevin default knowing nothing", "own"))
"""The default where a model carries one variance in the covariance's place, or no moments."""


NOISY: Row = ("langevin default with η = 1", "own")
NOISY_COMMON: Row = ("dpmpp-2m-sde", "own")
"""The default that adds noise, and what most people use of those."""


class Cell(Protocol):
    """What a result belongs to."""

    kind: str
    seed: int
    budget: int

    @property
    def problem(self) -> str:
        """Its name."""
        ...

    @property
    def row(self) -> Row:
        """The configuration."""
        ...

    @property
    def family(self) -> str:
        """``"langevin"`` or the peer's package."""
        ...


class Results:
    """Measured cells of one kind by problem, configuration, budget and seed."""

    def __init__(self, kind: str, cells: Iterable[tuple[Cell, Mapping[str, Any] | None]]) -> None:
        self.kind = kind
        self.values: dict[tuple[str, Row, int], dict[int, Mapping[str, Any]]] = defaultdict(dict)
        self.family: dict[Row, str] = {}
        self.whole: set[Row] = set()
        self.refused: dict[Row, str] = {}
        self.problems: list[str] = []
        for cell, value in cells:
            if cell.kind != kind or value is None:
                continue
            if cell.problem not in self.problems:
                self.problems.append(cell.problem)
            self.family[cell.row] = cell.family
            if "refused" in value:
                self.refused[cell.row] = value["refused"]
                continue
            if value["whole"]:
                self.whole.add(cell.row)
            self.values[cell.problem, cell.row, cell.budget][cell.seed] = value
        self.budgets = sorted({budget for _, _, budget in self.values})

    def mean(self, problem: str, row: Row, budget: int, figure: str) -> float:
        """Over seeds; nan where there is nothing."""
        seeds = self.values.get((problem, row, budget), {})
        return sum(v[figure] for v in seeds.values()) / len(seeds) if seeds else math.nan

    def line(self, problem: str, row: Row, figure: str) -> list[float]:
        """``mean`` at every budget."""
        return [self.mean(problem, row, n, figure) for n in self.budgets]

    def ratio(self, problem: str, row: Row, other: Row, figure: str) -> list[float]:
        """At every budget, the mean over seeds of the ratio within a seed."""
        found = []
        for n in self.budgets:
            one, two = (self.values.get((problem, r, n), {}) for r in (row, other))
            both = [one[s][figure] / two[s][figure] for s in one if s in two]
            found.append(sum(both) / len(both) if both else math.nan)
        return found

    def best(self, problem: str, rows: Iterable[Row], figure: str) -> list[float]:
        """At every budget the smallest mean of some rows: chosen afterwards, cell by cell."""
        lines = [self.line(problem, row, figure) for row in rows]
        return [min((v for v in cell if math.isfinite(v)), default=math.nan) for cell in zip(*lines)]

    def of(self, ours: bool) -> list[Row]:
        """Rows of ours or of peers, those that use no more than the belief's mean."""
        return [r for r in self.family if (self.family[r] == "langevin") == ours and r not in self.whole]

    def have(self, *rows: Row | None) -> list[Row]:
        """Those that were measured, each once."""
        return list(dict.fromkeys(r for r in rows if r is not None and r in self.family))

    def ordered(self, problem: str, rows: Iterable[Row], figure: str) -> list[Row]:
        """By the geometric mean over budgets; what is missing or infinite counts as 10⁴."""
        size = lambda v: math.log(v) if 0 < v < 1e4 else math.log(1e4) if v != 0 else -40.0
        return sorted(rows, key=lambda row: sum(map(size, self.line(problem, row, figure))))

    def strongest(self, figure: str, rows: list[Row]) -> Row | None:
        """The row with the smallest geometric mean of its ratio to the best row of each cell, over all cells."""
        total = dict.fromkeys(rows, 0.0)
        for problem in self.problems:
            best = self.best(problem, rows, figure)
            for row in rows:
                ratios = [v / b for v, b in zip(self.line(problem, row, figure), best) if b > 0]
                total[row] += sum(math.log(r) if 0 < r < math.inf else math.inf for r in ratios)
        able = [row for row in rows if math.isfinite(total[row])]
        return min(able, key=lambda row: total[row], default=None)


def title(row: Row, marked: Set[Row] = frozenset()) -> str:
    """How a row is named."""
    return row[0] + (f", {row[1]}" if row[1] not in ("", "own") else "") + (" †" if row in marked else "")


def show(value: float) -> str:
    """Two digits."""
    return "—" if math.isnan(value) else f"{value:.2g}" if 0.01 <= value < 100 else f"{value:.1e}"


def print_table(console: Console, name: str, budgets: list[int], rows: Mapping[str, list[float]]) -> None:
    """One table of figures."""
    table = Table(name, *map(str, budgets), title_justify="left")
    for label, values in rows.items():
        table.add_row(label, *map(show, values))
    console.print(table)


def tell_flow(results: Results, console: Console, top: int) -> dict[str, Any]:
    """Tables of the deterministic solvers."""
    theirs, ours = results.of(ours=False), results.of(ours=True)
    strong = results.strongest("median", theirs)
    told: dict[str, Any] = {}
    if strong:
        told["strongest fixed peer"] = title(strong)
        console.print(f"strongest fixed peer of this run, by the median: {title(strong)}")
    for problem in results.problems:
        ranked = results.ordered(problem, [r for r in ours if r not in (DEFAULT, *BLIND)], "median")
        rows = results.have(
            DEFAULT, *BLIND, *(r for r in ranked if r[1] == "own"), *ranked[:top], strong, STRONG, COMMON
        )
        rows = results.have(*rows, *results.ordered(problem, theirs, "median")[:top])
        lines = {title(r): results.line(problem, r, "median") for r in rows}
        if theirs:
            lines["best of all peers, cell by cell"] = results.best(problem, theirs, "median")
        print_table(console, f"median error, {problem}", results.budgets, lines)

        ratios: dict[str, list[float]] = {}
        for figure in ("median", "rms") if DEFAULT in results.family else ():
            for other in results.have(strong, STRONG, COMMON):
                ratios[f"{figure}: default ÷ {title(other)}"] = results.ratio(problem, DEFAULT, other, figure)
            for row in results.have(*BLIND) if strong else ():
                assert strong
                ratios[f"{figure}: {title(row)} ÷ {title(strong)}"] = results.ratio(problem, row, strong, figure)
        for row in results.have(DEFAULT, strong, STRONG, COMMON):
            ratios[f"rms: {title(row)}"] = results.line(problem, row, "rms")
        if theirs:
            ratios["rms: best of all peers, cell by cell"] = results.best(problem, theirs, "rms")
        print_table(console, f"ratios and RMS, {problem}", results.budgets, ratios)
        told[problem] = {"median": lines, "more": ratios}
    return told


def tell_law(results: Results, console: Console, floors: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Tables of the stochastic solvers."""
    told: dict[str, Any] = {}
    for problem in results.problems:
        ranked = results.ordered(problem, results.family, "w2")
        lines = {title(r, results.whole): results.line(problem, r, "w2") for r in ranked}
        for whose, ours in (("ours", True), ("all peers", False)):
            rows = [row for row in results.of(ours) if row not in (DEFAULT, STRONG, COMMON)]  # these add no noise
            if rows:
                lines[f"best stochastic solver of {whose}, cell by cell"] = results.best(problem, rows, "w2")
        floor = floors[problem]
        name = f"sliced W2, {problem} (floor {floor['mean']:.3f}, + 4 sd {floor['most']:.3f})"
        print_table(console, name, results.budgets, lines)
        told[problem] = {"floor": floor, "w2": lines}
    if results.whole:
        console.print("† uses the covariance or the whole law of the belief, which a network does not give")
    return told


def flow_records(results: Results) -> dict[str, Table]:
    """What the documentation shows of the deterministic solvers, by the name of the record."""
    theirs = results.of(ours=False)
    strong = results.strongest("median", theirs)
    if strong is None or DEFAULT not in results.family:
        return {}
    budgets, nothing = [str(n) for n in results.budgets], BLIND[1]
    named = {
        "**default**": DEFAULT,
        "default, one variance known": BLIND[0],
        "default, nothing known": nothing,
        **{title(row): row for row in results.have(strong, STRONG, COMMON)},
    }
    errors = Table("median error", *budgets)
    worlds = Table("world", "known", "against", *budgets)
    found = {"solvers-errors": errors, "solvers-remainder": worlds}
    for problem in results.problems:
        errors.add_row(f"*{problem}*", *[""] * len(budgets))
        for label, row in named.items():
            errors.add_row(label, *map(show, results.line(problem, row, "median")))
        best = results.best(problem, theirs, "median")
        errors.add_row("best peer of each cell", *map(show, best))
        for known, row in (("moments", DEFAULT), ("nothing", nothing)):
            for other in results.have(strong, STRONG):
                worlds.add_row(problem, known, title(other), *map(show, results.ratio(problem, row, other, "median")))
            line = [a / b for a, b in zip(results.line(problem, row, "median"), best)]
            worlds.add_row(problem, known, "best of each cell", *map(show, line))
    for record, other in (("solvers-strongest", strong), ("solvers-adams-bashforth", STRONG)):
        if other in results.family:
            found[record] = table = Table(f"default ÷ {title(other)}", *budgets)
            for problem in results.problems:
                for figure in ("median", "rms"):
                    table.add_row(f"{problem}, {figure}", *map(show, results.ratio(problem, DEFAULT, other, figure)))
    return found


def law_records(results: Results, floors: Mapping[str, Mapping[str, float]]) -> dict[str, Table]:
    """What the documentation shows of the stochastic solvers."""
    named = {"default with η = 1": NOISY, "SDE-DPM-Solver++(2M), `dpmpp-2m-sde`": NOISY_COMMON}
    if not results.problems or not results.have(NOISY) or not results.of(ours=False):
        return {}
    table = Table("sliced W2", *map(str, results.budgets))
    for problem in results.problems:
        floor = floors[problem]
        floor_told = f"floor {floor['mean']:.3f} ({floor['most']:.3f})"
        table.add_row(f"*{problem}*, {floor_told}", *[""] * len(results.budgets))
        lines = {label: results.line(problem, row, "w2") for label, row in named.items()}
        lines["best stochastic peer of each cell"] = results.best(
            problem, [row for row in results.of(ours=False) if row not in (STRONG, COMMON)], "w2"
        )
        for label, line in lines.items():
            table.add_row(label, *map(show, line))
    return {"solvers-law": table}


def draw(flow: Results, law: Results, floors: Mapping[str, Mapping[str, float]], path: File) -> None:
    """Error against evaluations, a panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = []  # a line a process, a column a world
    for results in (flow, law):
        processes = list(dict.fromkeys(problem.split()[0] for problem in results.problems))
        panels += [(results, p) for process in processes for p in results.problems if p.split()[0] == process]
    if not panels:
        return
    columns = min(len({problem.split(" ", 1)[1] for _, problem in panels}), len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5 * columns, 4 * lines), squeeze=False)
    for axis, (results, problem) in zip(axes.flat, panels):
        panel(axis, results, problem, floors.get(problem) if results is law else None)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def panel(axis: Any, results: Results, problem: str, floor: Mapping[str, float] | None) -> None:
    """One problem: all peers grey, all of ours blue, and the named rows over them."""
    what, label = ("median", "median error / RMS of the data") if floor is None else ("w2", "sliced W2")
    budgets = results.budgets
    theirs = results.of(ours=False)
    for rows, colour, alpha, name in (
        (theirs, "0.8", 1.0, "every peer"),
        (results.of(ours=True), "tab:blue", 0.5, "every solver of langevin × grid"),
    ):
        for i, row in enumerate(rows):
            line = results.line(problem, row, what)
            axis.plot(budgets, line, color=colour, alpha=alpha, lw=0.7, label=None if i else name)
    named = [results.best(problem, theirs, what)] if theirs else []
    for line in named:
        axis.plot(budgets, line, "k--", lw=1.2, label="best peer of each cell")
    for row, colour in ((STRONG, "tab:orange"), (COMMON, "tab:green"), (DEFAULT, "tab:red")):
        if row in results.family:
            named.append(results.line(problem, row, what))
            width = 2.0 if row == DEFAULT else 1.2
            axis.plot(budgets, named[-1], "o-", ms=3, lw=width, color=colour, label=title(row))
    if floor is not None:
        axis.axhline(floor["mean"], color="k", lw=0.8, ls=":", label="floor")
    shown = [v for line in named for v in line if 0 < v < math.inf]
    if shown:
        axis.set_ylim(min(shown) / 3, max(shown) * 8)
    axis.set(xscale="log", yscale="log", title=problem, xlabel="evaluations", ylabel=label)
    axis.set_xticks(budgets, [str(b) for b in budgets])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def write(folder: File, results: Iterable[Results], told: Mapping[str, Any]) -> None:
    """Every cell as CSV, the tables as JSON."""
    with (folder / "solvers.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            ["kind", "problem", "family", "solver", "grid", "budget", "seed", "evaluations", "figure", "value"]
        )
        for part in results:
            for (problem, row, budget), seeds in part.values.items():
                for seed, value in seeds.items():
                    for figure in ("median", "rms", "w2"):
                        if figure in value:
                            place = (part.kind, problem, part.family[row], *row, budget, seed, value["evaluations"])
                            out.writerow([*place, figure, f"{value[figure]:.6g}"])
    (folder / "solvers.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
