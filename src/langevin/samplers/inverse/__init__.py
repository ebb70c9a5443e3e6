"""Samplers of a posterior: rules that change x_s by a measurement, as their papers published them.

``gradient_steps``: DPS, ΠGDM, MCG. ``ddrm``: DDRM. ``diffpir``: DiffPIR. ``daps``: DAPS. ``split_gibbs``: split Gibbs.
``projection`` and ``repaint``: measured pixels put back, RePaint. ``latent``: PSLD. ``base``: what they share.
The same likelihoods as guidance, which goes with any sampler, are in ``guidance.measurement``.
"""

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
