"""Solvers of scalar noise in phase space: the split of a state, and that it is the solver itself that runs."""

from __future__ import annotations

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.processes import PhaseSpace, SufficientStatistic

PHASE = PhaseSpace()
WORLD = worlds.random_mixture(2, components=4, rms=0.7, seed=2)
F64 = torch.float64


@pytest.mark.parametrize("t", [0.0, 1e-9, 1e-3, 0.1, 0.5, 1.0])
def test_split_and_join_are_inverse(t):
    """To rounding, the state at t = 0 too: no entry of either map is formed by a difference that cancels."""
    z = (
        WORLD.sample(50, 3, process=PHASE, t=t)
        if t
        else PHASE.marginal(WORLD.sample(50, 3), 1e-18).sample(Noise(1, 50))
    )
    y, w = PHASE.split(z, t)
    torch.testing.assert_close(PHASE.join(y, w, t), z, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 1.0])
def test_the_rest_says_nothing(t):
    """(y, w) of K x_0 + Lε is x_0 + rε_1 and a unit normal, uncorrelated: M K = (1, 0), M Σ Mᵀ = diag(r², 1)."""
    basis = torch.eye(2, dtype=F64)[..., None]  # two states, their rows are columns of M
    m = torch.stack([v[:, 0] for v in PHASE.split(basis, t)])
    # A sum of two terms of size κ/|κ|² L⁻¹ loses what the terms have more than their sum, at most 1e4 here.
    torch.testing.assert_close(m @ PHASE.gain(t), torch.tensor([1.0, 0.0], dtype=F64), rtol=1e-12, atol=1e-10)
    r2 = float(torch.exp(-PHASE.log_snr(t)))
    cov = m @ PHASE.cov(t) @ m.T
    torch.testing.assert_close(cov, torch.diag(torch.tensor([r2, 1.0], dtype=F64)), rtol=1e-9, atol=1e-9 * r2**0.5)


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.GaussianRemainder(),
        samplers.DPMSolverPP(),
        samplers.Heun(),
        samplers.DDIM(eta=0.5),
        samplers.Ancestral(),
    ],
    ids=str,
)
def test_it_is_the_solver_on_the_look(sampler):
    """The same samples as the solver alone on x_0 + rε, from the same y with the same noise."""
    z = WORLD.sample(20, 1, process=PHASE, t=1.0)
    y, _ = PHASE.split(z, 1.0)
    ours = langevin.sample(
        WORLD.denoiser(PHASE), samplers.PhaseProjected(sampler), start=z, steps=8, grid="karras", seed=4
    )
    alone = langevin.sample(
        WORLD.denoiser(SufficientStatistic(PHASE)), sampler, start=y, steps=8, grid="karras", seed=4
    )
    torch.testing.assert_close(ours, alone, rtol=1e-9, atol=1e-9)


def test_it_is_the_default_and_takes_the_moments_of_the_data():
    made = samplers.default_sampler(WORLD.denoiser(PHASE))
    assert isinstance(made, samplers.PhaseProjected)
    assert made.sampler.frame is not None
    grid = made.default_grid(PHASE, 10)
    assert torch.equal(grid, made.sampler.default_grid(SufficientStatistic(PHASE), 10))


def test_other_processes_are_refused():
    with pytest.raises(UserError, match="not one of VP"):
        langevin.sample(WORLD.denoiser(processes.VP()), "phase-projected", n=1)
    with pytest.raises(UserError, match="needs"):
        langevin.sample(WORLD.denoiser(PHASE), samplers.PhaseProjected(samplers.SSCS()), n=1)
