"""Update rules, combinators, time grids, and the one loop."""

from . import grids
from .bridges import DDIM, DDPM, Ancestral, DDPMLarge
from .equations import Euler, EulerMaruyama, Heun, Langevin, PredictorCorrector
from .loop import Repeat, Sampler, State, Then, check_grid, trajectory
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
from .sampling import create, default_grid, default_sampler, sample

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "PLMS",
    "Ancestral",
    "DDPMLarge",
    "DEISRho",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
    "DPMSolverPPSDE",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "Multistep",
    "PredictorCorrector",
    "Repeat",
    "Sampler",
    "State",
    "Then",
    "UniPC",
    "check_grid",
    "create",
    "default_grid",
    "default_sampler",
    "grids",
    "sample",
    "trajectory",
]
