"""Update rules, combinators, time grids, and the one loop."""

from ..processes import grids
from ..processes.grids import check_grid
from . import particles
from .blend import Blended, Replayed
from .default import default_sampler
from .estimate import estimate_moments, moments_from
from .gaussian.solver import GaussianRemainder
from .inverse import DAPS, DDRM, DPS, MCG, PSLD, DiffPIR, PiGDM, Projection, RePaint, SplitGibbs, time_travel
from .inversion import decode, encode, encoded, lerp, slerp
from .jump import Jump
from .learned.file_format import solver_from_dict, solver_to_dict
from .learned.sampler import LearnedSolver, find_learned_solver
from .linear.ancestral import DDPM, Ancestral, DDPMLarge, MaximumLikelihoodSDE
from .linear.ddim import DDIM, DDIMHat
from .linear.euler import Euler, EulerMaruyama, PredictorCorrector
from .linear.multistep import (
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
from .linear.pndm import PNDM, StartWith
from .linear.step import Linear
from .linear.taylor import QuasiTaylor
from .loop import Repeat, Sampler, State, Then, trajectory
from .mcmc.annealing import AnnealedLangevin, level_step_size
from .mcmc.boomerang import Boomerang, boomerang
from .mcmc.denoising_mcmc import DenoisingMCMC
from .mcmc.langevin import MALA, Langevin, MomentumLangevin, PreconditionedLangevin
from .mcmc.momentum import HeavyBall
from .phase import SSCS, PhaseMultistep, PhaseProjected
from .plan import STEPS, Plan, create_sampler, default_grid, has_own_steps, resolve
from .reverse_momentum import ReverseMomentum
from .runge_kutta.adaptive import DOP853, RK45, DPMSolver12, DPMSolver23, DPMSolverAdaptive, ExplicitRungeKutta
from .runge_kutta.churn import Churn, EDMEuler, EDMHeun
from .runge_kutta.dpm_solver import DPMSolver, DPMSolverFast, DPMSolverPP2S, DPMSolverPP3S, InTurn
from .runge_kutta.heun import Heun
from .runge_kutta.tableau import PRK, RhoHeun, RhoKutta3, RhoMidpoint, RhoRK4, Tableau
from .sampling import choose_steps, sample
from .sde.filters import Filter, Frequency, Matrix
from .sde.reverse_sde import AdaptiveSDE, ConsistentAnnealing, Preconditioned, ReverseDiffusion
from .splitting import Splitting
from .tolerance import Chosen

__all__ = [
    "DAPS",
    "DDIM",
    "DDPM",
    "DDRM",
    "DEIS",
    "DOP853",
    "DPS",
    "MALA",
    "MCG",
    "PLMS",
    "PNDM",
    "PRK",
    "PSLD",
    "RK45",
    "SSCS",
    "STEPS",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "Blended",
    "Boomerang",
    "Chosen",
    "Churn",
    "ConsistentAnnealing",
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
    "DiffPIR",
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
    "Jump",
    "Langevin",
    "LearnedSolver",
    "Linear",
    "Matrix",
    "MaximumLikelihoodSDE",
    "MomentumLangevin",
    "Multistep",
    "PhaseMultistep",
    "PhaseProjected",
    "PiGDM",
    "Plan",
    "Preconditioned",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "Projection",
    "QuasiTaylor",
    "RePaint",
    "Repeat",
    "Replayed",
    "ReverseDiffusion",
    "ReverseMomentum",
    "RhoHeun",
    "RhoKutta3",
    "RhoMidpoint",
    "RhoRK4",
    "Sampler",
    "SplitGibbs",
    "Splitting",
    "StartWith",
    "State",
    "Tableau",
    "Then",
    "UniPC",
    "boomerang",
    "check_grid",
    "choose_steps",
    "create_sampler",
    "decode",
    "default_grid",
    "default_sampler",
    "encode",
    "encoded",
    "estimate_moments",
    "find_learned_solver",
    "grids",
    "has_own_steps",
    "lerp",
    "level_step_size",
    "moments_from",
    "particles",
    "resolve",
    "sample",
    "slerp",
    "solver_from_dict",
    "solver_to_dict",
    "time_travel",
    "trajectory",
]
