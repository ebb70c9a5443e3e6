"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .dequantise import Dequantiser, LogisticNormal, TruncatedNormal, Uniform, learn_dequantiser
from .exact import Exact, exact
from .latent import LatentBound, latent_bound
from .latent_diffusion import latent_diffusion_bound
from .pairwise import PairwiseBound, pairs
from .start_time import StartTime, fitted_start, start_time
from .units import Units
from .vdm import VDMBound, vdm_bound

__all__ = [
    "Bound",
    "ContinuousBound",
    "Dequantiser",
    "Exact",
    "LatentBound",
    "LogisticNormal",
    "PairwiseBound",
    "StartTime",
    "TruncatedNormal",
    "Uniform",
    "Units",
    "VDMBound",
    "bound",
    "continuous_bound",
    "exact",
    "fitted_start",
    "latent_bound",
    "latent_diffusion_bound",
    "learn_dequantiser",
    "pairs",
    "start_time",
    "vdm_bound",
]
