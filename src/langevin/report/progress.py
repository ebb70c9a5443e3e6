"""A bar for work that counts itself."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from .._duration import left_column, remaining

PATIENCE = 2.0
"""Seconds before anything is shown."""

QUIET = 15.0
"""Seconds between two lines of text, where there is no terminal."""


class Bar:
    """``bar(done, total)``: nothing for two seconds, then a bar on a terminal, elsewhere a line now and then.

    Both on standard error. Leaves the terminal as it was at the end of its ``with`` block.

    Args:
        title: what is being done.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._begun = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So much of the whole is done."""
        now = time.monotonic()
        if now - self._begun < PATIENCE:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._open(total)
            self._bar.update(self._task, completed=done)
            if done == total:  # what comes after it, or another piece of work, has the line for itself
                self._bar.stop()
                self._bar, self._begun = None, now
        elif now - self._said > QUIET:
            self._said = now
            left = (now - self._begun) * (total - done) / max(done, 1)
            print(f"{self.title}: {done / total:.0%}, {remaining(left)}", file=sys.stderr, flush=True)

    def _open(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), left_column())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=total)
