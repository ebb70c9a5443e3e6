"""The sampler that is taken where none is named, for each process and each kind of model."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

from ..denoisers import Denoiser, Generator
from ..processes import PhaseSpace, Process, ScalarGaussian
from .gaussian.solver import GaussianRemainder, order_under
from .jump import Jump
from .linear.ancestral import Ancestral
from .loop import Sampler
from .phase import PhaseProjected


@singledispatch
def default_sampler(process: Process | Denoiser) -> Sampler:
    """The sampler taken when none is named: for a process, or for a denoiser, from which it takes the data's moments.

    Scalar-Gaussian processes get the Gaussian-remainder solver, under guidance at the order that ``order_under`` says;
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
    rule = default_sampler(denoiser.process)
    if isinstance(rule, GaussianRemainder):
        rule = replace(rule, order=order_under((1 + denoiser.extrapolation) / 2))
    return rule.for_model(denoiser)


@default_sampler.register
def _(denoiser: Generator) -> Sampler:
    return Jump()
