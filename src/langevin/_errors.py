"""The one error a caller can act on: it names the argument, what came, and what is accepted."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

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
    """`` Did you mean 'x'?`` for the closest of the known names, or nothing if none is close.

    One that begins with what was written comes first, whatever its case, and with ``dpm++`` read as ``dpmpp``.
    """
    known, plain = list(known), _plain(str(name))
    begun = [other for other in known if len(plain) > 2 and _plain(other).startswith(plain)]
    cutoff = 0.6 if len(plain) > 2 else 0.5  # two letters that change places share half of their sequence
    close = begun[:1] or difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def _plain(name: str) -> str:
    return name.lower().replace("+", "p")


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> UserError:
    """The error for a name that is in no table: the nearest one, and all of them."""
    known = sorted(set(known))
    return UserError(f"unknown {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}.{more}")


def shown(value: object) -> str:
    """A value as a sentence can hold it: a class by its name, a long one by its beginning, a tensor by its shape."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"an object of type {type(value).__name__}"


def check_instance(name: str, value: object, kind: type | tuple[type, ...], accepted: str) -> None:
    """Refuse a value that is not of a type; a class in place of its instance is told how to make one.

    Raises:
        UserError: with the argument, what came and what is accepted.
    """
    if isinstance(value, kind):
        return
    hint = ""
    if isinstance(value, type) and issubclass(value, kind):
        hint = f"; write {value.__name__}() for an instance"
    raise UserError(f"{name} must be {accepted}, got {shown(value)}{hint}")


def check_integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """An integer in [low, high].

    Raises:
        UserError: with the argument, what came and what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        within = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name} must be an integer {within}, got {shown(value)}")
    return value


def check_numbers(finite: bool = True, /, **values: Any) -> None:
    """Refuse arguments that are no numbers, or none that are finite; a tensor or an array of one number is one.

    Raises:
        UserError: with the argument and what came.
    """
    for name, value in values.items():
        one = getattr(value, "ndim", None) == 0
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (number or one) or (finite and not math.isfinite(value)):
            raise UserError(f"{name} must be a {'finite ' * finite}number, got {shown(value)}")


def check_path(name: str, value: object) -> None:
    """Refuse what is no path, and the empty one.

    Raises:
        UserError: with the argument and what came.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value).strip():
        raise UserError(f"{name} must be a path (text or a pathlib.Path), got {shown(value)}")
