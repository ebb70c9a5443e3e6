"""The page of restoring names every method where it says it does, and its options run as printed."""

from __future__ import annotations

import re
from pathlib import Path

from langevin._registry import methods

PAGE = (Path(__file__).parents[2] / "docs" / "restore.md").read_text(encoding="utf-8")


def column(head: str) -> set[str]:
    """The names in the first column of the table that begins with a line."""
    table = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return {name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_every_method_has_its_row() -> None:
    known = {row.name for row in methods("inverse")}
    assert column("| method | what it does") == known
    assert column("| `restore(method=…)`") == known - {"exact"}  # which is no guidance and no sampler
