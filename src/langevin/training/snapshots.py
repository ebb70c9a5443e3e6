"""Averages of the weights that a run stores on its way, from which averages of any length are made afterwards.

``averages/step-0000300/`` of a run's directory holds a safetensors file a width, and ``index.json``, which says the
step, the widths and the checksums. It appears whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from ..models.directory import FORMAT
from ..storage import files
from ..storage.untrusted import reading, typed
from .ema import check_width

FOLDER, INDEX = "averages", "index.json"

WIDTHS = (0.05, 0.1)
"""σ_rel of the averages that are stored: those of arXiv:2312.02696 §3.2."""

MOST = 256
"""Snapshots of a run at most: twice as many profiles are still told apart in float64."""

DTYPES = {"float32": torch.float32, "float16": torch.float16}

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Snapshot:
    """An average that was stored.

    Attributes:
        step: after which it was stored.
        width: σ_rel of its profile.
        path: of the safetensors file.
        digest: its size and checksum.
    """

    step: int
    width: float
    path: Path
    digest: Mapping[str, Any]

    def read(self) -> dict[str, Tensor]:
        """The weights by name, in the precision they were stored in.

        Raises:
            UserError: if the file is missing or damaged, or holds numbers that are not finite; it names the file.
        """
        tensors = files.read_safetensors(self.path)
        files.agree(self.path.parent, {self.path.name: self.digest})
        if not files.is_finite(tensors):
            raise UserError(f"{self.path} holds weights that are not finite")
        return tensors


def stem(width: float) -> str:
    """The name of the average of a width, in thousandths: ``ema-050`` for 0.05."""
    return f"ema-{round(1000 * width):03d}"


def place(out: Path, step: int) -> Path:
    """Where the averages of a step are."""
    return out / FOLDER / f"step-{step:07d}"


def save(out: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]], dtype: torch.dtype) -> None:
    """Store the averages of a step.

    Args:
        out: the directory of the run.
        step: optimiser steps taken.
        averages: float32 weights by name, by width.
        dtype: what they are rounded to; tensors with a value that float16 has no number for stay float32.

    Raises:
        DiskError: if the disk is full or refuses; nothing is there then.
    """
    largest = torch.finfo(dtype).max
    rounded = lambda v: v.to(dtype) if v.numel() == 0 or float(v.abs().max()) <= largest else v
    with files.directory(place(out, step)) as folder:
        held = {}
        for width, tensors in averages.items():
            name = f"{stem(width)}.safetensors"
            content = files.as_safetensors({key: rounded(value) for key, value in tensors.items()})
            held[name] = files.write(folder / name, content)
        index = {"langevin": FORMAT, "kind": "averages", "step": step, "widths": [*averages], "files": held}
        files.write(folder / INDEX, files.as_json(index))


def found(out: Path) -> list[Snapshot]:
    """The averages of a run, oldest first; none if it stores none.

    Raises:
        UserError: for an index that is damaged or not that of its directory; it names the file.
    """
    return [snapshot for path in _folders(out) for snapshot in _read(path)]


def _folders(out: Path) -> list[Path]:
    paths = ((m, p) for p in (out / FOLDER).glob("step-*") if (m := _NAME.fullmatch(p.name)) and p.is_dir())
    return [p for _, p in sorted((int(m[1]), p) for m, p in paths)]


def _read(path: Path) -> list[Snapshot]:
    file = path / INDEX
    index = files.read_json(file)
    files.only(file, index, {"langevin", "kind", "step", "widths", "files"})
    if index["langevin"] != FORMAT or index["kind"] != "averages":
        raise UserError(f"{file}: format {index['langevin']!r} is unknown; this version of langevin reads {FORMAT}")
    with reading(file):
        step, widths = typed(int, index["step"], "step"), typed(list[float], index["widths"], "widths")
        if place(path.parent.parent, step) != path:
            raise UserError(f"step {step} is not that of the directory {path.name}")
        for width in widths:
            check_width(width)
        if len(set(map(stem, widths))) < len(widths):
            raise UserError(f"widths must be different numbers, got {widths}")
    names = {f"{stem(width)}.safetensors": width for width in widths}
    held = files.digests(file, index["files"], set(names))
    files.only(file, held, set(names))
    return [Snapshot(step, width, path / name, held[name]) for name, width in names.items()]


def remove_after(out: Path, step: int) -> None:
    """Remove what was stored after a step: of a run that goes on from there, and will store it again."""
    for path in _folders(out):
        if int(path.name.removeprefix("step-")) > step:
            files.remove(path)
