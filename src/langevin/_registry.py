"""The registry: one row a method, with its paper, its place in the code and its proof."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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

M = TypeVar("M", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A row: what it is called, who published it, where it stands and how it was proven.

    ``about`` is what else is known before it is made: of a data set its ``Entry``.
    """

    category: str
    name: str
    make: Callable[..., Any]
    title: str
    arxiv: str = ""
    proof: str = ""
    about: Any = None

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
    about: Any = None,
) -> Callable[[M], M]:
    """Enter a class or function into the registry under ``category/name``; returns it unchanged.

    ``proof`` is one of ``exact``, ``parity``, ``data`` with the test that holds it.
    """

    def enter(made: M) -> M:
        key = (category, name)
        if key in _METHODS and _METHODS[key].make is not made:
            raise ValueError(f"registry: {category}/{name} is entered twice")
        _METHODS[key] = Method(category, name, made, title, arxiv, proof, about)
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


def name_of(category: str, made: object) -> str | None:
    """The name under which a class or function is entered; None if it is not."""
    return next((row.name for row in _METHODS.values() if row.category == category and row.make is made), None)


class Table(Mapping[str, T], Generic[T]):
    """Rows of a category by name, those of which ``read`` makes something: what is entered later is there as well."""

    def __init__(self, category: str, read: Callable[[Method], T | None]) -> None:
        self._category, self._read = category, read

    def _get(self, name: str) -> T | None:
        row = _METHODS.get((self._category, name))
        return None if row is None else self._read(row)

    def __getitem__(self, name: str) -> T:
        found = self._get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for category, name in tuple(_METHODS) if category == self._category and name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._get(name) is not None


def classes(category: str, kind: type[T], but: tuple[type, ...] = ()) -> Table[type[T]]:
    """The classes of a category that are of a kind, and of none of some others, by name."""

    def read(row: Method) -> type[T] | None:
        made: Any = row.make
        return made if isinstance(made, type) and issubclass(made, kind) and not issubclass(made, but) else None

    return Table(category, read)
