"""Files that are written whole or not at all, and read with every doubt named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError

TEMPORARY = ".tmp-"
"""What the name of an unfinished file or directory begins with."""


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write a file beside the path and put it in the path's place in one step: a reader sees the old or the new."""
    beside = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        write(beside, content)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _settle(path.parent)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the name ``path`` in one step when all its files are on the disk.

    If anything fails it is removed, and ``path`` does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{TEMPORARY}{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        yield beside
        _settle(beside)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _settle(path.parent)


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk (POSIX; elsewhere a folder can't be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def as_json(value: Any) -> bytes:
    """Plain JSON with an end of line; NaN and infinity have no place in it."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name, as a safetensors file holds them."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: if the file is missing, no JSON, or no object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; nothing in it is executed.

    Raises:
        UserError: if the file is missing, truncated, or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        # A copy: the file may be replaced while the tensors are in use.
        return {name: value.clone() for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is truncated or no safetensors file: {error}") from None


def fit(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a file that are not those of ``wanted``: by name, shape and dtype.

    Raises:
        UserError: with the file and the first tensors that differ.
    """
    problems = []
    for kind, names in (("missing", wanted.keys() - tensors.keys()), ("unknown", tensors.keys() - wanted.keys())):
        if names:
            problems.append(f"{kind}: {', '.join(sorted(names)[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}")
    for name in sorted(wanted.keys() & tensors.keys()):
        got, want = tensors[name], wanted[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            plain = lambda v: f"{tuple(v.shape)} {v.dtype}".replace("torch.", "")
            problems.append(f"{name} is {plain(got)}, the configuration says {plain(want)}")
            break
    if problems:
        raise UserError(f"{path} does not match its configuration: {'; '.join(problems)}")


def only(path: Path, values: Mapping[str, Any], required: set[str]) -> None:
    """Refuse an object of a file that lacks a key or has one that is not known.

    Raises:
        UserError: with the file and the keys.
    """
    missing, unknown = required - values.keys(), values.keys() - required
    if missing or unknown:
        parts = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        parts += [f"has unknown {', '.join(sorted(unknown))}"] * bool(unknown)
        raise UserError(f"{path} {' and '.join(parts)}")


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every floating tensor is."""
    return all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())
