"""Durations as people write them, in sentences and in progress bars."""

from __future__ import annotations

import math
from typing import Any


def duration(seconds: float) -> str:
    """A duration in words: ``0.4 s``, ``4.2 s``, ``43 s``, ``3 min 20 s``, ``2 h 05 min``, ``1 d 03 h``.

    Two units at most, rounded to the nearest of the smaller one; tenths of a second below ten seconds.

    Args:
        seconds: at least 0 and finite.
    """
    if seconds < 9.95:
        if 0 < seconds < 0.05:
            return "under 0.1 s"
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def remaining(seconds: float) -> str:
    """An estimate of what is left: ``3 min 20 s left``, in whole seconds."""
    return f"{duration(math.ceil(max(0.0, seconds)))} left"


def spent_column() -> Any:
    """The column of a ``rich`` progress bar that says how long the work has taken."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Spent(ProgressColumn):
        def render(self, task: Task) -> Text:
            seconds = task.finished_time if task.finished else task.elapsed
            return Text("" if seconds is None else duration(math.floor(seconds)), style="progress.elapsed")

    return Spent()


def left_column() -> Any:
    """The column of a ``rich`` progress bar that says how long the rest will take."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Left(ProgressColumn):
        max_refresh = 0.5  # the estimate changes with every step: text that flickers cannot be read

        def render(self, task: Task) -> Text:
            seconds = task.time_remaining
            return Text("" if seconds is None else remaining(seconds), style="progress.remaining")

    return Left()
