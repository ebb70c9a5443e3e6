"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .units import Units

__all__ = [
    "Bound",
    "Units",
    "bound",
]
