"""Update rules, combinators, time grids, and the one loop."""

from . import grids
from .bridges import DDIM, DDPM, Ancestral, DDPMLarge
from .correctors import MALA, Langevin, MomentumLangevin, PreconditionedLangevin
from .equations import Euler, EulerMaruyama, Heun, PredictorCorrector
from .filters import Filter, Frequency, Matrix
from .joint import Boomerang, DenoisingMCMC, boomerang
from .loop import Repeat, Sampler, State, Then, check_grid, trajectory
from .momentum import HeavyBall
from .multistep import (
    DEIS,
    PLMS,
    DEISRho,
    DPMSolverMultistep,
    DPMSolverPP,
    DPMSolverPP3M,
    DPMSolverPP3MSDE,
    DPMSolverPPSDE,
    Multistep,
    UniPC,
)
from .reversal import AdaptiveSDE, ConsistentAnnealing, Preconditioned, ReverseDiffusion
from .sampling import create, default_grid, default_sampler, sample

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "MALA",
    "PLMS",
    "AdaptiveSDE",
    "Ancestral",
    "Boomerang",
    "ConsistentAnnealing",
    "DDPMLarge",
    "DEISRho",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
    "DPMSolverPPSDE",
    "DenoisingMCMC",
    "Euler",
    "EulerMaruyama",
    "Filter",
    "Frequency",
    "HeavyBall",
    "Heun",
    "Langevin",
    "Matrix",
    "MomentumLangevin",
    "Multistep",
    "Preconditioned",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "Repeat",
    "ReverseDiffusion",
    "Sampler",
    "State",
    "Then",
    "UniPC",
    "boomerang",
    "check_grid",
    "create",
    "default_grid",
    "default_sampler",
    "grids",
    "sample",
    "trajectory",
]
