"""Options as the words that ask for them: what ``parse`` reads, written; and how a picture was made, in such words."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional, UseAppendAction

if TYPE_CHECKING:
    from ..generate import Provenance


def provenance(command: str, options: Any, model: Any) -> Provenance:
    """What the pictures of a command say of how they were made.

    Args:
        command: its name.
        options: as they were given; those that change no pixel are left out.
        model: as it was loaded.
    """
    from ..generate import Provenance, model_digest
    from ..generate.provenance import checksum

    given = [text.partition("=")[2] for text in getattr(options, "given", ())]
    read = {path: checksum(path) for path in given if Path(path).is_file()}
    words = tuple(words_of(options, ("out", "no_metadata", "device")))
    settings = settings_of(options, ("out", "no_metadata", "device", "input", "model"))
    return Provenance(
        command, words, model_digest(options.model), settings=settings, inputs=read, device=str(model.device)
    )


def settings_of(options: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """All options of a command as plain JSON, those at their defaults too; groups of options are one mapping.

    Args:
        options: a command's.
        without: names of options that are left out.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in without:
            continue
        if dataclasses.is_dataclass(value):
            found |= settings_of(value, without)
        else:
            found[field.name] = str(value) if isinstance(value, Path) else value
    return found


def words_of(options: Any, without: Collection[str] = (), group: str = "") -> list[str]:
    """The words of a command line that ``parse`` makes these options of, without those at their defaults.

    Args:
        options: a command's.
        without: names of options that are left out.
        group: what their names begin with, as ``network.``.
    """
    first: list[str] = []
    rest: list[str] = []
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in without or value == _default(field):
            continue
        if dataclasses.is_dataclass(value):
            inner = _name(hints[field.name], field.name)
            rest += words_of(value, without, f"{group}{inner}." if inner else group)
        elif _marked(hints[field.name], Positional):
            first += map(_word, value) if isinstance(value, tuple) else [_word(value)]
        else:
            name = f"{group}{_name(hints[field.name], field.name)}"
            rest += _option(name, value, _marked(hints[field.name], UseAppendAction))
    return first + rest


def _name(hint: Any, name: str) -> str:
    """What an option is called on the command line: of its own ``arg`` where that says so."""
    said = [getattr(mark, "name", None) for mark in getattr(hint, "__metadata__", ())]
    return next((one for one in said if isinstance(one, str)), name.replace("_", "-"))


def _option(named: str, value: Any, repeated: bool) -> list[str]:
    name = f"--{named}"
    if isinstance(value, bool):
        group, dot, last = named.rpartition(".")
        return [name if value else f"--{group}{dot}no-{last}"]
    if isinstance(value, Mapping):
        return [name, *(_word(part) for pair in value.items() for part in pair)]
    if isinstance(value, (tuple, list)):
        return [word for one in value for word in (name, _word(one))] if repeated else [name, *map(_word, value)]
    return [name, _word(value)]


def _word(value: Any) -> str:
    if value is None:
        return "None"
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _marked(hint: Any, marker: Any) -> bool:
    """Whether a type carries one of tyro's markers."""
    mark = typing.get_args(marker[str])[1:]
    return any(m in mark for part in (hint, *typing.get_args(hint)) for m in getattr(part, "__metadata__", ()))
