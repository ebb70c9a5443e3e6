"""Measurements y = A(x) + n: the operators, the laws of their noise."""

from .base import (
    SVD,
    Chain,
    GaussianNoise,
    LinearChain,
    LinearOperator,
    Measurement,
    MeasurementNoise,
    Operator,
    PoissonNoise,
    conjugate_gradients,
    measure,
)
from .blur import Blur, gaussian_blur, motion_blur
from .colourise import Colourise
from .create import NAMED, Named, create_operator
from .decoded import Decoded
from .fourier import Fourier, cartesian_mask, coil_maps
from .inpaint import Inpaint
from .jpeg import JPEG
from .masks import Uncrop, box_mask, free_form_mask, random_mask
from .matrix import Matrix, compressed_sensing
from .nonlinear import Nonlinear, Phase, Saturate
from .radon import Radon
from .reshaped import Dense, LinearReshaped, Reshaped
from .separable import AlongAxes, Separable
from .super_resolution import SuperResolution

__all__ = [
    "JPEG",
    "NAMED",
    "SVD",
    "AlongAxes",
    "Blur",
    "Chain",
    "Colourise",
    "Decoded",
    "Dense",
    "Fourier",
    "GaussianNoise",
    "Inpaint",
    "LinearChain",
    "LinearOperator",
    "LinearReshaped",
    "Matrix",
    "Measurement",
    "MeasurementNoise",
    "Named",
    "Nonlinear",
    "Operator",
    "Phase",
    "PoissonNoise",
    "Radon",
    "Reshaped",
    "Saturate",
    "Separable",
    "SuperResolution",
    "Uncrop",
    "box_mask",
    "cartesian_mask",
    "coil_maps",
    "compressed_sensing",
    "conjugate_gradients",
    "create_operator",
    "free_form_mask",
    "gaussian_blur",
    "measure",
    "motion_blur",
    "random_mask",
]
