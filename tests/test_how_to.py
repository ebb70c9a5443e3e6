"""The pages of docs/how-to do what they say: they run as printed, and each method is one short file and one row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOW_TO = sorted(p for p in (Path(__file__).parents[1] / "docs" / "how-to").glob("*.md") if p.stem != "index")
LONGEST = 40
"""Lines that a new method takes at most."""


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def test_there_is_a_page_for_each() -> None:
    names = {"sampler", "process", "guidance", "objective", "data", "network", "condition", "operator"}
    assert {page.stem for page in HOW_TO} == names


FORKS = """
import os, sys, traceback
from langevin import data, guidance, operators, training, worlds

for path in sys.argv[1:]:
    if not (child := os.fork()):
        told = ""
        try:
            exec(compile(open(path).read(), path, "exec"), globals())
        except BaseException:
            told = traceback.format_exc()
        open(path + ".txt", "w").write(told)
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Runs files one after the other, each in a process of its own that need not import the library again."""


def test_they_run_as_printed(tmp_path: Path) -> None:
    """Each page in a process of its own: what a page registers is not there for other pages, nor for other tests."""
    files = [tmp_path / f"{page.stem}.py" for page in HOW_TO]
    for page, file in zip(HOW_TO, files):
        code = "\n".join(block.replace("from __future__ import annotations\n", "") for block in blocks(page))
        file.write_text("from __future__ import annotations\n" + code)
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS, *map(str, files)], check=True, timeout=1800)
    told = {file.stem: (tmp_path / f"{file.name}.txt").read_text() for file in files}
    assert not any(told.values()), "\n".join(told.values())


@pytest.mark.parametrize("page", HOW_TO, ids=lambda p: p.stem)
def test_a_method_is_one_short_file(page: Path) -> None:
    """The block that registers, or that adds the row, is the file: of as many lines as the page says."""
    (file,) = [b for b in blocks(page) if "@register" in b or "DEGRADATIONS[" in b]
    lines = len(file.rstrip().splitlines())
    assert lines <= LONGEST
    (said,) = re.findall(r"The file.*?, (\d+)\s+lines", page.read_text(), flags=re.S)
    assert int(said) == lines
