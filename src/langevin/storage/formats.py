"""What files hold: bytes with their checksums, JSON, tensors; read with every doubt named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._errors import UserError, nearest
from .safetensors_io import unpack
from .untrusted import JSON_BYTES, contents, parse_json


def read(path: Path, most: int | None = None) -> bytes:
    """What a regular file holds, unless it is larger than ``most`` bytes or than memory.

    Raises:
        UserError: if it is missing, too large, or cannot be read.
    """
    try:
        return contents(path, most)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        most: bytes it may have.

    Raises:
        UserError: if the file is missing, too large, no JSON (see ``parse_json``), or no object.
    """
    content = read(path, most)
    try:
        value = parse_json(content)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; nothing in it is executed.

    Raises:
        UserError: as ``outline``, if the file is damaged, or larger than memory.
    """
    return unpack(read(path), path)


def as_json(value: Any) -> bytes:
    """Plain JSON with an end of line; NaN and infinity have no place in it."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def as_safetensors(tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> bytes:
    """Tensors by name, as a safetensors file holds them; ``header`` is text that its header says beside them."""
    from safetensors.torch import save

    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    if header is None:
        return content
    # safetensors would write it in another order in every process, and files must be equal to the byte.
    size = int.from_bytes(content[:8], "little")
    table = {"__metadata__": dict(sorted(header.items())), **json.loads(content[8 : 8 + size])}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def digest(content: bytes) -> dict[str, Any]:
    """Size and SHA-256 of a file's content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def digests(file: Path, values: Any, names: set[str]) -> dict[str, Any]:
    """Sizes and checksums that a file gives for others, of these names and no other.

    Raises:
        UserError: if they are none.
    """
    form = {"bytes": int, "sha256": str}
    if not isinstance(values, dict) or any(
        not isinstance(v, dict) or {k: type(x) for k, x in v.items()} != form for v in values.values()
    ):
        raise UserError(f"{file}: files must give bytes and sha256 of each")
    if unknown := values.keys() - names:
        raise UserError(f"{file}: files must be of {', '.join(sorted(names))}, got {', '.join(sorted(unknown))}")
    return values


def only(path: Path, values: Mapping[str, Any], required: set[str]) -> None:
    """Refuse an object of a file that lacks a key or has one that is not known.

    Raises:
        UserError: with the file and the keys.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must hold a JSON object with {', '.join(sorted(required))}, got {values!r:.80}")
    missing, unknown = sorted(required - values.keys()), sorted(values.keys() - required)
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise UserError(f"{path} {' and '.join(parts)}{'.' * bool(unknown)}{nearest([*unknown, ''][0], required)}")
