"""One trainer: configuration, optimiser steps, moving average, checkpoints, and the model directory they end in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import found as checkpoints
    from .codec import Autoencoder
    from .config import (
        BudgetConfig,
        Config,
        EMAConfig,
        NetworkConfig,
        ObjectiveConfig,
        OptimiserConfig,
        OutputConfig,
        PredictionConfig,
        ProcessConfig,
        WorkConfig,
    )
    from .ema import EMA
    from .learner import Learner
    from .loop import train
    from .model import load, load_codec, save
    from .order import Order
    from .pictures import grid, image, pairs, png, scatter, text
    from .recipes import RECIPES, recipe
    from .resolve import build, settle
    from .team import Team
    from .tuning import tune, tune_model
    from .variances import calibrate_model, train_head

_FILES = {
    "checkpoint": ("checkpoints",),
    "codec": ("Autoencoder",),
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
        "WorkConfig",
    ),
    "ema": ("EMA",),
    "learner": ("Learner",),
    "loop": ("train",),
    "model": ("load", "load_codec", "save"),
    "order": ("Order",),
    "pictures": ("grid", "image", "pairs", "png", "scatter", "text"),
    "recipes": ("RECIPES", "recipe"),
    "resolve": ("build", "settle"),
    "team": ("Team",),
    "tuning": ("tune", "tune_model"),
    "variances": ("calibrate_model", "train_head"),
}
"""Files with the names that each gives. They are imported when a name is first asked for: the command line's help needs
``config`` alone, which needs no torch."""

__all__ = [
    "EMA",
    "RECIPES",
    "Autoencoder",
    "BudgetConfig",
    "Config",
    "EMAConfig",
    "Learner",
    "NetworkConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "Order",
    "OutputConfig",
    "PredictionConfig",
    "ProcessConfig",
    "Team",
    "WorkConfig",
    "build",
    "calibrate_model",
    "checkpoints",
    "grid",
    "image",
    "load",
    "load_codec",
    "pairs",
    "png",
    "recipe",
    "save",
    "scatter",
    "settle",
    "text",
    "train",
    "train_head",
    "tune",
    "tune_model",
]

if not TYPE_CHECKING:  # a type checker reads the imports above

    def __getattr__(name: str):
        for file, names in _FILES.items():
            if name in names:
                module = importlib.import_module(f".{file}", __name__)
                return getattr(module, "found" if name == "checkpoints" else name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
