"""Models of diffusers as denoisers, samplers of this library in its pipelines, and models written as pipelines.

diffusers is an optional package (``pip install "langevin[diffusers]"``), imported by the first call that needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Scheduler": "scheduler",
    "estimate_moments": "moments",
    "is_diffusers": "directory",
    "load": "loading",
    "native_grid": "schedules",
    "save": "export",
}
"""What this package offers, and the file that holds it."""

__all__ = ["Scheduler", "estimate_moments", "is_diffusers", "load", "native_grid", "save"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
