"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .units import Units

__all__ = [
    "Bound",
    "ContinuousBound",
    "Units",
    "bound",
    "continuous_bound",
]
