"""Words to options, with what is wrong said in one line."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

from .._errors import UserError, nearest

T = TypeVar("T")

_FRAME = re.compile(r"\x1b\[[0-9;]*m|[│┃]")
_RULE = re.compile(r"[─━-]{4,}")


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
    _full(prog, words)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, left = _ask(prog, kind, words)
    except SystemExit:
        # A mistyped option can leave another without its value: the cause comes before the consequence.
        reason = _unknown(prog, kind, words) or _reason(said.getvalue())
        raise UserError(f"{reason} `{prog} --help` lists the options.") from None
    if left:
        reason = _unknown(prog, kind, words) or f"unexpected argument {left[0]!r}."
        raise UserError(f"{reason} `{prog} --help` lists the options.")
    return options


def _ask(prog: str, kind: type[T], words: list[str]) -> tuple[T, list[str]]:
    import tyro

    markers = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(kind, prog=prog, args=words, return_unknown_args=True, config=markers)


def _full(prog: str, words: list[str]) -> None:
    """Refuse an empty word (an unset variable of a shell, mostly): as a path it would be the current folder."""
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if equals and option.startswith("-") and not value.strip():
            raise UserError(f"{option} must not be empty, got {value!r}. `{prog} --help` lists the options.")
        if not word.strip():
            what = words[i - 1] if i and words[i - 1].startswith("-") else "an argument"
            raise UserError(f"{what} must not be empty, got {word!r}. `{prog} --help` lists the options.")


def _unknown(prog: str, kind: type, words: list[str]) -> str:
    """What is said of the first option among the words that the help does not know; empty if there is none."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        _ask(prog, kind, ["--help"])
    known = re.findall(r"(?<![\w-])--?[a-z][a-z0-9.-]*", said.getvalue())
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if re.match(r"--?[A-Za-z]", name) and name not in known:
            return f"unknown option {word.partition('=')[0]!r}.{_closest(name, known)}"
    return ""


def _closest(word: str, known: list[str]) -> str:
    """The nearest option; one of a group may be meant by its last part, and one may have a shorter name here."""
    tails = {f"--{option.rpartition('.')[2].lstrip('-')}": option for option in known}
    shorter = [option for option in known if option.startswith("--") and word.endswith(option[1:])]
    meant = tails.get(word, shorter[0] if shorter else None)
    return f" Did you mean {meant!r}?" if meant else nearest(word, known)


def _reason(box: str) -> str:
    """What a framed message of the parser says: what stands between its first two rules, without the frame."""
    lines = [_FRAME.sub("", line) for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if _RULE.search(line)] or [-1]
    end = rules[1] if len(rules) > 1 else len(lines)
    said = [line for line in lines[rules[0] + 1 : end] if line.strip()]
    if said and said[0].lstrip().startswith("Missing from"):
        # Each name stands before what it means, which stands further in.
        depth = min((_indent(line) for line in said[1:]), default=0)
        return f"{', '.join(line.strip() for line in said[1:] if _indent(line) == depth)} must be given."
    text = " ".join(" ".join(said).split())
    text = _plainly(text)
    return text if text.endswith(".") else f"{text}."


_PLAIN = (
    (
        r"Error parsing (\S+): .*invalid literal for int\(\) with base 10: ('.*?'|\".*?\")$",
        "{} must be an integer, got {}",
    ),
    (r"Error parsing (\S+): .*could not convert string to float: ('.*?'|\".*?\")$", "{} must be a number, got {}"),
    (r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]$", "{} must hold numbers, got {}"),
    (r"Error parsing (\S+): Failed to parse key-value pairs", "{} must be followed by pairs, KEY VALUE"),
)
"""What the parser says of a value, and what is said in its place."""


def _plainly(text: str) -> str:
    """What the parser says, without the names of its own types."""
    for pattern, sentence in _PLAIN:
        if found := re.match(pattern, text):
            option, *value = found.groups()
            return sentence.format(option.rpartition("/")[2], *value)
    if found := re.match(r"invalid choice ('.*?') for argument '(\S+)'\. Expected one of (\(.*\))", text):
        choice, option = found[1].strip("'"), found[2].rpartition("/")[2]
        known = [name for name in re.findall(r"'(.*?)'", found[3]) if name != "None"]
        return f"{option} cannot be {choice!r}.{nearest(choice, known)} Known: {', '.join(sorted(known))}."
    return text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
