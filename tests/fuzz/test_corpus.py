"""Every reader on the files that once crashed one, and on a fixed sequence of damaged ones, in a limited process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
FILES = 60
"""Mutations a reader: more than a thousand in all, in a quarter of a minute."""


def rows(*words: str, timeout: float) -> tuple[list[list[object]], str]:
    """The table that the script prints, and what it says of crashes."""
    made = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, timeout=timeout)
    assert made.stdout.strip(), made.stderr[-3000:]
    return json.loads(made.stdout.splitlines()[-1]), made.stderr


def test_damaged_files_are_refused() -> None:
    table, said = rows("--quick", str(FILES), timeout=300)
    assert len(table) >= 16
    assert all(done >= FILES for _, done, _ in table)
    assert [(name, crashes) for name, _, crashes in table if crashes] == [], said


def test_the_corpus_is_small() -> None:
    kept = [path for path in (RUN.parent / "corpus").rglob("*") if path.is_file()]
    assert len(kept) < 200
    assert sum(path.stat().st_size for path in kept) < 300_000


@pytest.mark.slow
def test_ten_minutes_a_reader() -> None:
    """By coverage and by type; needs atheris and hypothesis (pip install "langevin[fuzz]")."""
    made = subprocess.run([sys.executable, RUN, "--minutes", "10"], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr[-3000:]
