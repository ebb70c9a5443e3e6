"""One trainer: configuration, optimiser steps, moving average, checkpoints, and the model directory they end in."""

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
    build,
    settle,
)
from .ema import EMA
from .learner import Learner
from .loop import train
from .model import load, load_codec, save
from .order import Order
from .pictures import grid, pairs, png, scatter, text
from .recipes import RECIPES, recipe
from .team import Team
from .tuning import tune, tune_model
from .variances import calibrate_model, train_head

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
