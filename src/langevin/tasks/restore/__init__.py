"""Restoration: samples of clean data given a measurement y = A(x) + n."""

from __future__ import annotations

from . import latent, methods, split_gibbs, twisted
from .fit import Fit, fit
from .latent import codec_residual, on_states
from .league import LeagueRow, Setting, league, load_solver, settings
from .run import check_method, check_model, check_noise, check_options, default_method, method_named, restore

__all__ = [
    "Fit",
    "LeagueRow",
    "Setting",
    "check_method",
    "check_model",
    "check_noise",
    "check_options",
    "codec_residual",
    "default_method",
    "fit",
    "latent",
    "league",
    "load_solver",
    "method_named",
    "methods",
    "on_states",
    "restore",
    "settings",
    "split_gibbs",
    "twisted",
]
