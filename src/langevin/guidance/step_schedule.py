"""Numbers that change over the steps of a run, as they are written: ``[12]*400+[4]*600``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .._errors import UserError, shown

LONGEST = 100_000
"""Places of a schedule at most."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(rf"\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*,?\s*\]\s*(?:\*\s*(\d{{1,6}}))?")
"""A list of numbers, and how often it stands there."""


@dataclass(frozen=True)
class StepSchedule:
    """Values over the way from noise to data, each for as long as any other.

    Args:
        values: from 1 to 100,000 finite numbers.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        good = isinstance(self.values, tuple) and 1 <= len(self.values) <= LONGEST
        if not good or not all(type(v) in (int, float) and math.isfinite(v) for v in self.values):
            raise UserError(f"values of a schedule must be a tuple of 1 to {LONGEST} numbers, got {shown(self.values)}")

    def at(self, progress: float) -> float:
        """The value at a share of the way in [0, 1]: 0 is the first step, 1 the end."""
        return self.values[min(int(progress * len(self.values)), len(self.values) - 1)]

    @classmethod
    def of(
        cls,
        value: StepSchedule | str | float,
        name: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        whole: bool = False,
    ) -> StepSchedule:
        """A number, or a schedule as it is written: lists of numbers, repeated by ``*``, one after the other by ``+``.

        What is written is read as such lists and nothing else; no code in it is run.

        Args:
            value: a number, text, or a schedule.
            name: of the setting, for messages.
            low, high: the range of each value.
            whole: whether each must be an integer.

        Raises:
            UserError: for anything else, more than 100,000 values, or one out of range.
        """
        if isinstance(value, StepSchedule):
            values = value.values
        elif isinstance(value, str):
            values = _parsed(value, name)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            values = (float(value),)
        else:
            raise UserError(f"{name} must be a number or a schedule such as [12]*400+[4]*600, got {shown(value)}")
        kind = "an integer" if whole else "a number"
        for number in values:
            if not (low <= number <= high and math.isfinite(number)) or (whole and number != int(number)):
                raise UserError(f"{name} must be {kind} in [{low:g}, {high:g}] at every step, got {number:g}")
        return cls(values)


def _parsed(text: str, name: str) -> tuple[float, ...]:
    if re.fullmatch(_NUMBER, text.strip()):
        return (float(text),)
    values: list[float] = []
    place, rest = 0, text.strip()
    while True:
        found = _TERM.match(rest, place)
        if found is None:
            raise UserError(
                f"{name} must be a number or lists such as [12]*400+[4]*600, got {text[:60]!r}; not read from "
                f"{rest[place : place + 20]!r} on"
            )
        numbers = [float(number) for number in found[1].split(",")]
        times = 1 if found[2] is None else int(found[2])
        if not 1 <= len(values) + len(numbers) * times <= LONGEST or times < 1:
            raise UserError(f"{name} must have from 1 to {LONGEST} values in all, got {text[:60]!r}")
        values += numbers * times
        place = found.end()
        between = re.compile(r"\s*\+\s*").match(rest, place)
        if between is None:
            break
        place = between.end()
    if rest[place:].strip():
        raise UserError(
            f"{name} must be a number or lists such as [12]*400+[4]*600, got {text[:60]!r}; not read from "
            f"{rest[place : place + 20]!r} on"
        )
    return tuple(values)
