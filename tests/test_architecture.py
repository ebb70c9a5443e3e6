"""docs/architecture.md: what has to be read to understand a sampler is as little as it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST = {"DDIM": 300, "DPM-Solver++(2M)": 450, "the default": 800}
ROWS = {
    name: (places, told) for name, places, told in re.findall(r"^\| (.+) \| (.+) \| (\d+ = [\d +]+) \|$", PAGE, re.M)
}


def name_of(node: ast.AST) -> str:
    return ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else getattr(node, "name", "")


def lines(place: str) -> int:
    """Lines of a file, or of ``FILE::NAME``: a function or class with its decorators, a table, ``Class.__doc__``."""
    file, _, name = place.partition("::")
    text = (ROOT / "src" / "langevin" / file).read_text(encoding="utf-8")
    found: ast.AST = ast.parse(text)
    for part in name.split(".") if name else ():
        body = found.body
        found = body[0] if part == "__doc__" else next(node for node in body if name_of(node) == part)
    if isinstance(found, ast.Module):
        return len(text.splitlines())
    first = min(node.lineno for node in (found, *getattr(found, "decorator_list", ())))
    return found.end_lineno - first + 1


@pytest.mark.parametrize("sampler", MOST)
def test_the_reading_list(sampler):
    """Every place is there, its lines are those of the table, and their sum is within the promise."""
    places, told = ROWS[sampler]
    counted = [lines(place) for place in re.findall(r"`(.+?)`", places)]
    assert told == f"{sum(counted)} = {' + '.join(map(str, counted))}"
    assert sum(counted) <= MOST[sampler]
