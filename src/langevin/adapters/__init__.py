"""Networks and weights from elsewhere: any callable, foreign files, and diffusers, both ways."""

from __future__ import annotations

import importlib
from typing import Any

_FILES = ("card", "checkpoints", "diffusers", "hub", "loading", "networks", "pickles", "pipeline")


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
