"""Exact truth: data whose law, belief, score and classifier are known at every noise level."""

from .base import Classifier, World, WorldDenoiser
from .finite import Empirical, TokenTable
from .grid import Equation, Grid, fokker_planck, forward, generative
from .mixture import GaussianMixture, random_mixture, ring

__all__ = [
    "Classifier",
    "Empirical",
    "Equation",
    "GaussianMixture",
    "Grid",
    "TokenTable",
    "World",
    "WorldDenoiser",
    "fokker_planck",
    "forward",
    "generative",
    "random_mixture",
    "ring",
]
