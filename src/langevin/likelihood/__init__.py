"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .continuous import ContinuousBound, continuous_bound
from .units import Units
from .vdm import VDMBound, vdm_bound

__all__ = [
    "ContinuousBound",
    "Units",
    "VDMBound",
    "continuous_bound",
    "vdm_bound",
]
