"""The sampler that is taken where none is named, for each process and each kind of model."""

from __future__ import annotations

from functools import singledispatch

from ..denoisers import Denoiser, Generator
from ..processes import PhaseSpace, Process, ScalarGaussian
from .gaussian.solver import GaussianRemainder
from .jump import Jump
from .linear.ancestral import Ancestral
from .loop import Sampler
from .phase import PhaseProjected


@singledispatch
def default_sampler(process: Process | Denoiser) -> Sampler:
    """The sampler taken when none is named: for a process, or for a denoiser, from which it takes the data's moments.

    Scalar-Gaussian processes get the Gaussian-remainder solver, at the order that goes with the guidance;
    phase space the same on what a state says about the data, at one evaluation a step; every other process gets
    ancestral sampling from the whole belief, which is exact for the true one.
    """
    return Ancestral()


@default_sampler.register
def _(process: ScalarGaussian) -> Sampler:
    return GaussianRemainder()


@default_sampler.register
def _(process: PhaseSpace) -> Sampler:
    return PhaseProjected()


@default_sampler.register
def _(denoiser: Denoiser) -> Sampler:
    return default_sampler(denoiser.process).for_model(denoiser)


@default_sampler.register
def _(denoiser: Generator) -> Sampler:
    return Jump()
