"""What a comparison found: a cell per sampler and budget, a side per model and guidance scale."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

MEASURES = ("frechet", "precision", "recall", "sliced-wasserstein")
"""Distances of laws, as the table names them."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One sampler with one budget.

    Args:
        sampler: its registered name, ``default`` or ``learned``.
        rule: the sampler with its settings.
        budget: evaluations of the denoiser that it was allowed.
        steps: the most steps that keep the budget.
        evaluations: of the denoiser, that a sample took.
        network: evaluations of the network, of which a guided belief takes two.
        seconds: for each sample, in the batches that were asked for.
        distance: of each path to the model's own converged path from the same noise, root mean square over coordinates
            in units of the data's standard deviation, ``(P,)``; None where the sampler draws noise, or the process has
            no probability flow.
        measures: of the law of the samples against held-out data, as ``metrics.evaluate`` gives them; empty without
            data.
        shown: the first samples, clipped to the range of the data.
    """

    sampler: str
    rule: str
    budget: int
    steps: int
    evaluations: int
    network: int
    seconds: float
    distance: Tensor | None
    measures: Mapping[str, Mapping[str, Any]]
    shown: Tensor

    @property
    def median(self) -> float | None:
        """The distance of half of the paths, or fewer; None where there is none."""
        return None if self.distance is None else float(self.distance.median())

    def value(self, measure: str) -> float | None:
        """A measure of ``MEASURES``; None where it is not given."""
        for name, found in self.measures.items():
            if name.partition("/")[0] == measure and found.get("value") is not None:
                return float(found["value"])
        return None

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        told = {name: getattr(self, name) for name in ("sampler", "budget", "steps", "evaluations", "network")}
        most = None if self.distance is None else _finite(float(self.distance.quantile(0.9)))
        median = None if self.median is None else _finite(self.median)
        laws = {name: self.value(name) for name in MEASURES}
        return {**told, "seconds": self.seconds, "distance": median, "distance_90": most, **laws}


@dataclass(frozen=True)
class Advice:
    """What to take.

    Args:
        sampler: of the fewest evaluations that are good enough, or of the best cell if none is.
        evaluations: of the denoiser, that it takes.
        reason: why, in a sentence.
        best: the best sampler by budget, with its figure.
    """

    sampler: str
    evaluations: int
    reason: str
    best: Mapping[int, tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Side:
    """One model under one guidance scale: its cells, and what they are measured against.

    Args:
        model: its name.
        guidance_scale: w of classifier-free guidance.
        cells: a sampler after the other, budgets in the order of asking.
        reference: the first ends of the converged paths; None where there are none.
        unresolved: the distance between the reference and the same with half of its steps, the median: below it
            distances say nothing.
        left_out: cells that cannot be, by sampler and budget, with the reason.
        notes: what has to be said.
        data: the held-out data that laws were measured against; None for none.
        low, high: the values shown black and white.
    """

    model: str
    guidance_scale: float
    cells: tuple[Cell, ...]
    reference: Tensor | None
    unresolved: float | None
    left_out: Mapping[tuple[str, int], str]
    notes: tuple[str, ...]
    data: str | None = None
    low: float = -1.0
    high: float = 1.0

    @property
    def title(self) -> str:
        """As tables say it."""
        return self.model if self.guidance_scale == 1 else f"{self.model}, guidance {self.guidance_scale:g}"

    def advice(self, tolerance: float) -> Advice | None:
        """The fewest evaluations with a median distance of at most ``tolerance``, and the best at each budget.

        Where no cell has a distance, cells are judged by the sliced Wasserstein distance to held-out data; there is no
        advice without either.
        """
        paths = any(cell.median is not None for cell in self.cells)
        judged = {cell: cell.median if paths else cell.value("sliced-wasserstein") for cell in self.cells}
        known = {cell: v for cell, v in judged.items() if v is not None and math.isfinite(v)}
        if not known:
            return None
        best: dict[int, tuple[str, float]] = {}
        for budget in dict.fromkeys(cell.budget for cell in known):
            cell = min((c for c in known if c.budget == budget), key=known.__getitem__)
            best[budget] = (cell.sampler, known[cell])
        enough = [cell for cell in known if paths and known[cell] <= tolerance]
        if enough:
            taken = min(enough, key=lambda cell: (cell.evaluations, known[cell]))
            why = (
                f"{taken.sampler} with {taken.evaluations} evaluations: the fewest whose median distance to the "
                f"model's own converged path, {known[taken]:.3g} standard deviations of the data, is at most "
                f"{tolerance:g}"
            )
        else:
            taken = min(known, key=known.__getitem__)
            of = "median distance to the converged path" if paths else "sliced Wasserstein distance to held-out data"
            why = f"{taken.sampler} with {taken.evaluations} evaluations: the least {of}, {known[taken]:.3g}"
            why += f"; none is at most {tolerance:g}, so more evaluations would gain" if paths else ""
        return Advice(taken.sampler, taken.evaluations, why, best)


@dataclass(frozen=True, eq=False)
class Comparison:
    """All of it; prints as a table with its recommendation.

    Args:
        sides: a model and a guidance scale each.
        tolerance: the largest median distance that is good enough, in standard deviations of the data.
        protocol: what is needed to compute it again.
    """

    sides: tuple[Side, ...]
    tolerance: float
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n\n".join(self._told(side) for side in self.sides)

    def _told(self, side: Side) -> str:
        heads = ("sampler", "evaluations", "ms", "distance", "Fréchet", "precision", "recall", "sliced W2")
        rows: list[tuple[str, ...]] = [heads]
        for cell in side.cells:
            laws = (_number(cell.value(name)) for name in MEASURES)
            ms = f"{1000 * cell.seconds:.3g}"
            rows.append((cell.sampler, f"{cell.evaluations}", ms, _number(cell.median), *laws))
        used = [i for i in range(len(heads)) if any(row[i] for row in rows[1:])]
        width = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = [side.title]
        for row in rows:
            cells = (row[i].rjust(width[i]) if i else row[i].ljust(width[i]) for i in used)
            lines.append("  ".join(cells).rstrip())
        lines += [f"left out: {name}, {budget}: {why}" for (name, budget), why in side.left_out.items()]
        lines += side.notes
        found = side.advice(self.tolerance)
        if found is not None:
            lines.append(f"Take {found.reason}.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "kind": "comparison",
            "protocol": dict(self.protocol),
            "sides": [self._side(side) for side in self.sides],
        }

    def _side(self, side: Side) -> dict[str, Any]:
        advice = side.advice(self.tolerance)
        cells = []
        for cell in side.cells:
            each = None if cell.distance is None else [_finite(float(d)) for d in cell.distance]
            more = {"rule": cell.rule, "distances": each, "measures": {k: dict(v) for k, v in cell.measures.items()}}
            cells.append({**cell.row(), **more})
        return {
            "model": side.model,
            "guidance_scale": side.guidance_scale,
            "data": side.data,
            "unresolved": side.unresolved,
            "cells": cells,
            "left_out": [{"sampler": n, "budget": b, "reason": why} for (n, b), why in side.left_out.items()],
            "notes": list(side.notes),
            "advice": None
            if advice is None
            else {
                "sampler": advice.sampler,
                "evaluations": advice.evaluations,
                "reason": advice.reason,
                "tolerance": self.tolerance,
                "best": [{"budget": b, "sampler": name, "value": v} for b, (name, v) in advice.best.items()],
            },
        }

    def to_csv(self) -> str:
        """One row per cell."""
        rows = [
            {"model": side.model, "guidance_scale": side.guidance_scale, **cell.row()}
            for side in self.sides
            for cell in side.cells
        ]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
