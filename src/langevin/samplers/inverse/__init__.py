"""Samplers of a posterior: rules that change x_s by a measurement."""

from __future__ import annotations

from .daps import DAPS
from .ddrm import DDRM
from .diffpir import DiffPIR
from .gradient_steps import DPS, MCG, PiGDM
from .latent import PSLD
from .projection import Projection
from .repaint import RePaint, time_travel
from .split_gibbs import SplitGibbs

__all__ = [
    "DAPS",
    "DDRM",
    "DPS",
    "MCG",
    "PSLD",
    "DiffPIR",
    "PiGDM",
    "Projection",
    "RePaint",
    "SplitGibbs",
    "time_travel",
]
