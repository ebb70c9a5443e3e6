"""The registry: one row a method, with its paper, its place in the code and its proof."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ._errors import unknown

CATEGORIES = {
    "distributions": "distributions",
    "processes": "processes",
    "grids": "processes",
    "denoisers": "denoisers",
    "operators": "operators",
    "worlds": "worlds",
    "guidance": "guidance",
    "objectives": "objectives",
    "likelihood": "likelihood",
    "samplers": "samplers",
    "particles": "samplers",
    "nn": "nn",
    "data": "data",
    "metrics": "metrics",
    "tasks": "tasks",
    "edit": "tasks",
    "inverse": "tasks",
}
"""Categories of the registry in the order of the layout, and the folder whose import fills each."""

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A row: what it is called, who published it, where it stands and how it was proven."""

    category: str
    name: str
    make: Callable[..., Any]
    title: str
    arxiv: str = ""
    proof: str = ""

    @property
    def where(self) -> str:
        """Module and name, as one would import it."""
        made = getattr(self.make, "func", self.make)
        return f"{made.__module__}.{getattr(made, '__qualname__', self.name)}"

    def row(self) -> dict[str, str]:
        """The row as plain strings, for tables and JSON."""
        return {
            "id": f"{self.category}/{self.name}",
            "name": self.title,
            "arxiv": self.arxiv,
            "where": self.where,
            "proof": self.proof,
        }


_METHODS: dict[tuple[str, str], Method] = {}


def register(
    category: str,
    name: str,
    *,
    title: str,
    arxiv: str = "",
    proof: str = "",
) -> Callable[[T], T]:
    """Enter a class or function into the registry under ``category/name``; returns it unchanged.

    ``proof`` is one of ``exact``, ``parity``, ``data`` with the test that holds it.
    """

    def enter(made: T) -> T:
        key = (category, name)
        if key in _METHODS and _METHODS[key].make is not made:
            raise ValueError(f"registry: {category}/{name} is entered twice")
        _METHODS[key] = Method(category, name, made, title, arxiv, proof)  # type: ignore[arg-type]
        return made

    return enter


def methods(category: str | None = None) -> list[Method]:
    """All rows, of one category or of every category, in the order of the layout and of entry."""
    if category is not None and category not in CATEGORIES:
        raise unknown("category", category, CATEGORIES)
    for folder in dict.fromkeys(CATEGORIES.values() if category is None else (CATEGORIES[category],)):
        importlib.import_module(f"langevin.{folder}")
    order = {name: i for i, name in enumerate(CATEGORIES)}
    rows = [m for m in _METHODS.values() if category in (None, m.category)]
    return sorted(rows, key=lambda m: order.get(m.category, len(order)))


def lookup(category: str, name: str) -> Method:
    """The row ``category/name``; an unknown name is an error that gives the nearest."""
    rows = {m.name: m for m in methods(category)}
    if name not in rows:
        more = f" `langevin methods --category {category}` lists them."
        raise unknown("process" if category == "processes" else category.removesuffix("s"), name, rows, more)
    return rows[name]
