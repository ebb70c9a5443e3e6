"""How long a run trains if nobody says: by the number of examples and the speed measured in the first steps."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace

from .config import Config

FEWEST = 500
"""Steps a chosen budget has at least, however long they take."""

MOST = 500_000
"""Steps a chosen budget has at most."""

SPARE = 0.93
"""Share of the time goal that is planned for steps; the rest is for validation, pictures and checkpoints."""

CHECKPOINT = 300.0
"""Seconds from one checkpoint to the next, where a run chooses."""


def useful_steps(examples: int) -> int:
    """Steps after which more training gains little on so many examples: 5,000 for 200, 35,000 for 5,000.

    It grows with the power 0.6 of their number. With few examples the limit is that the model begins to repeat them;
    with many, the time goal is reached first on most machines.
    """
    return round(min(MOST, max(2 * FEWEST, 5000 * (examples / 200) ** 0.6)))


def time_goal(shape: Sequence[int], examples: int) -> float:
    """Seconds that a run of images may take where nobody says.

    50 minutes at 32 pixels, 2 h 45 min at 64, 8 hours from 128 on: with the default networks that is about as many
    steps as the smaller pictures get. Above 1,000 images it grows with the cube root of their number, to a day at most.
    """
    side = max(shape[1:])
    minutes = min(480.0, 50 * max(1.0, side / 32) ** 1.72)
    return 60 * min(24 * 60.0, minutes * max(1.0, examples / 1000) ** (1 / 3))


def measured(marks: Sequence[float]) -> float | None:
    """Seconds a step, from the times at the ends of steps in a row; None while these are too few to tell.

    The median, for the first steps of a process are slow and a busy machine has slow ones at any time. Five seconds
    are enough, three steps at least, or two where a step takes ten seconds.
    """
    count, spent = len(marks) - 1, marks[-1] - marks[0] if marks else 0.0
    if not (count >= 50 or (count >= 3 and spent >= 5) or (count >= 2 and spent >= 20)):
        return None
    return statistics.median(b - a for a, b in itertools.pairwise(marks))


def is_open(config: Config) -> bool:
    """Whether a configuration leaves something to the measured speed."""
    out, budget = config.output, config.budget
    periods = (out.validate_every, out.sample_every, out.checkpoint_every)
    return None in periods or (budget.steps is None and budget.minutes is None)


def choose(config: Config, shape: Sequence[int], examples: int, seconds: float) -> Config:
    """A configuration with the budget and the periods of output chosen that were left open.

    The number of steps is what is useful for the data or what fits into the time goal, whichever is less.

    Args:
        config: resolved, but for what is chosen here.
        shape: of an example.
        examples: in the training split.
        seconds: a step.
    """
    seconds, budget, out = max(seconds, 1e-6), config.budget, config.output
    if budget.steps is None and budget.minutes is None:
        fit = int(SPARE * time_goal(shape, examples) / seconds)
        budget = replace(budget, steps=_plain(max(FEWEST, min(useful_steps(examples), fit))))
    planned = budget.steps or int(60 * (budget.minutes or 0) / seconds)
    tenth = period(planned)
    pick = lambda value, default: default if value is None else value
    out = replace(
        out,
        validate_every=pick(out.validate_every, tenth),
        sample_every=pick(out.sample_every, tenth),
        checkpoint_every=pick(out.checkpoint_every, min(tenth, _round(CHECKPOINT / seconds))),
    )
    return replace(config, budget=budget, output=out)


def period(steps: int) -> int:
    """Steps from one validation or picture to the next, in a run of so many: a tenth, as a round number."""
    return _round(steps / 10)


def _round(value: float) -> int:
    """The largest of 1, 2, 5, 10, 20, 50, … that is not above the value, 1 at least."""
    found, factor = 1, 1
    while factor <= value:
        found = max(n * factor for n in (1, 2, 5) if n * factor <= value)
        factor *= 10
    return found


def _plain(steps: int) -> int:
    """A number of steps with two digits that count, for people to read and to type."""
    unit = 1
    while steps >= 100 * unit:
        unit *= 10
    return steps // unit * unit
