"""Durations as people write them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from langevin._duration import duration, left_column, remaining, spent_column

WORDS = [
    (0, "0 s"),
    (0.004, "under 0.1 s"),
    (0.049, "under 0.1 s"),
    (0.05, "0.1 s"),
    (0.44, "0.4 s"),
    (4, "4 s"),
    (4.23, "4.2 s"),
    (9.94, "9.9 s"),
    (9.96, "10 s"),
    (43.4, "43 s"),
    (59.4, "59 s"),
    (59.6, "1 min 00 s"),
    (65, "1 min 05 s"),
    (200, "3 min 20 s"),
    (3599.4, "59 min 59 s"),
    (3599.6, "1 h 00 min"),
    (7500, "2 h 05 min"),
    (86_369, "23 h 59 min"),
    (86_371, "1 d 00 h"),
    (7 * 86_400 + 3 * 3600 + 1799, "7 d 03 h"),
    (23.6 * 86_400, "23 d 14 h"),
]


@pytest.mark.parametrize(("seconds", "words"), WORDS, ids=[words for _, words in WORDS])
def test_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_what_is_left_has_no_tenths() -> None:
    assert remaining(4.23) == "5 s left"
    assert remaining(200) == "3 min 20 s left"
    assert remaining(-1) == "0 s left"


def test_columns_of_a_bar() -> None:
    """``rich`` writes 0:00:20 of its own; the bars here say what sentences say."""
    clock = [0.0]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    bar = Progress(spent_column(), left_column(), console=console, get_time=lambda: clock[0], auto_refresh=False)
    task = bar.add_task("", total=100)
    for done in range(1, 11):
        clock[0] = 20.0 * done
        bar.update(task, completed=done)
    console.print(bar.get_renderable())
    # Ten of a hundred in 200 s: the ninety that are left take 30 minutes.
    assert "3 min 20 s" in out.getvalue()
    assert "30 min 00 s left" in out.getvalue()
