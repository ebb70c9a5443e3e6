"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .grids import Pairs, pairs
from .horizon import Horizon, fitted_start, horizon
from .units import Units
from .vdm import VDMBound, vdm_bound

__all__ = [
    "Bound",
    "ContinuousBound",
    "Horizon",
    "Pairs",
    "Units",
    "VDMBound",
    "bound",
    "continuous_bound",
    "fitted_start",
    "horizon",
    "pairs",
    "vdm_bound",
]
