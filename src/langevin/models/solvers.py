"""The learned solvers in a model directory, ``solver-N.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import UserError
from ..samplers import LearnedSolver, solver_from_dict
from ..storage import files
from .learned import is_current


def name_of(steps: int, guidance_scale: float = 1.0, label: int | str | None = None) -> str:
    """The file's name in a model directory."""
    guided = "" if guidance_scale == 1 else f"-guidance-{guidance_scale:g}"
    one = f"-label-{label}" if isinstance(label, int) else ""
    return f"solver-{steps}{guided}{one}.json"


BYTES, FILES = 2**20, 256
"""Size of a file and number of files beyond which they are refused."""


def solvers_of(folder: Path, stamp: Mapping[str, Any]) -> tuple[LearnedSolver, ...]:
    """The learned solvers in a directory, by name of their files.

    One that was learned before the model was trained on is left out, with a warning.

    Args:
        folder: ``learned.place`` of the model.
        stamp: ``learned.stamp`` of the model.

    Raises:
        UserError: for a file that is not one, naming it.
    """
    found = sorted(folder.glob("solver-*.json"))
    if len(found) > FILES:
        raise UserError(f"{folder} must hold at most {FILES} learned solvers, got {len(found)}")
    read = []
    for file in found:
        values = files.read_json(file, most=BYTES)
        try:
            sampler = solver_from_dict(values)
        except UserError as error:
            raise UserError(f"{file}: {error} (remove it, or tune again)") from None
        if is_current(file, {} if sampler.use is None else sampler.use.made, stamp, "tune again"):
            read.append(sampler)
    return tuple(read)
