"""Learned solvers as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ... import processes
from ..._errors import UserError
from .sampler import LearnedSolver, SolverUse
from .table import LARGEST, SolverTable

FORMAT = 3
"""Version of the JSON; a reader refuses what it does not know."""


def solver_to_dict(solver: LearnedSolver) -> dict[str, Any]:
    """A learned solver as plain JSON."""
    if solver.table is None or solver.use is None:
        raise UserError("only a solver that was learned for a model can be written")
    use = solver.use
    return {
        "langevin": FORMAT,
        "kind": "learned-solver",
        "steps": solver.table.steps,
        "process": use.process.to_dict(),
        "guidance_scale": use.guidance_scale,
        "label": use.label,
        "frame": None if use.frame is None else dict(zip(("std", "largest"), use.frame)),
        "assumed": None if use.assumed is None else dict(zip(("mean", "variance"), use.assumed)),
        "widened": use.widened,
        "errors": None if use.errors is None else dict(zip(("before", "after"), use.errors)),
        "made": dict(use.made),
        **{f.name: _plain(getattr(solver.table, f.name)) for f in fields(SolverTable)},
    }


def solver_from_dict(values: Mapping[str, Any]) -> LearnedSolver:
    """The inverse of ``solver_to_dict``; nothing in it is executed, and anything unexpected is refused.

    Raises:
        UserError: naming the key.
    """
    if values.get("langevin") != FORMAT or values.get("kind") != "learned-solver":
        raise UserError(
            f"langevin and kind must be {FORMAT} and 'learned-solver', got {values.get('langevin')!r} and "
            f"{values.get('kind')!r}"
        )
    known = {"langevin", "kind", "steps", "errors", "made", *_USED, *(f.name for f in fields(SolverTable))}
    for what, keys in (("lacks", known - values.keys()), ("has unknown", values.keys() - known)):
        if keys:
            raise UserError(f"a learned solver {what} {', '.join(sorted(keys))}")
    numbers = {f.name: _numbers(f.name, values[f.name]) for f in fields(SolverTable) if f.name not in ("own", "before")}
    for name in ("own", "before"):
        rows = values[name]
        if not isinstance(rows, (list, tuple)) or len(rows) > LARGEST:
            raise UserError(f"{name} must be a list of at most {LARGEST} rows")
        numbers[name] = tuple(_numbers(name, row) for row in rows)
    for name in ("nodes", "shifts"):
        if not isinstance(numbers[name], tuple):
            raise UserError(f"{name} must be a list of numbers, got {values[name]!r}")
    for name in ("start", "end"):
        if isinstance(numbers[name], tuple) or (numbers[name] is None and name == "start"):
            raise UserError(f"{name} must be a number, got {values[name]!r}")
    if any(not isinstance(row, tuple) for name in ("own", "before") for row in numbers[name]):
        raise UserError("own and before must be lists of rows")
    table = SolverTable(**numbers)
    if values["steps"] != table.steps:
        raise UserError(f"steps must be the number of nodes, {table.steps}, got {values['steps']!r}")
    label, scale = values["label"], _numbers("guidance_scale", values["guidance_scale"])
    if not (label is None or label == "in turn" or (type(label) is int and label >= 0)):
        raise UserError(f"label must be 'in turn', an index or null, got {label!r}")
    if not isinstance(scale, float):
        raise UserError(f"guidance_scale must be a number, got {values['guidance_scale']!r}")
    widened = _numbers("widened", values["widened"])
    if not isinstance(widened, float) or not 1 <= widened <= WIDEST:
        raise UserError(f"widened must be a number from 1 to {WIDEST:g}, got {values['widened']!r}")
    pairs = {
        "frame": _pair(values, "frame", ("std", "largest")),
        "assumed": _pair(values, "assumed", ("mean", "variance")),
        "errors": _pair(values, "errors", ("before", "after")),
    }
    if (pairs["frame"] is None) == (pairs["assumed"] is None):
        raise UserError("one of frame and assumed must be given, the other null")
    if pairs["assumed"] is not None and not pairs["assumed"][1] > 0:
        raise UserError(f"assumed must have a variance > 0, got {pairs['assumed'][1]}")
    if not isinstance(values["process"], Mapping) or not isinstance(values["made"], Mapping):
        raise UserError("process and made must be JSON objects")
    process = processes.create_process(dict(values["process"]))
    return LearnedSolver(table, SolverUse(process, scale, label, widened=widened, made=dict(values["made"]), **pairs))


_USED = ("process", "guidance_scale", "label", "frame", "assumed", "widened")

WIDEST = 100.0
"""The most that frames are widened."""


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _numbers(name: str, value: Any) -> Any:
    """A number, a tuple of numbers or None."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        if len(value) > LARGEST or any(isinstance(v, (list, tuple)) or v is None for v in value):
            raise UserError(f"{name} must be at most {LARGEST} numbers a row")
        return tuple(_numbers(name, v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name} must hold finite numbers, got {value!r}")
    return float(value)


def _pair(values: Mapping[str, Any], name: str, keys: tuple[str, str]) -> tuple[float, float] | None:
    held = values[name]
    if held is None:
        return None
    if not isinstance(held, Mapping) or set(held) != set(keys):
        raise UserError(f"{name} must be an object of {keys[0]} and {keys[1]}, got {held!r}")
    pair = tuple(_numbers(f"{name}.{key}", held[key]) for key in keys)
    if not all(isinstance(v, float) for v in pair):
        raise UserError(f"{name} must hold numbers, got {held!r}")
    return pair
