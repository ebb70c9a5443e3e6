"""Restoration: samples of clean data given a measurement y = A(x) + n."""

from __future__ import annotations

from . import methods
from .league import Row, Setting, league, load_solver, settings
from .run import check_options, method_named, restore

__all__ = ["Row", "Setting", "check_options", "league", "load_solver", "method_named", "methods", "restore", "settings"]
