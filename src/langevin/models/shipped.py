"""Models that come with the repository: a model directory each, found by its name, beside its card and its record."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._errors import UserError, unknown
from ..storage import files
from ..storage.untrusted import typed

VARIABLE = "LANGEVIN_MODELS"
"""The variable of the environment that names the folder of models in the place of the checkout's own."""

MOST = 20_000_000
"""Bytes that all models of the repository may have together: what everybody who clones it fetches."""

CONFIG, CARD, INDEX = "config.json", "README.md", "index.json"

FORMAT = 1
"""Version of the index; a reader refuses what it does not know."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Shipped:
    """What is known of a model without loading it; a directory without an index has a name alone.

    Args:
        name: what it is loaded by.
        folder: its model directory.
        title: what it does, a line.
        figure: the headline figure of its card.
        parameters: of its networks.
        trained: ``steps``, ``images`` and ``seconds`` of its training, where they are known.
        stored: how its weights are kept, and how far samples move by that.
        held: size and SHA-256 of each of its files.
    """

    name: str
    folder: Path
    title: str = ""
    figure: str = ""
    parameters: int | None = None
    trained: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    held: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files in its directory."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def check(self) -> None:
        """Refuse files that are not those of the index.

        Raises:
            UserError: with the first that is missing or another.
        """
        files.agree(self.folder, self.held)


def is_name(path: str) -> bool:
    """Whether a text can be the name of a model, rather than a path or a repository of the Hub."""
    return _NAME.fullmatch(path) is not None


def root() -> Path | None:
    """The folder that the models lie in: of ``LANGEVIN_MODELS``, else of the checkout that runs; None if there is none.

    Raises:
        UserError: if ``LANGEVIN_MODELS`` names no directory.
    """
    if asked := os.environ.get(VARIABLE, "").strip():
        folder = Path(asked).expanduser()
        if not folder.is_dir():
            raise UserError(f"{VARIABLE} must be a directory of models, got {asked!r}")
        return folder
    checkout = Path(__file__).resolve().parents[3]
    # Of an installed package this is a folder of Python's, where a `models` would be somebody else's.
    own = (checkout / "pyproject.toml").is_file() and (checkout / "src" / "langevin").is_dir()
    return checkout / "models" if own and (checkout / "models").is_dir() else None


def names() -> list[str]:
    """The models that can be had by name, in order."""
    folder = root()
    if folder is None:
        return []
    return sorted(p.name for p in folder.iterdir() if is_name(p.name) and (p / CONFIG).is_file())


def find(name: str) -> Path | None:
    """The directory of a model by its name; None if there is none of that name."""
    if not is_name(name) or (folder := root()) is None:
        return None
    return folder / name if (folder / name / CONFIG).is_file() else None


def check_own(folder: Path) -> Path:
    """A model directory that may be written into: none that comes with the repository, whose index would be broken.

    Raises:
        UserError: for one of those, with what to do in its place.
    """
    shelf = root()
    if shelf is not None and folder.resolve().parent == shelf.resolve() and (folder / INDEX).is_file():
        raise UserError(
            f"model {folder.name!r} comes with langevin, and its index holds its files as they are: copy the directory "
            f"{folder} first, and give the copy"
        )
    return folder


def described(name: str) -> Shipped:
    """What is known of a model by name.

    Raises:
        UserError: if there is none of that name, or its index is damaged; it names the file.
    """
    folder = find(name)
    if folder is None:
        if not (known := names()) and (there := root()) is not None:
            raise UserError(f"unknown model {name!r}: {there} holds no model")
        raise unknown("model", name, known, where())
    file = folder / INDEX
    if not file.exists():
        return Shipped(name, folder)
    values = files.read_json(file)
    kinds: dict[str, Any] = {
        "title": str,
        "figure": str,
        "parameters": int,
        "trained": dict[str, float],
        "stored": dict[str, Any],
    }
    files.only(file, values, {"langevin", "kind", "files", *kinds})
    if values["langevin"] != FORMAT or values["kind"] != "shipped-model":
        raise UserError(f"{file}: not an index this version of langevin reads")
    named = values["files"] if isinstance(values["files"], dict) else {}
    held = files.digests(file, values["files"], set(filter(inside, named)))
    try:
        read = {key: typed(kind, values[key], key) for key, kind in kinds.items()}
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return Shipped(name, folder, held=held, **read)


def inside(path: str) -> bool:
    """Whether a path of an index stays in its directory."""
    parts = path.split("/")
    return all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", part) for part in parts) and len(parts) <= 2


def index(**values: Any) -> dict[str, Any]:
    """What ``index.json`` holds: the fields of ``Shipped`` but name and folder, ``files`` in the place of ``held``."""
    return {"langevin": FORMAT, "kind": "shipped-model", **values}


def where() -> str:
    """A sentence for messages: where models by name are looked for, if no folder of them is known."""
    if root() is not None:
        return ""
    return (
        " The models that come with langevin lie in a checkout of its repository, not in the installed package: "
        f"{VARIABLE}=DIR names the folder models/ of one."
    )
