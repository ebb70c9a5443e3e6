"""Update rules, combinators, time grids, and the one loop."""

from . import grids
from .bridges import DDIM, DDPM, Ancestral, DDPMLarge, DPMSolverPP, DPMSolverPPSDE
from .equations import Euler, EulerMaruyama, Heun, Langevin, PredictorCorrector
from .loop import Repeat, Sampler, State, Then, check_grid, trajectory
from .sampling import create, default_grid, default_sampler, sample

__all__ = [
    "DDIM",
    "DDPM",
    "Ancestral",
    "DDPMLarge",
    "DPMSolverPP",
    "DPMSolverPPSDE",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Repeat",
    "Sampler",
    "State",
    "Then",
    "check_grid",
    "create",
    "default_grid",
    "default_sampler",
    "grids",
    "sample",
    "trajectory",
]
