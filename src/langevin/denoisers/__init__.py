"""Beliefs about clean data: the reading of networks, and statistics of posteriors."""

from .base import Denoiser, Density, Transform, described
from .compiled import compiled
from .energy import EnergyDenoiser, networked
from .levels import LevelReading
from .network import VARIANCES, Counter, NetworkDenoiser, together
from .phase import PHASE_PREDICTIONS, PhaseReading
from .reading import PREDICTIONS, TIME_LABELS, Asked, Reader, Reading
from .statistics import clamp, convert, dirac, gaussian, independent, reweighted, unit, whole
from .tokens import HEADS, TokenReading

__all__ = [
    "HEADS",
    "PHASE_PREDICTIONS",
    "PREDICTIONS",
    "TIME_LABELS",
    "VARIANCES",
    "Asked",
    "Counter",
    "Denoiser",
    "Density",
    "EnergyDenoiser",
    "LevelReading",
    "NetworkDenoiser",
    "PhaseReading",
    "Reader",
    "Reading",
    "TokenReading",
    "Transform",
    "clamp",
    "compiled",
    "convert",
    "described",
    "dirac",
    "gaussian",
    "independent",
    "networked",
    "reweighted",
    "together",
    "unit",
    "whole",
]
