"""The registry: one row a method, with its paper, its place in the code and its proof."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ._errors import unknown

ROOMS = {
    "distributions": "distributions",
    "processes": "processes",
    "denoisers": "denoisers",
    "worlds": "worlds",
    "guidance": "guidance",
    "samplers": "samplers",
    "grids": "samplers",
    "objectives": "objectives",
    "likelihood": "likelihood",
    "nn": "nn",
    "data": "data",
    "metrics": "metrics",
    "tasks": "tasks",
}
"""Rooms of the registry in the order of the layout, and the folder whose import fills each."""

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A row: what it is called, who published it, where it stands and how it was proven."""

    room: str
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
            "id": f"{self.room}/{self.name}",
            "name": self.title,
            "arxiv": self.arxiv,
            "where": self.where,
            "proof": self.proof,
        }


_METHODS: dict[tuple[str, str], Method] = {}


def register(
    room: str,
    name: str,
    *,
    title: str,
    arxiv: str = "",
    proof: str = "",
) -> Callable[[T], T]:
    """Enter a class or function into the registry under ``room/name``; returns it unchanged.

    ``proof`` is one of ``exact``, ``parity``, ``data`` with the test that holds it.
    """

    def precondition(made: T) -> T:
        key = (room, name)
        if key in _METHODS and _METHODS[key].make is not made:
            raise ValueError(f"registry: {room}/{name} is entered twice")
        _METHODS[key] = Method(room, name, made, title, arxiv, proof)  # type: ignore[arg-type]
        return made

    return precondition


def methods(room: str | None = None) -> list[Method]:
    """All rows, of one room or of every room, in the order of the layout and of entry."""
    if room is not None and room not in ROOMS:
        raise unknown("room", room, ROOMS)
    for folder in dict.fromkeys(ROOMS.values() if room is None else (ROOMS[room],)):
        importlib.import_module(f"langevin.{folder}")
    order = {name: i for i, name in enumerate(ROOMS)}
    rows = [m for m in _METHODS.values() if room in (None, m.room)]
    return sorted(rows, key=lambda m: order.get(m.room, len(order)))


def lookup(room: str, name: str) -> Method:
    """The row ``room/name``; an unknown name is an error that gives the nearest."""
    rows = {m.name: m for m in methods(room)}
    if name not in rows:
        more = f" `langevin methods --room {room}` lists them."
        raise unknown("process" if room == "processes" else room.removesuffix("s"), name, rows, more)
    return rows[name]
