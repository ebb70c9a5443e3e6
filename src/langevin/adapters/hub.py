"""Where a model's directory is: here, or fetched from the Hub with what is read of it."""

from __future__ import annotations

from pathlib import Path

from ..models import location
from .diffusers.directory import CONFIG, INDEX, is_diffusers, patterns, read_index


def find(path: str, revision: str | None = None) -> Path:
    """The directory of a path, fetched if it is a repository: of one of diffusers its components alone.

    Raises:
        UserError: for what is no directory and no repository that can be had.
    """
    if Path(path).expanduser().is_dir():
        return location.find(path, revision)
    folder = location.find(path, revision, (INDEX, CONFIG))
    if not is_diffusers(folder):
        return location.find(path, revision)
    index = read_index(folder) if (folder / INDEX).is_file() else {}
    return location.find(path, revision, patterns(index))
