"""The state of the samplers as Markdown, and the tables that its HTML page shows too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .checks import CHECKS
from .report import CheckResult
from .state import Entry, State

COMMAND = "langevin audit diffusers --out DIR"

OPENING = (
    "Every scheduler of diffusers {release}, driven as its pipelines drive it, around the exact network of a world "
    "whose belief, flow and law are known (three anisotropic normal laws in four dimensions, within [-1, 1]). A "
    "verdict is WRONG where that is proven: the figure is measured, what it is held to is derived in "
    "`langevin.tasks.audit`, and the cause has to be in the scheduler, since the network is exact. Notes are no faults."
)

COLUMNS = (
    ("scheduler", "the class, with settings that differ from its defaults"),
    ("order", "measured against the exact flow at σ/α = 0.3 (64 to 256 steps); in brackets what the class declares"),
    ("path", "median distance of samples to the ends of the exact flow at 10 and 50 steps, in units of the data"),
    (
        "law",
        "sliced W2 over its Monte-Carlo floor at 10, 50 and 1000 steps (500 where 1000 fail); up to 1 as good as data",
    ),
    ("variance", "of samples over that of the data, at the same steps"),
    ("wrong", "the rows that are proven wrong, by name"),
)
"""Columns of the table, with what they mean."""


@dataclass(frozen=True)
class Line:
    """A row of the table, as text."""

    cells: tuple[str, ...]
    wrong: bool


def lines(state: State) -> list[Line]:
    """The table."""
    return [Line(cells(entry), bool(entry.report and entry.report.wrong)) for entry in state.audited]


def cells(entry: Entry) -> tuple[str, ...]:
    """One scheduler's; a check that was not made is a dash."""
    report = entry.report
    assert report is not None
    found = {name: CheckResult(name, "n/a", "") for name in CHECKS} | {row.check: row for row in report.rows}
    order = value(found["order"], "order")
    declared = report.about.get("declared order")
    stochastic = bool(report.about.get("stochastic"))
    in_brackets = f" ({declared:g})" if isinstance(declared, (int, float)) else ""
    return (
        entry.title,
        "draws noise" if stochastic else f"{order}{in_brackets}",
        "" if stochastic else " / ".join(value(found["path"], f"error at {n}", 4) for n in (10, 50)),
        " / ".join(figures(found["law"], "w2 over floor at ")),
        " / ".join(figures(found["moments"], "variance at ")),
        ", ".join(row.check for row in report.wrong) or "-",
    )


def value(row: CheckResult, name: str, digits: int = 2) -> str:
    """A figure of a row."""
    number = row.values.get(name, math.nan)
    return f"{number:.{digits}f}" if math.isfinite(number) else "-"


def figures(row: CheckResult, beginning: str) -> list[str]:
    """All figures of a row whose names begin so."""
    return [f"{v:.2f}" for key, v in row.values.items() if key.startswith(beginning)] or ["-"]


def as_markdown(state: State) -> str:
    """The page."""
    heads = [name for name, _ in COLUMNS]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line.cells) + " |" for line in lines(state)]
    reports = [(e.title, e.report) for e in state.audited if e.report is not None]
    wrong = [f"* **{title}**, {row.check}: {sentence(row)}" for title, report in reports for row in report.wrong]
    notes = [
        f"* {title}, {row.check}: {sentence(row)}"
        for title, report in reports
        for row in report.rows
        if row.verdict == "note" and row.check != "path"
    ]
    left = [f"* {entry.title}: {entry.why_not}" for entry in state.entries if entry.report is None]
    return "\n".join(
        [
            f"# State of the samplers: diffusers {state.release}",
            "",
            OPENING.format(release=state.release),
            "",
            "```",
            COMMAND,
            "```",
            "",
            f"{len(state.audited)} settings of {len({e.name for e in state.audited})} schedulers in "
            f"{state.seconds:.0f} s. One by itself: `langevin audit 'diffusers:CLASS(setting=value)'`; `--reports DIR` "
            "writes a script for each row that is wrong. What each row measures: [audit.md](audit.md).",
            "",
            *(f"* *{name}*: {text}." for name, text in COLUMNS),
            "",
            *table,
            "",
            "## Proven wrong",
            "",
            *(wrong or ["Nothing."]),
            "",
            "## Worth knowing",
            "",
            *(notes or ["Nothing."]),
            "",
            "## Not audited",
            "",
            *(left or ["None."]),
            "",
        ]
    )


def sentence(row: CheckResult) -> str:
    """What a row found and what was expected."""
    return row.figure + (f" (expected: {row.expected})" if row.expected else "")
