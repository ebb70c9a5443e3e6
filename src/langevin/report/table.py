"""The table of samplers."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from .findings import Row

Cell = Callable[[float], str]

MEASURES: tuple[tuple[str, str, Cell], ...] = (
    ("label-agreement", "read as asked", lambda v: f"{100 * v:.1f} %"),
    ("train-synthetic-test-real", "taught with samples alone", lambda v: f"{100 * v:.1f} %"),
    ("sliced-wasserstein", "sliced Wasserstein", lambda v: f"{v:.3f}"),
    ("frechet/pixels", "Fréchet, pixels", lambda v: f"{v:.2f}"),
    ("precision/pixels", "precision", lambda v: f"{v:.2f}"),
    ("recall/pixels", "recall", lambda v: f"{v:.2f}"),
    ("memorisation", "distance to training", lambda v: f"{v:.2f}"),
)
"""Columns: the measure, its heading, how its numbers are written."""


def table(rows: list[Row], headline: Row) -> str:
    """Sampler × evaluations × quality × time, as HTML; what real scans get stands under each value."""
    heads = ["sampler", "evaluations", *(title for _, title, _ in MEASURES), "samples", "ms a sample"]
    head = "".join(f"<th>{escape(title)}</th>" for title in heads)
    body = "\n".join(_line(row, row is headline) for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _line(row: Row, marked: bool) -> str:
    n = row.drawn.record["n"]
    cells = [escape(row.trial.title), f"{row.drawn.evaluations:,}"]
    for measure, _, written in MEASURES:
        value, floor = row.value(measure), row.value(measure, "real")
        below = "" if floor is None else f"<small>{written(floor)}</small>"
        cells.append("–" if value is None else written(value) + below)
    cells += [f"{n:,}", f"{1000 * row.drawn.seconds / n:.1f}"]
    return f"<tr{' class=headline' if marked else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
