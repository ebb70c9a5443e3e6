"""Likelihood: bits a dimension by bounds and by the exact flow."""

from .bound import Bound, bound
from .continuous import ContinuousBound, continuous_bound
from .dequantise import Dequantiser, LogisticNormal, TruncatedNormal, Uniform, learn_dequantiser
from .exact import Exact, exact
from .units import Units

__all__ = [
    "Bound",
    "ContinuousBound",
    "Dequantiser",
    "Exact",
    "LogisticNormal",
    "TruncatedNormal",
    "Uniform",
    "Units",
    "bound",
    "continuous_bound",
    "exact",
    "learn_dequantiser",
]
