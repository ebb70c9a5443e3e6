"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .continuous import ContinuousBound, continuous_bound
from .units import Units

__all__ = [
    "ContinuousBound",
    "Units",
    "continuous_bound",
]
