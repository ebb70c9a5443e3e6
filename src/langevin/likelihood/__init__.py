"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .grids import Pairs, pairs
from .units import Units

__all__ = [
    "Bound",
    "ContinuousBound",
    "Pairs",
    "Units",
    "bound",
    "continuous_bound",
    "pairs",
]
