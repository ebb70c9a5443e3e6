"""``langevin evaluate --ema``: one run's model with averages of several lengths, measured from the same noises."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._errors import UserError
from .options import console

Measures = Mapping[str, Mapping[str, Any]]

DISTANCES = ("frechet/", "kernel/", "sliced-wasserstein")
"""What the best length is chosen by: the first of these that every length has, in the last feature space."""


def check(lengths: Sequence[float], model: str) -> list[float]:
    """The lengths in order, before anything is loaded.

    Raises:
        UserError: for one out of its range or given twice, and a model that is no directory.
    """
    from ..training.ema import check_width

    for length in lengths:
        check_width(length, "ema")
    if len(set(lengths)) < len(lengths):
        raise UserError(f"ema must be different lengths, got {', '.join(map(str, lengths))}")
    if not Path(model).expanduser().is_dir():
        raise UserError(f"ema needs the directory of a run on this machine, with its stored averages; got {model}")
    return sorted(lengths)


def compare(
    model: Any, folder: Path, lengths: Sequence[float], measure: Callable[[Any], tuple[Measures, dict[str, Any]]]
) -> dict[str, Any]:
    """Measure the model with an average of each length as its weights.

    Args:
        model: as its directory holds it.
        folder: the directory of the run.
        lengths: σ_rel, each in (0, 0.28], rising.
        measure: draws from a model, the same noises every time; gives the measures and the record of the samples.

    Returns:
        ``lengths``, a row for each with its measures; ``samples``; ``by``, the measure that decides; ``best``, a
        length; ``close``, those that are not told from it.
    """
    from ..training.posthoc_ema import combination, with_ema

    errors = [combination(folder, length).error for length in lengths]  # before any work: what is missing is told
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {}
    for length, error in zip(lengths, errors):
        measures, record = measure(with_ema(model, folder, length))
        rows.append({"ema": length, "profile_error": error, "measures": measures})
    by = decisive([row["measures"] for row in rows])
    best = min(rows, key=lambda row: row["measures"][by]["value"])
    return {
        "lengths": rows,
        "samples": record,
        "by": by,
        "best": best["ema"],
        "close": [row["ema"] for row in rows if row is not best and _overlap(row["measures"], best["measures"], by)],
    }


def decisive(rows: Sequence[Measures]) -> str:
    """The measure that the best length is chosen by."""
    names = [name for name in rows[0] if all(row[name]["value"] is not None for row in rows)]
    for kind in DISTANCES:
        if mine := [name for name in names if name.startswith(kind)]:
            return mine[-1]
    raise UserError("the samples are too few for any distance to the data; draw more (-n)")


def _overlap(one: Measures, other: Measures, by: str) -> bool:
    """Whether the kernel distances in the feature space that decides are not told apart; they have intervals."""
    name = f"kernel/{by.rpartition('/')[2]}"
    if name not in one:
        return False
    (a, b), (c, d) = one[name]["interval"], other[name]["interval"]
    return bool(a <= d and c <= b)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found, in words."""
    rows, best, by = found["lengths"], found["best"], found["by"]
    value = next(row["measures"][by]["value"] for row in rows if row["ema"] == best)
    told = [f"The best EMA length is {best:g}, by {by} ({value:.4g})."]
    if found["close"]:
        close = ", ".join(f"{length:g}" for length in found["close"])
        told.append(
            f"The 95 % interval of its kernel distance overlaps those of {close}: draw more samples (-n) before a "
            "small difference from them counts."
        )
    tried = [row["ema"] for row in rows]
    if len(tried) > 1 and best == tried[0] and best > 0.02:
        told.append("It is the shortest that was tried: try shorter ones too.")
    if len(tried) > 1 and best == tried[-1] and best < 0.25:
        told.append("It is the longest that was tried: try longer ones too.")
    return told


def show(found: Mapping[str, Any]) -> None:
    """The table: a row for each length, how well its profile is met, and two distances; the file holds all of them."""
    from rich.table import Table
    from rich.text import Text

    rows = found["lengths"]
    names = list(dict.fromkeys((found["by"], "sliced-wasserstein")))
    table = Table()
    for name in ("EMA length", "profile error", *names):
        table.add_column(Text(name), justify="right")
    number = lambda value: "–" if value is None else f"{value:.4g}"
    for row in rows:
        length = f"{row['ema']:g}" + " (best)" * (row["ema"] == found["best"])
        values = (number(row["measures"][name]["value"]) for name in names)
        table.add_row(length, f"{100 * row['profile_error']:.2g} %", *values)
    real = (rows[0]["measures"][name].get("real") for name in names)
    table.add_row("real data", "", *("" if value is None else number(value) for value in real))
    console().print(table)


def picture(found: Mapping[str, Any]) -> bytes:
    """A PNG: the measure that decides, and the kernel distance of its feature space, over the length."""
    from matplotlib.figure import Figure

    rows, by = found["lengths"], found["by"]
    lengths = [row["ema"] for row in rows]
    kernel = f"kernel/{by.rpartition('/')[2]}"
    names = [by] + [kernel] * (by != kernel and kernel in rows[0]["measures"])
    figure = Figure(figsize=(4.6 * len(names), 3.4), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        each = [row["measures"][name] for row in rows]
        values = [measured["value"] for measured in each]
        axes.plot(lengths, values, "o-", color="#2563eb", markersize=4, label="samples")
        if all("interval" in measured for measured in each):
            low, high = zip(*(measured["interval"] for measured in each))
            axes.fill_between(lengths, low, high, color="#2563eb", alpha=0.15, linewidth=0, label="95 % interval")
        if each[0].get("real") is not None:
            axes.axhline(each[0]["real"], color="#94a3b8", linestyle="--", label="real data")
        axes.axvline(found["best"], color="#be123c", linewidth=0.8, label=f"best: {found['best']:g}")
        axes.set_xscale("log")
        axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="EMA length σ_rel", title=name)
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
