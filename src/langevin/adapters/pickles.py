"""Foreign pickles to safetensors: the one place of the project that unpickles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, nearest
from ..storage import files, pickles
from ..storage.untrusted import reading, reason, room

SHOWN = 20
"""Names in a message at most."""

DEEPEST = 16
"""Mappings within mappings that are looked through."""


def convert(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, key: str | None = None, run_code: bool = False
) -> dict[str, Any]:
    """Write the tensors of a pickle (``.pt``, ``.pth``, ``.ckpt``, ``.pkl``) into a safetensors file.

    By default no code of the file is run: what it names is listed first, without unpickling, and the file is refused
    unless that is tensors and containers of them; only then torch reads it, with ``weights_only``. With ``run_code`` it
    is unpickled in another process, with all that its author put into it. That process has your rights.

    Args:
        path: a file of ``torch.save``, or a plain pickle.
        out: a safetensors file, written whole or not at all.
        key: which of several mappings of tensors, as ``ema`` or ``model/ema``; not needed if there is one.
        run_code: unpickle what is more than tensors.

    Returns:
        ``key``, the number of ``tensors`` and of their ``numbers``, and the names that were ``left_out`` beside them.

    Raises:
        UserError: if the file cannot be read, holds code, no tensors, or several mappings of them and no key.
    """
    tensors, about = read(Path(path), key=key, run_code=run_code)
    files.replace(Path(out), files.as_safetensors(tensors))
    return about


def read(
    path: Path, *, key: str | None = None, run_code: bool = False, prefer: Sequence[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that ``convert`` writes, and what it says of them.

    Args:
        path, key, run_code: as of ``convert``.
        prefer: keys of which the first that is there is taken where none is given.

    Raises:
        UserError: as ``convert``.
    """
    if run_code:
        with tempfile.TemporaryDirectory() as folder:
            return _apart(path, key, prefer, Path(folder))
    if code := pickles.foreign(path):
        more = f" and {len(code) - SHOWN} more" * (len(code) > SHOWN)
        raise UserError(
            f"{path} is more than tensors: reading it would run {', '.join(code[:SHOWN])}{more}. Nothing was run. "
            "If you trust its author with all your files, --run-code runs it"
        )
    return _chosen(_loaded(path), key, prefer, path)


def _loaded(path: Path) -> Any:
    with reading(path):
        return torch.load(path, map_location="cpu", weights_only=True)


def _chosen(held: Any, key: str | None, prefer: Sequence[str], path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mapping of tensors that is asked for, each tensor with memory of its own."""
    found = dict(_mappings(held))
    if not found:
        raise UserError(f"{path} holds no mapping of tensors by name")
    largest = sorted(found, key=lambda name: -sum(v.numel() for v in found[name][0].values()))
    key = next((name for name in prefer if name in found), None) if key is None else key
    if key is None and len(found) > 1:
        listed = ", ".join(f"{name or '(top)'} ({len(found[name][0])} tensors)" for name in largest[:SHOWN])
        raise UserError(f"{path} holds {len(found)} mappings of tensors; choose one with --key: {listed}")
    name = largest[0] if key is None else key
    if name not in found:
        raise UserError(f"{path} has no {name!r}.{nearest(name, found)} It has {', '.join(largest[:SHOWN])}.")
    tensors, left = found[name]
    sizes = {n: v.numel() * v.element_size() for n, v in tensors.items()}
    for n, v in tensors.items():
        if v.layout is not torch.strided or v.is_quantized or v.device.type != "cpu":
            raise UserError(f"{path}: {n} is no plain tensor ({v.layout}, {v.device})")
        if sizes[n] > v.untyped_storage().nbytes():
            raise UserError(f"{path}: {n} of shape {tuple(v.shape)} is more than the file holds")
    room(2 * sum(sizes.values()), str(path))
    about = {"key": name, "tensors": len(tensors), "numbers": sum(v.numel() for v in tensors.values())}
    with reading(path):
        return {n: v.detach().clone().contiguous() for n, v in tensors.items()}, {**about, "left_out": left}


def _mappings(held: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, tuple[dict[str, Tensor], list[str]]]]:
    """Every mapping with tensors in it: its place, its tensors by name, and what else it holds."""
    state = getattr(held, "state_dict", None)
    if callable(state):  # a module; only code that was run can have made one
        held = state()
    if not isinstance(held, Mapping) or depth > DEEPEST:
        return
    plain = lambda v: isinstance(v, np.ndarray) and v.dtype.kind in "biuf" and v.dtype.itemsize <= 8
    tensor = lambda v: v if isinstance(v, Tensor) else torch.from_numpy(v.astype(v.dtype.newbyteorder("=")))
    tensors = {str(k): tensor(v) for k, v in held.items() if isinstance(v, Tensor) or plain(v)}
    if tensors:
        yield where, (tensors, [str(k) for k in held if str(k) not in tensors])
    for k, v in held.items():
        yield from _mappings(v, f"{where}/{k}".lstrip("/"), depth + 1)


def _apart(
    path: Path, key: str | None, prefer: Sequence[str], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same of a file that is unpickled with its code, in another process."""
    words = [sys.executable, "-m", __spec__.name, str(path.resolve()), str(folder), json.dumps([key, list(prefer)])]
    made = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if not (folder / "about.json").exists():
        last = made.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {made.returncode}"]
        raise UserError(f"{path} cannot be unpickled: {last[0][:300]}")
    about = files.read_json(folder / "about.json")
    if "error" in about:
        raise UserError(str(about["error"]))
    return files.read_safetensors(folder / "tensors.safetensors"), about


def _with_code(path: Path, folder: Path, key: str | None, prefer: Sequence[str]) -> None:
    """Unpickle with all that is in the file; what is found is left in the folder."""
    import pickle

    try:
        with open(path, "rb") as file:
            torch_made = file.read(4) == b"PK\x03\x04"
        try:
            held = torch.load(path, map_location="cpu", weights_only=False)
        except (pickle.UnpicklingError, RuntimeError):
            if torch_made:
                raise
            with open(path, "rb") as file:
                held = pickle.load(file)
        tensors, about = _chosen(held, key, prefer, path)
        files.write(folder / "tensors.safetensors", files.as_safetensors(tensors))
    except Exception as error:
        about = {"error": f"{path} cannot be unpickled: {reason(error)}"}
        if isinstance(error, UserError):
            about = {"error": str(error)}
    (folder / "about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    _with_code(Path(sys.argv[1]), Path(sys.argv[2]), *json.loads(sys.argv[3]))
