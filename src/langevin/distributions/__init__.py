"""Probability distributions of a batch of events, and the noise they are sampled with."""

from ..numerics.streams import Stream
from .brownian import BrownianPath, as_path
from .covariance import Blocks, Covariance, Dense, Diagonal, LowRank
from .divergence import kl
from .laws import (
    Categorical,
    Compound,
    Dirac,
    Distribution,
    FiniteSet,
    GaussianMixture,
    Levels,
    Normal,
)
from .levy import PoissonBridge, PoissonMixture, ScaledBeta, ShiftedGamma
from .noise import Noise, philox

__all__ = [
    "Blocks",
    "BrownianPath",
    "Categorical",
    "Compound",
    "Covariance",
    "Dense",
    "Diagonal",
    "Dirac",
    "Distribution",
    "FiniteSet",
    "GaussianMixture",
    "Levels",
    "LowRank",
    "Noise",
    "Normal",
    "PoissonBridge",
    "PoissonMixture",
    "ScaledBeta",
    "ShiftedGamma",
    "Stream",
    "as_path",
    "kl",
    "philox",
]
