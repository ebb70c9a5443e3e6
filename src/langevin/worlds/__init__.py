"""Exact truth: data whose law, belief, score and classifier are known at every noise level."""

from .base import Classifier, World, WorldDenoiser
from .finite import Empirical, TokenTable
from .mixture import GaussianMixture, random_mixture, ring

__all__ = [
    "Classifier",
    "Empirical",
    "GaussianMixture",
    "TokenTable",
    "World",
    "WorldDenoiser",
    "random_mixture",
    "ring",
]
