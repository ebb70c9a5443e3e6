"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .units import Units

__all__ = [
    "Units",
]
