"""langevin: one small algebra for diffusion models.

A ``Process`` turns data into noise, a ``Denoiser`` is a belief about clean data, a ``Sampler`` is an update rule, and
one loop drives them all::

    world = langevin.worlds.ring()
    denoiser = world.denoiser(langevin.processes.VP())
    x = langevin.sample(denoiser, n=64, steps=10, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

_FOLDERS = (
    "adapters",
    "calibration",
    "data",
    "denoisers",
    "distributions",
    "generate",
    "guidance",
    "likelihood",
    "metrics",
    "models",
    "nn",
    "numerics",
    "objectives",
    "operators",
    "processes",
    "samplers",
    "tasks",
    "training",
    "worlds",
)
_NAMES = {
    "Noise": "distributions",
    "Pipeline": "adapters.pipeline",
    "State": "samplers",
    "UserError": "_errors",
    "check_denoiser": "denoisers",
    "denoiser": "adapters.networks",
    "edit": "tasks.edit",
    "load": "adapters.loading",
    "methods": "_registry",
    "restore": "tasks.restore",
    "sample": "samplers",
    "trajectory": "samplers",
}

if TYPE_CHECKING:
    from . import (
        adapters,
        calibration,
        data,
        denoisers,
        distributions,
        generate,
        guidance,
        likelihood,
        metrics,
        models,
        nn,
        numerics,
        objectives,
        operators,
        processes,
        samplers,
        tasks,
        training,
        worlds,
    )
    from ._errors import UserError
    from ._registry import methods
    from .adapters.loading import load
    from .adapters.networks import denoiser
    from .adapters.pipeline import Pipeline
    from .denoisers import check_denoiser
    from .distributions import Noise
    from .samplers import State, sample, trajectory
    from .tasks.edit import edit
    from .tasks.restore import restore

__all__ = [
    "Noise",
    "Pipeline",
    "State",
    "UserError",
    "adapters",
    "calibration",
    "check_denoiser",
    "data",
    "denoiser",
    "denoisers",
    "distributions",
    "edit",
    "generate",
    "guidance",
    "likelihood",
    "load",
    "methods",
    "metrics",
    "models",
    "nn",
    "numerics",
    "objectives",
    "operators",
    "processes",
    "restore",
    "sample",
    "samplers",
    "tasks",
    "training",
    "trajectory",
    "worlds",
]


def __getattr__(name: str) -> Any:
    # Folders are imported when they are first named, so that `import langevin` costs next to nothing.
    if name in _FOLDERS:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
