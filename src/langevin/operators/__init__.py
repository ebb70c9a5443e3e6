"""Measurements y = A(x) + n: the operators, the laws of their noise."""

from .base import (
    SVD,
    GaussianNoise,
    LinearOperator,
    Measurement,
    MeasurementNoise,
    Operator,
    PoissonNoise,
    conjugate_gradients,
    measure,
)
from .inpaint import Inpaint
from .matrix import Matrix, compressed_sensing

__all__ = [
    "SVD",
    "GaussianNoise",
    "Inpaint",
    "LinearOperator",
    "Matrix",
    "Measurement",
    "MeasurementNoise",
    "Operator",
    "PoissonNoise",
    "compressed_sensing",
    "conjugate_gradients",
    "measure",
]
