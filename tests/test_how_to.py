"""The pages of docs/how-to do what they say: they run as printed, and each method is one short file and one row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import thinned

HOW_TO = sorted((Path(__file__).parents[1] / "docs" / "how-to").glob("*.md"))
LONGEST = 40
"""Lines that a new method takes at most."""


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def test_there_is_a_page_for_each() -> None:
    names = {"sampler", "process", "guidance", "objective", "data", "network", "condition", "operator"}
    assert {page.stem for page in HOW_TO} == names


@pytest.mark.parametrize("page", thinned(HOW_TO, 3), ids=lambda p: p.stem)
def test_it_runs_as_printed(page: Path) -> None:
    """In a process of its own: what a page registers is not there for other tests."""
    code = "\n".join(block.replace("from __future__ import annotations\n", "") for block in blocks(page))
    code = "from __future__ import annotations\n" + code
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", HOW_TO, ids=lambda p: p.stem)
def test_a_method_is_one_short_file(page: Path) -> None:
    """The block that registers, or that adds the row, is the file: of as many lines as the page says."""
    (file,) = [b for b in blocks(page) if "@register" in b or "DEGRADATIONS[" in b]
    lines = len(file.rstrip().splitlines())
    assert lines <= LONGEST
    (said,) = re.findall(r"The file.*?, (\d+)\s+lines", page.read_text(), flags=re.S)
    assert int(said) == lines
