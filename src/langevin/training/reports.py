"""What a run tells while it goes: a bar, ``metrics.csv``, TensorBoard."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._duration import left_column, remaining, spent_column
from .._errors import UserError
from . import files

COLUMNS = ("step", "loss", "val_loss", "lr", "skipped")
"""Of metrics.csv; ``skipped`` counts the steps so far whose loss or gradient was not finite."""

Row = dict[str, float | None]


CLOCK, SECONDS = "clock.json", "seconds"
"""Where a run keeps what depends on the clock, and under which name a model's ``config`` has it."""


def timeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was made, as its directory tells it: without the clock, so that equal runs leave equal files."""
    return {key: value for key, value in config.items() if key != SECONDS}


def line(row: Row) -> str:
    """A row as one line of CSV; what was not measured is empty. Floats are written so that they read back the same.

    Nothing in it depends on the clock: the file of a run that was interrupted is that of one that was not.
    """
    cells = (row.get(column) for column in COLUMNS)
    return ",".join("" if v is None else str(v) if isinstance(v, int) else repr(v) for v in cells) + "\n"


class Metrics:
    """``metrics.csv``, and TensorBoard's log if asked for.

    Args:
        out: the run's directory.
        rows: those of the part of the run that is being continued: the file begins with them, whatever it held.
        tensorboard: write ``out/tensorboard`` too.
    """

    def __init__(self, out: Path, rows: list[Row], tensorboard: bool) -> None:
        self.path = out / "metrics.csv"
        files.replace(self.path, (",".join(COLUMNS) + "\n" + "".join(map(line, rows))).encode())
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            step = int(rows[-1]["step"] or 0) if rows else 0
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    @staticmethod
    def check(tensorboard: bool) -> None:
        """Refuse what is not installed, before any work."""
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError('output.tensorboard needs the package tensorboard: pip install "langevin[log]"')

    def add(self, row: Row, speed: float) -> None:
        """Append a row; the board is told the images/s too."""
        files.append(self.path, line(row).encode())  # what is torn off by a full disk is whole again after a resume
        if self._board is not None:
            for column in COLUMNS[1:]:
                if row.get(column) is not None:
                    self._board.add_scalar(column, row[column], int(row["step"] or 0))
            self._board.add_scalar("images_per_second", speed, int(row["step"] or 0))

    def picture(self, path: Path, step: int) -> None:
        """Show a saved picture, or text, on the board."""
        if self._board is not None and path.suffix == ".txt":
            self._board.add_text("samples", "    " + path.read_text().replace("\n", "\n    "), step)
        elif self._board is not None:
            import numpy as np
            from PIL import Image

            self._board.add_image("samples", np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Finish the board's file."""
        if self._board is not None:
            self._board.close()


class Bar:
    """A progress bar on a terminal; elsewhere a line of text now and then. Both on standard error.

    Args:
        steps: of the budget, or None.
        minutes: of the budget, or None.
        show: False says nothing at all.
    """

    QUIET = 15.0
    """Seconds between two lines of text."""

    def __init__(self, steps: int | None, minutes: float | None, show: bool) -> None:
        self.steps, self.minutes = steps, minutes
        self._bar: Any = None
        self._show = show
        self._said = -math.inf
        self._loss: float | None = None
        self._val: float | None = None
        self._speed = 0.0
        if show and sys.stderr.isatty():
            self._bar, self._task = self._open()

    def _open(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), spent_column(), left_column())
        bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        bar.start()
        total = self.steps if self.steps is not None else 60 * (self.minutes or 0)
        return bar, bar.add_task("training", total=total)

    def step(self, step: int, seconds: float, loss: float, speed: float) -> None:
        """After a step: its loss and the images/s."""
        if not self._show:
            return
        if math.isfinite(loss):
            self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        self._speed = speed
        if self._bar is not None:
            done = step if self.steps is not None else seconds
            self._bar.update(self._task, completed=done, description=self._text(step))
        elif time.monotonic() - self._said > self.QUIET:
            self._said = time.monotonic()
            self.say(self._text(step) + self._left(step, seconds))

    def validated(self, loss: float) -> None:
        """A loss on held-out data."""
        self._val = loss

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def _text(self, step: int) -> str:
        of = f"/{self.steps}" if self.steps is not None else ""
        parts = [f"step {step}{of}"]
        parts += [f"loss {self._loss:.4f}"] if self._loss is not None else []
        parts += [f"val {self._val:.4f}"] if self._val is not None else []
        return "  ".join([*parts, f"{self._speed:.0f} images/s"])

    def _left(self, step: int, seconds: float) -> str:
        share = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))
        return f"  {remaining(seconds / share - seconds)}" if share > 0 else ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
