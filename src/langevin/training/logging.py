"""What a run tells while it goes: a bar, ``metrics.csv``, and the loggers that are asked for."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._duration import duration, left_column, remaining, spent_column
from ..storage import files

if TYPE_CHECKING:
    import torch

    from ..data import Dataset
    from .config import Config
    from .loggers import Logger

COLUMNS = ("step", "loss", "val_loss", "lr", "skipped")
"""Columns of metrics.csv; ``skipped`` counts the steps so far whose loss or gradient was not finite."""

MetricsRow = dict[str, float | None]


SKIPPED = "skipped.txt"
"""Where a run lists the files of its data that could not be used."""


def line(row: MetricsRow) -> str:
    """A row as one line of CSV; what was not measured is empty. Floats are written so that they read back the same.

    Nothing in it depends on the clock: the file of a run that was interrupted is that of one that was not.
    """
    cells = (row.get(column) for column in COLUMNS)
    return ",".join("" if v is None else str(v) if isinstance(v, int) else repr(v) for v in cells) + "\n"


FEW, SMALL = 50, 1000
"""Images below which a model mostly repeats them, and below which mirroring helps."""


def opening(
    dataset: Dataset, network: torch.nn.Module, config: Config, device: torch.device, processes: int
) -> list[str]:
    """What a run says before its first step: its data, its network, where it computes, and what may be expected."""
    import torch

    from ..data.dataset import FEWEST_TO_MEASURE

    info, train, held = dataset.info, dataset.examples, len(dataset.test)
    what = "images" if info.is_image else "sequences" if info.tokens else "points"
    if dataset.codec is not None:
        what = "codes"
    size = " x ".join(map(str, info.shape[1:] if what == "images" else info.shape))
    colour = (" in colour" if info.shape[0] == 3 else " in grey") if what == "images" else ""
    classes = f"{len(info.classes)} classes" if info.classes else "no classes"
    if beside := [name for name in info.conditions if name != "label"]:
        classes += f", told {' and '.join(beside)}"
    count = sum(p.numel() for p in network.parameters())
    learn = sum(p.numel() for p in network.parameters() if p.requires_grad)
    threads = torch.get_num_threads()
    where = f"{device.type}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)
    if processes > 1:
        where = f"{processes} processes ({where} each)"
    start = config.start
    part = f", {learn:,} of which learn" if learn < count else ""
    there = (
        f"{info.name}: {train + held:,} {what} of {size}{colour}: {train:,} to train on, {held:,} held out; {classes}"
    )
    if (stream := dataset.stream) is not None:
        many = "" if stream.count is None else f", {stream.count:,} to train on"
        there = (
            f"{info.name}: {what} of {size}{colour}, streamed{many}, {held:,} held out; {classes}; range, mean and "
            f"covariance are those of the first {len(dataset.train):,}"
        )
    lines = [
        there,
        f"network {config.network.name} of {count:,} parameters{part}; {config.batch} examples a step, "
        f"{config.precision}, on {where}",
    ]
    if config.pretrained:
        rest = f", every second example one of {start.prior:,} samples of it" if start.prior else ""
        as_it = ", whose size and colours the pictures are read in" if what != "points" and what != "sequences" else ""
        lines.insert(1, f"going on from {start.model or 'a pretrained model'}{as_it}{rest}")
    if what == "images" and train < FEW and not config.pretrained:
        lines.append(
            f"{train} images are few: expect the model to repeat them and to mix them, not to invent; some hundreds "
            "are a beginning"
        )
    if held < FEWEST_TO_MEASURE:
        lines.append(
            f"{held} held out are too few to measure samples against: langevin evaluate needs "
            f"{FEWEST_TO_MEASURE}, or more data of the same kind (--data)"
        )
    if what == "images" and train < SMALL and max(info.shape[1:]) > 16 and not dataset.train.flip:
        more = "which helps as much as more images do, unless they show writing"
        lines.append(f"images are not mirrored; --flip mirrors half of them, {more}")
    return lines


def skipped(dataset: Dataset) -> bytes:
    """Files of the data that could not be used, one a line with the reason, as the file ``SKIPPED`` holds them."""
    shown = lambda text: "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return "".join(f"{shown(path)}: {shown(reason)}\n" for path, reason in dataset.skipped).encode()


def forecast(steps: int | None, step: int, spent: float, left: float, speed: float, free: bool) -> str:
    """What a run says when its speed is known: how long it takes, when it is done, and how to ask for less or more.

    Args:
        steps: of the budget; None for one in minutes.
        step: done so far.
        spent: seconds so far.
        left: seconds from now on.
        speed: seconds a step.
        free: whether the budget was left to the run.
    """
    least = math.ceil(max(0.0, left))
    what = f"{steps:,} steps" if steps is not None else f"about {step + int(left / speed):,} steps"
    pace = f"{duration(speed)} each" if speed >= 1 else f"{1 / speed:.{int(speed > 0.1)}f} a second"
    line = f"{what}, {pace}: {duration(math.ceil(spent + least))} in all, done {_hour(least)}"
    if free and steps is not None:
        quarter = round((spent + left) / 240)
        less = f"for less --minutes {quarter}, " if quarter else ""
        line += f" ({less}for more --steps {2 * steps})"
    return line


def _hour(seconds: float) -> str:
    """The hour of the clock in so many seconds, with the day if it is another."""
    now = time.time()
    then, today = time.localtime(now + seconds), time.localtime(now)
    hour = time.strftime("at %H:%M", then)
    if then[:3] == today[:3]:
        return hour
    if then[:3] == time.localtime(now + 86_400)[:3]:
        return f"{hour} tomorrow"
    return f"{hour} on {time.strftime('%A', then)}, {then.tm_mday} {time.strftime('%B', then)}"


class Metrics:
    """``metrics.csv``, and the loggers that are asked for.

    Args:
        out: the run's directory.
        rows: those of the part of the run that is being continued: the file begins with them, whatever it held.
        loggers: TensorBoard, Weights & Biases, both or none.
    """

    def __init__(self, out: Path, rows: list[MetricsRow], loggers: Sequence[Logger] = ()) -> None:
        self.path, self.loggers = out / "metrics.csv", loggers
        files.replace(self.path, (",".join(COLUMNS) + "\n" + "".join(map(line, rows))).encode())

    def settings(self, config: Config) -> None:
        """Tell the loggers the resolved configuration."""
        for logger in self.loggers:
            logger.settings(config.to_dict())

    def add(self, row: MetricsRow, speed: float) -> None:
        """Append a row; the loggers are told the images/s too."""
        files.append(self.path, line(row).encode())  # what is torn off by a full disk is whole again after a resume
        known = {column: value for column in COLUMNS[1:] if (value := row.get(column)) is not None}
        for logger in self.loggers:
            logger.scalars({**known, "images_per_second": speed}, int(row["step"] or 0))

    def picture(self, path: Path, step: int) -> None:
        """Show a saved picture, or text, where the run is logged."""
        for logger in self.loggers:
            logger.picture(path, step)

    def close(self) -> None:
        """Finish what the loggers wrote."""
        for logger in self.loggers:
            logger.close()


class Bar:
    """A progress bar on a terminal; elsewhere a line of text now and then. Both on standard error.

    Args:
        steps: of the budget, or None.
        minutes: of the budget, or None; neither is known before the speed of the first steps is (``plan``).
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
        self._right: float | None = None
        self._speed = 0.0
        if show and sys.stderr.isatty():
            self._bar, self._task = self._open()

    def _open(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), spent_column(), left_column())
        bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        bar.start()
        return bar, bar.add_task("training", total=self._total())

    def _total(self) -> float | None:
        if self.steps is not None:
            return self.steps
        return None if self.minutes is None else 60 * self.minutes

    def plan(self, steps: int | None, minutes: float | None) -> None:
        """The budget, once it is chosen."""
        self.steps, self.minutes = steps, minutes
        if self._bar is not None:
            self._bar.update(self._task, total=self._total())

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

    def validated(self, loss: float, accuracy: float | None = None) -> None:
        """A loss on held-out data, and the share of decisions that were right, if there are any."""
        self._val, self._right = loss, accuracy

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
        parts += [f"right {100 * self._right:.1f} %"] if self._right is not None else []
        return "  ".join([*parts, f"{self._speed:.0f} images/s"])

    def _left(self, step: int, seconds: float) -> str:
        total = self._total()
        share = 0.0 if total is None else (step if self.steps is not None else seconds) / total
        return f"  {remaining(seconds / share - seconds)}" if share > 0 else ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
