"""Restoration: samples of clean data given a measurement y = A(x) + n."""

from __future__ import annotations

from . import methods, split_gibbs, twisted
from .fit import Fit, fit
from .league import Row, Setting, league, load_solver, settings
from .run import check_method, check_model, check_options, default_method, method_named, restore

__all__ = [
    "Fit",
    "Row",
    "Setting",
    "check_method",
    "check_model",
    "check_options",
    "default_method",
    "fit",
    "league",
    "load_solver",
    "method_named",
    "methods",
    "restore",
    "settings",
    "split_gibbs",
    "twisted",
]
