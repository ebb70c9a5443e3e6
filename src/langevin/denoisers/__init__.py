"""Beliefs about clean data: parameterizations of networks, exact and learned denoisers, statistics of posteriors."""

from .base import (
    DataDescription,
    Denoiser,
    Density,
    Derived,
    EvaluationCounter,
    LearnedFor,
    Transform,
    check_is_denoiser,
)
from .check import DenoiserCheck, LevelErrors, check_denoiser
from .classifier import NoisyClassifier
from .compiled import compiled
from .conditioned import config_of
from .contrastive import ContrastiveEncoder
from .energy import EnergyDenoiser, make_denoiser
from .frames import gaussian_frame
from .generator import Generator, NormalizingFlow
from .heads import NPR, SN, VARIANCE_HEADS, VarianceHead
from .levels import LevelParameterization
from .levy import LevyParameterization
from .network import VARIANCES, NetworkDenoiser, batched
from .optimal import Calibration, analytic, calibrate, with_variance
from .parameterization import PREDICTIONS, TIME_INPUTS, AffineParameterization, Parameterization, TimeInputs, time_range
from .phase import PHASE_PREDICTIONS, PhaseParameterization
from .statistics import clamp, convert, dirac, gaussian, identity, independent, isotropic, reweighted, unit
from .tiled import Tiled, tiled
from .tokens import HEADS, TokenParameterization

__all__ = [
    "HEADS",
    "NPR",
    "PHASE_PREDICTIONS",
    "PREDICTIONS",
    "SN",
    "TIME_INPUTS",
    "VARIANCES",
    "VARIANCE_HEADS",
    "AffineParameterization",
    "Calibration",
    "ContrastiveEncoder",
    "DataDescription",
    "Denoiser",
    "DenoiserCheck",
    "Density",
    "Derived",
    "EnergyDenoiser",
    "EvaluationCounter",
    "Generator",
    "LearnedFor",
    "LevelErrors",
    "LevelParameterization",
    "LevyParameterization",
    "NetworkDenoiser",
    "NoisyClassifier",
    "NormalizingFlow",
    "Parameterization",
    "PhaseParameterization",
    "Tiled",
    "TimeInputs",
    "TokenParameterization",
    "Transform",
    "VarianceHead",
    "analytic",
    "batched",
    "calibrate",
    "check_denoiser",
    "check_is_denoiser",
    "clamp",
    "compiled",
    "config_of",
    "convert",
    "dirac",
    "gaussian",
    "gaussian_frame",
    "identity",
    "independent",
    "isotropic",
    "make_denoiser",
    "reweighted",
    "tiled",
    "time_range",
    "unit",
    "with_variance",
]
