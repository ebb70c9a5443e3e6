"""Files that somebody else may have written: read within stated limits, checked before memory is taken, never run.

Three rules hold for all that is read. A file is opened only if it is a regular one, so nothing waits for a pipe or
reads a device. A number in it is compared with the size of the file, or with a limit that stands beside the reader,
before anything of that size is made. And whatever is wrong comes out as a ``UserError`` with the file's name.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .._errors import UserError, nearest

JSON_BYTES = 2**25
"""Size of a JSON file at most: parsed, it takes up to thirty times as much."""

JSON_DEPTH = 32
"""Brackets within brackets of a JSON file at most."""

SHARE = 0.9
"""Share of the machine's memory that one thing read from a file may take."""


@contextlib.contextmanager
def reading(name: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Let nothing but a ``UserError`` that names the file, or one ``within`` its folder, come out of reading it.

    For work on what a file says that somebody else's code does too (a decoder, a constructor of torch), which raises
    what it likes.
    """
    name = os.fspath(name)
    try:
        yield
    except UserError as error:
        if os.fspath(name if within is None else within) in str(error):
            raise
        raise UserError(f"{name}: {error}") from error
    except Exception as error:
        raise UserError(f"{name} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, in one line that is not empty and not long."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    text = text if len(text) <= 300 else f"{text[:300]}…"
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text or type(error).__name__


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to be read.

    Raises:
        OSError: as ``open``.
        UserError: for a pipe, a device, a socket or a directory; it is not opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{os.fspath(path)} is no regular file")
    # Should another take its place now, the opening does not wait for a writer, and the descriptor is asked again.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{os.fspath(path)} is no regular file")
    return os.fdopen(handle, "rb")


def contents(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """All of a regular file, unless it is larger than ``most`` bytes or than memory.

    Raises:
        OSError: as ``open``.
        UserError: for what is no regular file, or too large.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{os.fspath(path)} must be at most {most} bytes, got {size}")
        room(size, os.fspath(path))
        return file.read()


CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux keeps the limits of control groups, and says which of them this process is in."""


def memory() -> int:
    """Bytes of memory that this process may have at most: the machine's, or a limit or a container's share below it."""
    limits = [2**48]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        import resource

        limits += [n for n in (resource.getrlimit(resource.RLIMIT_AS)[0],) if n != resource.RLIM_INFINITY]
    except (ImportError, ValueError, OSError, AttributeError):  # no POSIX
        pass
    return min(n for n in [*limits, *_shares()] if n > 0)


def _shares() -> list[int]:
    """The limits of the control groups that this process is in, and of those around them, of both versions."""
    files = {CGROUPS / "memory.max", CGROUPS / "memory" / "memory.limit_in_bytes"}  # as a container sees its own
    with contextlib.suppress(OSError):
        for line in OWN_CGROUP.read_text(errors="replace").splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            root, name = {"": (CGROUPS, "memory.max"), "memory": (CGROUPS / "memory", "memory.limit_in_bytes")}.get(
                controllers, (None, "")
            )
            if root is not None:
                inner = root / path.lstrip("/")
                files |= {folder / name for folder in (inner, *inner.parents) if folder.is_relative_to(root)}
    found = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # "max", or not there
            found.append(int(file.read_text()))
    return found


class TooLarge(UserError):
    """What would not fit into memory."""


def room(size: int, what: str, there: int | None = None) -> None:
    """Refuse what would take more memory than there is.

    Args:
        size: bytes.
        what: that would take them.
        there: bytes of memory, if not this machine's.

    Raises:
        TooLarge: with what it is and both numbers.
    """
    most = int(SHARE * (memory() if there is None else there))
    if size > most:
        raise TooLarge(f"{what} would take {amount(size)} of memory, at most {amount(most)} are accepted here")


def amount(size: int) -> str:
    """A number of bytes as text."""
    unit = min(max(size, 1).bit_length() - 1, 69) // 10
    return f"{size / 2 ** (10 * unit):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[unit]}"


_TEXTS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8, with what the standard leaves open refused.

    Refused are nesting deeper than 32, a key twice in one object, integers beyond 64 bits, numbers beyond float64, NaN
    and infinity, and halves of surrogate pairs: no reader further on has to think of them.

    Raises:
        UserError: with the reason.
    """
    if len(content) > JSON_BYTES:
        raise UserError(f"a JSON text must be at most {JSON_BYTES} bytes, got {len(content)}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 (byte {error.start})") from None
    outside = re.sub(r"[^\[\]{}]+", "", _TEXTS.sub("", text))  # the brackets that stand in no text
    if any(depth > JSON_DEPTH for depth in itertools.accumulate(map(_BRACKETS.__getitem__, outside))):
        raise UserError(f"its brackets are nested deeper than {JSON_DEPTH}")
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_int=_integer, parse_float=_real, parse_constant=_constant
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(reason(error)) from None
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError("it holds half a surrogate pair, which is no text") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)  # one pass: a file may have a million keys
        raise UserError(f"it has the key {_short(next(name for name, n in counts.items() if n > 1))} twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**64:
        raise UserError(f"it holds the integer {text[:24]}{'…' * (len(text) > 24)}, which has more than 64 bits")
    return int(text)


def _real(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise UserError(f"it holds the number {text[:24]}, which is too large")
    return value


def _constant(text: str) -> float:
    raise UserError(f"it holds {text}, which is no JSON")


_PLAIN = (type(None), bool, int, float, str, list, tuple, Mapping)
"""What JSON gives. Values of other types come from Python code, and are left to who takes them."""


@functools.lru_cache(maxsize=256)
def hints(kind: type) -> dict[str, Any]:
    """The types of the settings of a dataclass, by name."""
    known = typing.get_type_hints(kind, include_extras=True)
    # Annotated[X, Y] is X on a command line and Y in a file.
    plain = {name: hint.__metadata__[0] if hasattr(hint, "__metadata__") else hint for name, hint in known.items()}
    return {f.name: plain[f.name] for f in dataclasses.fields(kind) if f.init}


def settings(kind: type, values: Any, where: str) -> dict[str, Any]:
    """The settings of a dataclass out of a mapping, each of the type that the class declares.

    Lists become tuples; nested dataclasses are made.

    Raises:
        UserError: for a key that is not known (with the nearest), one that is not given and has no default, or a value
            of another type, with what is accepted.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping, got {_short(values)}")
    known = hints(kind)
    for key in values:
        if key not in known:
            raise UserError(f"{where} has no {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.")
    if lacking := [f.name for f in dataclasses.fields(kind) if f.name not in values and _required(f)]:
        raise UserError(f"{where} needs {', '.join(lacking)}, which must be given")
    return {key: typed(known[key], value, f"{where}.{key}") for key, value in values.items()}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is field.default_factory is dataclasses.MISSING


def typed(hint: Any, value: Any, where: str) -> Any:
    """A value that JSON gave, if it is of a type; lists become tuples, and mappings the dataclasses they stand for.

    Raises:
        UserError: with what is accepted.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, (*_PLAIN,)):
        return hint(**settings(hint, value, where))
    if isinstance(value, _PLAIN) and not _is(hint, value):
        raise UserError(f"{where} must be {_accepted(hint)}, got {_short(value)}")
    return tuple(value) if isinstance(value, list) and _origin(hint) is not list else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _is(hint: Any, value: Any) -> bool:
    """Whether a value of JSON is of a type."""
    origin, inner = _origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(one, value) for one in inner)
    if origin is Literal:
        return any(type(one) is type(value) and one == value for one in inner)
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in (int, bool, str):
        return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))
    if origin is type(None):
        return value is None
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(inner)
            and all(_is(one, v) for one, v in zip(inner, value))
        )
    if origin in (tuple, list, Sequence):
        return isinstance(value, (list, tuple)) and (not inner or all(_is(inner[0], v) for v in value))
    if origin in (dict, Mapping):
        keys = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return keys and (not inner or all(_is(inner[1], v) for v in value.values()))
    return True


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null", Any: "anything"}
_MANY = {int: "integers", float: "numbers", bool: "truths", str: "texts"}


def _accepted(hint: Any) -> str:
    """A type, as a person would say it."""
    origin, inner = _origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_accepted(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (tuple, list, Sequence):
        count = f"{len(inner)} " if origin is tuple and inner and inner[-1] is not Ellipsis else ""
        return f"a list of {count}{_MANY.get(inner[0], 'values') if inner else 'values'}"
    if origin in (dict, Mapping):
        return "a mapping"
    return _WORDS.get(origin, getattr(origin, "__name__", str(origin)))
