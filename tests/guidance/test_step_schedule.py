"""Schedules as they are written: lists, repeated and one after the other, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from langevin._errors import UserError
from langevin.guidance.step_schedule import StepSchedule


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[12]*400+[4]*600", (12.0,) * 400 + (4.0,) * 600),
        (" [1, 2.5]*2 + [-3e-1] ", (1.0, 2.5, 1.0, 2.5, -0.3)),
        ("[.5,]", (0.5,)),
        ("7", (7.0,)),
        ("-1.5e2", (-150.0,)),
        (3, (3.0,)),
        (0.25, (0.25,)),
    ],
)
def test_what_is_written_is_read(text: Any, values: tuple[float, ...]) -> None:
    assert StepSchedule.of(text, "knob").values == values
    assert StepSchedule.of(StepSchedule(values), "knob").values == values


def test_each_value_stands_for_its_share_of_the_way() -> None:
    """Of 1000 places progress p is place ⌊1000 p⌋; the end belongs to the last."""
    schedule = StepSchedule.of("[12]*400+[4]*600", "knob")
    assert [schedule.at(p) for p in (0.0, 0.3999, 0.4, 1.0)] == [12, 12, 4, 4]
    assert [StepSchedule.of("[1,2,3]", "knob").at(k / 6) for k in range(7)] == [1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "[1]*",
        "[1]*0",
        "[1]*-2",
        "[1]+",
        "[1]**9",
        "[1]*9999999",
        "[1]*99999+[1]*99999",
        "[1] [2]",
        "1+2",
        "__import__('os')",
        "[__import__('os')]",
        "[1 for x in y]",
        "[nan]",
        "[1e999]",
        "([1]*2)",
        None,
        True,
        [1, 2],
    ],
)
def test_all_else_is_refused_by_name(text: Any) -> None:
    with pytest.raises(UserError, match="knob"):
        StepSchedule.of(text, "knob")


def test_ranges_hold_at_every_step() -> None:
    with pytest.raises(UserError, match=r"knob must be an integer in \[0, 9\] at every step, got 2.5"):
        StepSchedule.of("[1]*3+[2.5]", "knob", 0, 9, whole=True)
    with pytest.raises(UserError, match=r"knob must be a number in \[0, 9\] at every step, got 10"):
        StepSchedule.of("[1]*3+[10]", "knob", 0, 9)
    with pytest.raises(UserError, match=r"knob must be a number in \[0, 9\] at every step, got -1"):
        StepSchedule.of(StepSchedule((-1,)), "knob", 0, 9)
    with pytest.raises(UserError, match=r"knob must be an integer in \[0, 9\] at every step, got 0.5"):
        StepSchedule.of(StepSchedule((1, 0.5)), "knob", 0, 9, whole=True)


@pytest.mark.parametrize("values", [(), (float("nan"),), (True,), ("1",), [1.0], (1.0,) * 100_001])
def test_a_schedule_is_of_numbers(values: Any) -> None:
    with pytest.raises(UserError, match="values of a schedule must be"):
        StepSchedule(values)
