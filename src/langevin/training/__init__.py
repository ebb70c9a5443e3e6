"""One trainer: configuration, optimiser steps, moving average, checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import found as checkpoints
    from .config import (
        BudgetConfig,
        Config,
        EMAConfig,
        NetworkConfig,
        ObjectiveConfig,
        OptimiserConfig,
        OutputConfig,
        ParallelConfig,
        PredictionConfig,
        ProcessConfig,
        StartConfig,
    )
    from .distributed import ProcessGroup
    from .ema import EMA
    from .learner import Learner
    from .loader import Order
    from .loop import train
    from .pictures import SHOWN, accuracy, as_bytes, image, image_grid, pairs, png, scatter, sheet, text, value_range
    from .pretrained import check_start
    from .recipes import RECIPES, recipe
    from .resolve import build, resolve_config

_FILES = {
    "checkpoint": ("checkpoints",),
    "config": (
        "BudgetConfig",
        "Config",
        "EMAConfig",
        "NetworkConfig",
        "ObjectiveConfig",
        "OptimiserConfig",
        "OutputConfig",
        "PredictionConfig",
        "ProcessConfig",
        "ParallelConfig",
        "StartConfig",
    ),
    "ema": ("EMA",),
    "learner": ("Learner",),
    "loop": ("train",),
    "loader": ("Order",),
    "pictures": (
        "SHOWN",
        "accuracy",
        "as_bytes",
        "image",
        "image_grid",
        "pairs",
        "png",
        "scatter",
        "sheet",
        "text",
        "value_range",
    ),
    "pretrained": ("check_start",),
    "recipes": ("RECIPES", "recipe"),
    "resolve": ("build", "resolve_config"),
    "distributed": ("ProcessGroup",),
}
"""Files with the names that each gives. They are imported when a name is first asked for: the command line's help needs
``config`` alone, which needs no torch."""

__all__ = [
    "EMA",
    "RECIPES",
    "SHOWN",
    "BudgetConfig",
    "Config",
    "EMAConfig",
    "Learner",
    "NetworkConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "Order",
    "OutputConfig",
    "ParallelConfig",
    "PredictionConfig",
    "ProcessConfig",
    "ProcessGroup",
    "StartConfig",
    "accuracy",
    "as_bytes",
    "build",
    "check_start",
    "checkpoints",
    "image",
    "image_grid",
    "pairs",
    "png",
    "recipe",
    "resolve_config",
    "scatter",
    "sheet",
    "text",
    "train",
    "value_range",
]

if not TYPE_CHECKING:  # a type checker reads the imports above

    def __getattr__(name: str):
        for file, names in _FILES.items():
            if name in names:
                module = importlib.import_module(f".{file}", __name__)
                return getattr(module, "found" if name == "checkpoints" else name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
