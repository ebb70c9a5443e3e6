"""Beliefs about clean data: the reading of networks, and statistics of posteriors."""

from .base import Denoiser, Density, Transform, as_labels, check_is_denoiser, described
from .check import DenoiserCheck, LevelErrors, check_denoiser
from .compiled import compiled
from .energy import EnergyDenoiser, networked
from .heads import NPR, SN, VARIANCE_HEADS, Headed
from .levels import LevelReading
from .network import VARIANCES, Counter, NetworkDenoiser, together
from .optimal import Calibration, analytic, calibrate, with_variance
from .phase import PHASE_PREDICTIONS, PhaseReading
from .reading import PREDICTIONS, TIME_LABELS, Asked, Reader, Reading, time_range
from .statistics import clamp, convert, dirac, gaussian, independent, isotropic, reweighted, unit, whole
from .tokens import HEADS, TokenReading

__all__ = [
    "HEADS",
    "NPR",
    "PHASE_PREDICTIONS",
    "PREDICTIONS",
    "SN",
    "TIME_LABELS",
    "VARIANCES",
    "VARIANCE_HEADS",
    "Asked",
    "Calibration",
    "Counter",
    "Denoiser",
    "DenoiserCheck",
    "Density",
    "EnergyDenoiser",
    "Headed",
    "LevelErrors",
    "LevelReading",
    "NetworkDenoiser",
    "PhaseReading",
    "Reader",
    "Reading",
    "TokenReading",
    "Transform",
    "analytic",
    "as_labels",
    "calibrate",
    "check_denoiser",
    "check_is_denoiser",
    "clamp",
    "compiled",
    "convert",
    "described",
    "dirac",
    "gaussian",
    "independent",
    "isotropic",
    "networked",
    "reweighted",
    "time_range",
    "together",
    "unit",
    "whole",
    "with_variance",
]
