"""What a command line left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """An exit code and the two streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]
