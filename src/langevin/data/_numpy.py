"""Arrays out of .npy and .npz files, each size held against the file's before memory is taken; never a pickle."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from .._errors import UserError
from ..storage.untrusted import amount, open_file, reading, room

HEADER = 10_000
"""Bytes of the header of an array at most."""

MEMBERS = 1000
"""Files in an .npz archive at most."""

FREE, RATIO = 2**30, 64
"""What an archive is unpacked to at most: a gigabyte, or so many times its packed size if that is more."""

_ENTRIES = re.compile(
    r"""\{(?:\s*(?:'descr'\s*:\s*'(?P<descr>[<>|=]?\w{1,9})'|'fortran_order'\s*:\s*(?P<order>True|False)"""
    r"""|'shape'\s*:\s*\((?P<shape>[\d\sL,]*)\))\s*,?){3}\s*\}\s*"""
)
"""The header as numpy writes it, its three entries in any order; no other literal is accepted."""


def arrays(path: str | os.PathLike[str], wanted: Sequence[str], most: float = math.inf) -> dict[str, np.ndarray]:
    """The array of a .npy file, under the first name wanted, or those wanted of an .npz file that it has.

    Each takes at most ``most`` bytes.

    Numbers of a fixed size only, in the machine's own byte order. An archive may be stored or deflated.

    Raises:
        UserError: if the file is missing, damaged, holds Python objects, lacks the first array wanted, claims more than
            it holds, or would take more memory than there is.
    """
    name = os.fspath(path)
    try:
        with open_file(path) as file, reading(name):
            size = os.fstat(file.fileno()).st_size
            if file.read(4) != b"PK\x03\x04":
                file.seek(0)
                return {wanted[0]: _array(file, size, min(size, most), name)}
            with zipfile.ZipFile(file) as held:
                return _members(held, wanted, name, most)
    except OSError as error:
        raise UserError(f"{name} is not a readable NumPy file: {error.strerror or error}.") from None


def _members(held: zipfile.ZipFile, wanted: Sequence[str], name: str, limit: float) -> dict[str, np.ndarray]:
    there = {info.filename.removesuffix(".npy"): info for info in held.infolist()[:MEMBERS]}
    if wanted[0] not in there:
        also = f" (and optionally {', '.join(map(repr, wanted[1:]))})" if wanted[1:] else ""
        raise UserError(f"{name}: an .npz file needs an array {wanted[0]!r}{also}; has {sorted(there)[:20]}.")
    found = {}
    for key in wanted:
        if (info := there.get(key)) is None:
            continue
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise UserError(f"{name}: {key} must be stored or deflated, and not encrypted.")
        # What the packed bytes may grow to; the unpacked size that the archive claims is not believed beyond it.
        most = min(info.file_size, max(FREE, RATIO * info.compress_size), limit)
        if info.compress_type == zipfile.ZIP_STORED:
            most = min(most, info.compress_size)
        with held.open(info) as member:
            found[key] = _array(member, info.file_size, most, f"{name}: {key}")
    return found


def _array(file: IO[bytes], size: int, most: float, name: str) -> np.ndarray:
    """One array of a stream of at most ``most`` bytes, which claims to have ``size``."""
    start = file.read(8)
    length = int.from_bytes(file.read({1: 2, 2: 4}.get(start[6] if len(start) == 8 else 0, 0)), "little")
    if start[:6] != b"\x93NUMPY" or not 0 < length <= HEADER:
        raise UserError(f"{name} is not a readable NumPy file: it does not begin as one, or is a pickle.")
    match = _ENTRIES.fullmatch(file.read(length).decode("latin-1"))
    if match is None or None in (match["descr"], match["order"], match["shape"]):
        raise UserError(f"{name} is no plain array of numbers; pickled Python objects and records are never read.")
    try:
        dtype = np.dtype(match["descr"])
    except TypeError:
        raise UserError(f"{name} has the unknown type {match['descr']!r}.") from None
    if dtype.kind not in "biufc":
        raise UserError(f"{name} is no plain array of numbers ({dtype}); pickled Python objects are never read.")
    shape = tuple(int(n.strip().rstrip("L")) for n in match["shape"].split(",") if n.strip())
    need, head = math.prod(shape) * dtype.itemsize, (10 if start[6] == 1 else 12) + length
    if len(shape) > 32 or max(shape, default=0) >= 2**48 or need > min(size, most) - head:
        raise UserError(
            f"{name} is not a readable NumPy file: its header says {amount(need)} of shape {shape}, "
            f"at most {amount(int(max(min(size, most) - head, 0)))} can be behind it."
        )
    room(need, name)
    flat, done = np.empty(need, np.uint8), 0
    while done < need:
        part = file.read(min(2**20, need - done))
        if not part:
            raise UserError(f"{name} is not a readable NumPy file: it ends after {done} of {need} bytes.")
        flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if isinstance(file, zipfile.ZipExtFile) and file.read(1):
        raise UserError(f"{name} is not a readable NumPy file: more follows its {need} bytes.")
    held = flat.view(dtype)
    if not dtype.isnative:  # in place: an array may be as large as half of memory
        held = held.byteswap(inplace=True).view(dtype.newbyteorder("="))
    held = held.reshape(shape, order="F" if match["order"] == "True" else "C")
    return np.ascontiguousarray(held).reshape(shape)


def count_nonfinite(x: np.ndarray) -> int:
    """How many values are NaN or infinite, a million at a time: a mask of all takes a quarter of what they take."""
    flat = x.reshape(-1)
    parts = (flat[first : first + 2**20] for first in range(0, len(flat), 2**20))
    return sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)


def samples(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """``x`` float32 ``(N, …)``, finite, and ``label`` int64 ``(N,)`` if there is one, of a file of `langevin sample`.

    Raises:
        UserError: as ``arrays``, or for arrays of another kind or shape.
    """
    held = arrays(Path(path), ("x", "label"))
    x, label = held.pop("x"), held.get("label")
    if x.dtype.kind != "f":
        raise UserError(f"{path}: x must be floats in the range of the data, got {x.dtype}")
    if x.ndim < 2 or not x.size:
        raise UserError(f"{path}: x must hold samples (N, …), got shape {x.shape}")
    if label is not None and (label.dtype.kind not in "iu" or label.shape != (len(x),)):
        raise UserError(f"{path}: label must be {len(x)} integers, one a sample, got {label.dtype} {label.shape}")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32, copy=False)
    if bad := count_nonfinite(x):
        raise UserError(f"{path}: x holds {bad} values that are no finite float32")
    return x, None if label is None else label.astype(np.int64)
