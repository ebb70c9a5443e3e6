"""Beliefs about clean data: the reading of networks, and statistics of posteriors."""

from .base import Denoiser, Density, Transform
from .compiled import compiled
from .energy import EnergyDenoiser, networked
from .network import VARIANCES, Counter, NetworkDenoiser, together
from .reading import PREDICTIONS, TIME_LABELS, Reading
from .statistics import clamp, convert, dirac, gaussian, independent, unit, whole

__all__ = [
    "PREDICTIONS",
    "TIME_LABELS",
    "VARIANCES",
    "Counter",
    "Denoiser",
    "Density",
    "EnergyDenoiser",
    "NetworkDenoiser",
    "Reading",
    "Transform",
    "clamp",
    "compiled",
    "convert",
    "dirac",
    "gaussian",
    "independent",
    "networked",
    "together",
    "unit",
    "whole",
]
