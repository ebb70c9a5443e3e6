"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .dequantise import Dequantiser, LogisticNormal, TruncatedNormal, Uniform, learn_dequantiser
from .exact import Exact, exact
from .grids import Pairs, pairs
from .horizon import Horizon, fitted_start, horizon
from .latent import LatentBound, latent_bound
from .units import Units
from .vdm import VDMBound, vdm_bound

__all__ = [
    "Bound",
    "ContinuousBound",
    "Dequantiser",
    "Exact",
    "Horizon",
    "LatentBound",
    "LogisticNormal",
    "Pairs",
    "TruncatedNormal",
    "Uniform",
    "Units",
    "VDMBound",
    "bound",
    "continuous_bound",
    "exact",
    "fitted_start",
    "horizon",
    "latent_bound",
    "learn_dequantiser",
    "pairs",
    "vdm_bound",
]
