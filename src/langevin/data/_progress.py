"""A bar for work that turns out to be long; nothing for work that does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .._duration import left_column

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before a bar appears."""


def track(items: Iterable[T], total: int, title: str, show: bool = True) -> Iterator[T]:
    """The items, with a bar on standard error once they take longer than ``PATIENCE``."""
    if not show:
        yield from items
        return
    begin, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - begin > PATIENCE:
                bar, task = _bar(total, title)
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()


def _bar(total: int, title: str) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left_column())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(title, total=total)
