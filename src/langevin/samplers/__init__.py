"""Update rules, combinators, time grids, and the one loop."""

from . import grids
from .adaptive import DOP853, RK45, DPMSolver12, DPMSolver23, DPMSolverAdaptive, ExplicitRungeKutta
from .annealing import AnnealedLangevin, NoiseLevels, largest_distance, level_ratio, level_step_size
from .bridges import DDIM, DDPM, Ancestral, DDIMHat, DDPMLarge, MaximumLikelihoodSDE
from .churn import Churn, EDMEuler, EDMHeun
from .correctors import MALA, Langevin, MomentumLangevin, PreconditionedLangevin
from .equations import Euler, EulerMaruyama, Heun, PredictorCorrector
from .estimate import estimate_moments, moments_from
from .filters import Filter, Frequency, Matrix
from .joint import Boomerang, DenoisingMCMC, boomerang
from .latents import decode, encode, lerp, slerp
from .linear import Linear
from .loop import Repeat, Sampler, State, Then, check_grid, trajectory
from .moments import Coordinates, Cosines, Directions, Leading, Moments, moments_of
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
from .phase import SSCS, Looked, PhaseMultistep
from .pndm import PNDM, StartWith
from .remainder import GaussianRemainder
from .reversal import AdaptiveSDE, ConsistentAnnealing, Preconditioned, ReverseDiffusion
from .sampling import create, default_grid, default_sampler, sample, suited
from .singlestep import (
    PRK,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP2S,
    DPMSolverPP3S,
    InTurn,
    RhoHeun,
    RhoKutta3,
    RhoMidpoint,
    RhoRK4,
    Tableau,
)
from .taylor import QuasiTaylor
from .tuned import Tuned

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DOP853",
    "MALA",
    "PLMS",
    "PNDM",
    "PRK",
    "RK45",
    "SSCS",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "Boomerang",
    "Churn",
    "ConsistentAnnealing",
    "Coordinates",
    "Cosines",
    "DDIMHat",
    "DDPMLarge",
    "DEISRho",
    "DPMSolver",
    "DPMSolver12",
    "DPMSolver23",
    "DPMSolverAdaptive",
    "DPMSolverFast",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
    "DPMSolverPP3S",
    "DPMSolverPPSDE",
    "DenoisingMCMC",
    "Directions",
    "EDMEuler",
    "EDMHeun",
    "Euler",
    "EulerMaruyama",
    "ExplicitRungeKutta",
    "Filter",
    "Frequency",
    "GaussianRemainder",
    "HeavyBall",
    "Heun",
    "InTurn",
    "Langevin",
    "Leading",
    "Linear",
    "Looked",
    "Matrix",
    "MaximumLikelihoodSDE",
    "Moments",
    "MomentumLangevin",
    "Multistep",
    "NoiseLevels",
    "PhaseMultistep",
    "Preconditioned",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "QuasiTaylor",
    "Repeat",
    "ReverseDiffusion",
    "RhoHeun",
    "RhoKutta3",
    "RhoMidpoint",
    "RhoRK4",
    "Sampler",
    "StartWith",
    "State",
    "Tableau",
    "Then",
    "Tuned",
    "UniPC",
    "boomerang",
    "check_grid",
    "create",
    "decode",
    "default_grid",
    "default_sampler",
    "encode",
    "estimate_moments",
    "grids",
    "largest_distance",
    "lerp",
    "level_ratio",
    "level_step_size",
    "moments_from",
    "moments_of",
    "sample",
    "slerp",
    "suited",
    "trajectory",
]
