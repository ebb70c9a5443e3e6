"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .units import Units
from .vdm import VDMBound, vdm_bound

__all__ = [
    "Bound",
    "ContinuousBound",
    "Units",
    "VDMBound",
    "bound",
    "continuous_bound",
    "vdm_bound",
]
