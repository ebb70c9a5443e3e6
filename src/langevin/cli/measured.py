"""Tables of measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import console

if TYPE_CHECKING:
    from ..data import Dataset


def show(measures: dict[str, dict[str, Any]], drawn: dict[str, Any], dataset: Dataset) -> None:
    """The table of numbers, and the sentences that belong to them."""
    from rich.table import Table
    from rich.text import Text

    how = f"sampler {drawn['sampler']}" if "sampler" in drawn else drawn.get("rule") or drawn["file"]
    calls = f", {drawn['evaluations']} evaluations each" if "evaluations" in drawn else ""
    print(f"{drawn['n']} samples ({how}{calls}) against {len(dataset.test)} held-out of {dataset.info.name}")
    table = Table()
    for name in ("measure", "samples", "95 % interval", "real data", "noise"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    notes: list[str] = []
    for name, found in measures.items():
        value = "–" if found["value"] is None else number(found["value"])
        interval = " … ".join(number(end) for end in found.get("interval", ()))
        if not interval and "stderr" in found:
            interval = f"± {number(found['stderr'])}"
        marks = ""
        if "note" in found:
            notes += [found["note"]] * (found["note"] not in notes)
            marks = f" [{notes.index(found['note']) + 1}]"
        table.add_row(Text(name + marks), value, interval, number(found.get("real")), number(found.get("noise")))
    console().print(table)
    for mark, note in enumerate(notes, 1):
        print(f"[{mark}] {note}")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
