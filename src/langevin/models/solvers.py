"""The learned solvers in a model directory, ``solver-N.json``."""

from __future__ import annotations

import warnings
from pathlib import Path

from .._errors import UserError
from ..samplers import LearnedSolver, solver_from_dict
from ..storage import files


def name_of(steps: int, guidance_scale: float = 1.0, label: int | str | None = None) -> str:
    """The file's name in a model directory."""
    guided = "" if guidance_scale == 1 else f"-guidance-{guidance_scale:g}"
    one = f"-label-{label}" if isinstance(label, int) else ""
    return f"solver-{steps}{guided}{one}.json"


BYTES, FILES = 2**20, 256
"""Size of a file and number of files beyond which they are refused."""


def solvers_of(folder: Path, trained_steps: int | None = None) -> tuple[LearnedSolver, ...]:
    """The learned solvers in a model directory, by name of their files.

    One that was learned before the model was trained on is left out, with a warning.

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
        then = None if sampler.use is None else sampler.use.made.get("trained_steps")
        if then != trained_steps:
            warnings.warn(
                f"{file} was learned after {then} steps of training, the model has had {trained_steps}: it is "
                "not used; tune again",
                stacklevel=3,
            )
            continue
        read.append(sampler)
    return tuple(read)
