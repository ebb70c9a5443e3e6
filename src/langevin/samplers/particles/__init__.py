"""Particle methods: sequential Monte Carlo that reaches a tilted law itself."""

from .factors import POTENTIALS, Factor, Likelihood, Reward
from .proposals import Gradient, Own, Proposal, Shifted, Unguided
from .resampling import effective, systematic
from .smc import Particles, smc
from .tilts import fk_steering, smc_posterior, smc_product, twisted_smc

__all__ = [
    "POTENTIALS",
    "Factor",
    "Gradient",
    "Likelihood",
    "Own",
    "Particles",
    "Proposal",
    "Reward",
    "Shifted",
    "Unguided",
    "effective",
    "fk_steering",
    "smc",
    "smc_posterior",
    "smc_product",
    "systematic",
    "twisted_smc",
]
