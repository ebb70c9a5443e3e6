"""Words to options, with what is wrong said in one line."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

from .._errors import UserError, nearest

T = TypeVar("T")

_FRAME = re.compile(r"\x1b\[[0-9;]*m|[│┃]")
_RULE = re.compile(r"[─━]{4,}")


def parse(prog: str, kind: type[T], words: list[str]) -> T | None:
    """The options that the words give, or None after ``--help``.

    Args:
        prog: what the user typed so far, ``langevin train``.
        kind: a dataclass: a field is an option, its docstring the help.
        words: what follows.

    Raises:
        UserError: for an option that is not known, with the nearest; for one that is missing, or whose value does not
            fit.
    """
    if any(word in ("-h", "--help") for word in words):
        with contextlib.suppress(SystemExit):
            _ask(prog, kind, words)
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, left = _ask(prog, kind, words)
    except SystemExit:
        raise UserError(f"{_reason(said.getvalue())} `{prog} --help` lists the options.") from None
    if left:
        raise _unknown(prog, kind, left)
    return options


def _ask(prog: str, kind: type[T], words: list[str]) -> tuple[T, list[str]]:
    import tyro

    markers = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(kind, prog=prog, args=words, return_unknown_args=True, config=markers)


def _unknown(prog: str, kind: type, left: list[str]) -> UserError:
    """The error for words that no option took."""
    word = next((word for word in left if word.startswith("-")), left[0])
    if not word.startswith("-"):
        return UserError(f"unexpected argument {word!r}. `{prog} --help` lists the options.")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        _ask(prog, kind, ["--help"])
    known = re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", said.getvalue())
    asked = word.partition("=")[0]
    return UserError(f"unknown option {asked!r}.{_closest(asked, known)} `{prog} --help` lists the options.")


def _closest(word: str, known: list[str]) -> str:
    """The nearest option; one of a group may be meant by its last part."""
    tails = {f"--{option.rpartition('.')[2].lstrip('-')}": option for option in known}
    return f" Did you mean {tails[word]!r}?" if word in tails else nearest(word, known)


def _reason(box: str) -> str:
    """What a framed message of the parser says, without its frame, its title and its advice."""
    said: list[str] = []
    for line in box.splitlines():
        if _RULE.search(line):
            if said:
                break
        elif text := _FRAME.sub("", line).rstrip():
            said.append(text)
    if said and said[0].lstrip().startswith("Missing from"):
        # Each name stands before what it means, which stands further in.
        depth = min((_indent(line) for line in said[1:]), default=0)
        return f"{', '.join(line.strip() for line in said[1:] if _indent(line) == depth)} must be given."
    text = " ".join(" ".join(said).split())
    return text if text.endswith(".") else f"{text}."


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
