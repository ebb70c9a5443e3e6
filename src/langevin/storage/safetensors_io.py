"""Files of tensors, whose header is held against the size of the file before any tensor is made."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .._errors import UserError
from .untrusted import open_file, parse_json, reading, reason

HEADER = 2**24
"""Size of the header of a safetensors file at most; a tensor takes about a hundred bytes of it."""

TENSORS = 2**16
"""Tensors of a safetensors file at most; networks of a thousand layers have some ten thousand."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types of a safetensors file that are read."""


def outline(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: their names, shapes and types, and no numbers.

    The header is compared with the size of the file: the tensors lie one behind another and fill it.

    Raises:
        UserError: if the file is missing, truncated, no safetensors file, or contradicts itself.
    """
    try:
        with open_file(path) as file:
            return _outline(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, UserError) as error:
        if str(path) in str(error):
            raise UserError(str(error)) from None
        raise UserError(f"{path} is truncated or no safetensors file: {reason(error)}") from None


def _outline(file: BinaryIO, size: int) -> dict[str, Tensor]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8 or length > HEADER:
        raise UserError(f"its header has {length} bytes, the file {size}; at most {HEADER} are accepted")
    text = file.read(length)
    # Counted as they are always spelt before the text is parsed, which takes a hundred times as long.
    count = text.count(b'"data_offsets"')
    header = parse_json(text) if count <= TENSORS else None
    if isinstance(header, dict):
        header.pop("__metadata__", None)
        count = len(header)
    if count > TENSORS:
        raise UserError(f"it holds {count} tensors; at most {TENSORS} are accepted")
    if not isinstance(header, dict):
        raise UserError("its header is no JSON object")
    found, spans = {}, []
    for name, about in header.items():
        if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
            raise UserError(f"{name!r} must have a dtype, a shape and data_offsets")
        dtype, shape, span = DTYPES.get(str(about["dtype"])), about["shape"], about["data_offsets"]
        whole = lambda values: isinstance(values, list) and all(type(n) is int and 0 <= n < 2**48 for n in values)
        if dtype is None or not whole(shape) or len(shape) > 16 or not whole(span) or len(span) != 2:
            raise UserError(f"{name!r} has dtype {about['dtype']!r}, shape {shape!r} and data_offsets {span!r}")
        if span[1] - span[0] != dtype.itemsize * math.prod(shape):
            raise UserError(
                f"{name!r} of shape {shape} and {about['dtype']} does not fill its {span[1] - span[0]} bytes"
            )
        if math.prod(max(n, 1) for n in shape) >= 2**48:
            raise UserError(f"{name!r} has shape {shape}")
        found[name] = torch.empty(shape, dtype=dtype, device="meta")
        spans.append(span)
    ends = [0, *(end for _, end in sorted(spans))]
    if [start for start, _ in sorted(spans)] != ends[:-1] or ends[-1] != size - 8 - length:
        raise UserError(f"its tensors do not fill the {size - 8 - length} bytes behind its header")
    return found


def unpack(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of the content of a safetensors file, each with memory of its own; nothing in it is executed.

    Raises:
        UserError: as ``outline``; it names the path.
    """
    from safetensors.torch import load

    try:
        _outline(io.BytesIO(content), len(content))
    except UserError as error:
        raise UserError(f"{path} is truncated or no safetensors file: {reason(error)}") from None
    with reading(path):
        return dict(sorted(load(content).items()))  # safetensors gives another order in every process


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


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every floating tensor is."""
    return all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())
