"""The one error a caller can act on: it names the argument, what came, and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 4000
"""Characters of a message at most: it may repeat what a file says, and a file may say anything."""


class UserError(ValueError):
    """A request that cannot be met, found at the public boundary before any long work.

    The command line prints the message alone and exits with code 2; in Python it is a ``ValueError``. The middle of a
    message of over 4,000 characters is left out.
    """

    def __str__(self) -> str:
        message, half = super().__str__(), LONGEST // 2
        return message if len(message) <= LONGEST else f"{message[:half]} … {message[-half:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of the known names, or nothing if none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> UserError:
    """The error for a name that is in no table: the nearest one, and all of them."""
    known = sorted(known)
    return UserError(f"unknown {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}.{more}")
