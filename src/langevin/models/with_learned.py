"""A model with what was learned for it: its solvers and variances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .learned import place, stamp
from .parts import with_denoiser
from .solvers import solvers_of
from .variances import variances_of


def with_learned(model: Any, folder: Path) -> Any:
    """The model with the solvers and variances that were learned for it, where its directory keeps them.

    Args:
        model: a denoiser of a network or a latent model.
        folder: the directory it was loaded from.
    """
    own, where = model.belief_of, place(folder, model)
    if not where.is_dir():
        return model
    return with_denoiser(
        model, replace(own, solvers=solvers_of(where, stamp(own)), learned_variances=variances_of(where, own))
    )
