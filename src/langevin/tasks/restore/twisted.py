"""Twisted sequential Monte Carlo as a solver by name; the function is as ``methods`` says."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._errors import check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...operators import Measurement
from ...samplers.particles import Gradient, Likelihood
from ...samplers.particles import smc as particles_of
from .common import any_noise


@register(
    "inverse",
    "smc",
    title="Twisted sequential Monte Carlo",
    arxiv="2306.17775",
    proof="exact: tests/tasks/test_restore.py, tests/samplers/test_particles.py",
)
@any_noise
def smc(denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, particles: int = 64) -> Tensor:
    """A draw for each sample from a population of its own, by the weights of its end (``particles.smc_posterior``).

    The law is the posterior but for O(1/particles), for any operator and noise with a density. It costs ``particles``
    times the evaluations of other methods, steps·particles a sample.

    Args:
        denoiser, measurement, noise, steps: as ``methods`` says.
        particles: of a population.
    """
    check_integer("particles", particles, 1)
    each = torch.arange(len(noise)).repeat_interleave(particles)
    own = measurement.rows(each.to(measurement.y.device)) if len(measurement.y) > 1 else measurement
    found = particles_of(
        denoiser.rows(each),
        Likelihood(own, denoiser.process),
        n=particles,
        steps=steps,
        proposal=Gradient(),
        seed=noise.seed,
        populations=noise.sample,
        batch=len(each),
    )
    share = torch.softmax(found.log_weights, 1).cumsum(1)
    u = noise.fold_in(Stream.CHOSEN).uniform(())[:, None].to(share)
    chosen = torch.searchsorted(share, u * share[:, -1:]).clamp_max(particles - 1)[:, 0]
    return found.x[torch.arange(len(noise)), chosen.to(found.x.device)]
