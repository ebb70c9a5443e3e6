"""Restoration: samples of clean data given a measurement y = A(x) + n."""

from __future__ import annotations

from . import gibbs, methods, particles
from .fit import Fit, fit
from .league import Row, Setting, league, load_solver, settings
from .run import check_method, check_options, default_method, method_named, restore

__all__ = [
    "Fit",
    "Row",
    "Setting",
    "check_method",
    "check_options",
    "default_method",
    "fit",
    "gibbs",
    "league",
    "load_solver",
    "method_named",
    "methods",
    "particles",
    "restore",
    "settings",
]
