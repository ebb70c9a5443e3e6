"""The record of an audit: a verdict a row, with the figure and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..._errors import unknown

Verdict = Literal["ok", "note", "WRONG", "n/a"]
"""``ok`` holds; ``note`` is worth knowing and no fault, or cannot be judged; ``WRONG`` is proven; ``n/a`` means nothing
here."""

VERDICTS: tuple[Verdict, ...] = ("ok", "note", "WRONG", "n/a")


@dataclass(frozen=True)
class CheckResult:
    """One check of one thing.

    Attributes:
        check: its name.
        verdict: what it comes to.
        figure: what was measured.
        expected: what was expected.
        values: the figures as numbers, by name.
    """

    check: str
    verdict: Verdict
    figure: str
    expected: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


def said(verdict: Verdict, figure: str, expected: str = "", **values: float) -> Callable[[str], CheckResult]:
    """A row that still lacks the name of its check."""
    return lambda check: CheckResult(check, verdict, figure, expected, values)


def none(why: str) -> Callable[[str], CheckResult]:
    """The row of a check that has no meaning for a thing."""
    return said("n/a", why)


Said = Callable[[str], CheckResult]


@dataclass(frozen=True)
class Report:
    """All that was found about a thing.

    Attributes:
        thing: as it was asked for.
        kind: scheduler, sampler, guider or denoiser.
        rows: one a check.
        about: how it was read: its family, prediction, whether it draws noise.
        seconds: what it took.
    """

    thing: str
    kind: str
    rows: tuple[CheckResult, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan

    @property
    def wrong(self) -> tuple[CheckResult, ...]:
        """The rows in which it was proven wrong."""
        return tuple(row for row in self.rows if row.verdict == "WRONG")

    def row(self, check: str) -> CheckResult:
        """The row of a check.

        Raises:
            UserError: for a check that was not made.
        """
        found = {row.check: row for row in self.rows}
        if check not in found:
            raise unknown("row", check, found)
        return found[check]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; a figure that is not finite is None."""
        return plain({**asdict(self), "wrong": [row.check for row in self.wrong]})


def plain(value: Any) -> Any:
    """Mappings, lists and numbers as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def counted(rows: Iterable[CheckResult]) -> dict[str, int]:
    """How many rows of each verdict."""
    found = [row.verdict for row in rows]
    return {verdict: found.count(verdict) for verdict in VERDICTS}
