"""Inversion to rounding: every step of the deterministic flow, solved for the state it came from."""

from __future__ import annotations

import pytest
import torch

from langevin import UserError, processes, samplers, worlds
from langevin.samplers.fixed_point import solve
from support import oracle

F64 = torch.float64
WORLDS = {"ring": worlds.ring(), "16-D": worlds.random_mixture(16, components=4, rms=0.7, seed=3)}
PROCESSES = {"vp": processes.VP(), "edm": processes.EDM(sigma_min=0.01), "flow": processes.RectifiedFlow()}


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("world", WORLDS)
def test_inverts_to_rounding(world, process, steps):
    """Decoded, the latents are the data again, to 1e-8 RMS; the explicit form is off by the error of DDIM, over 1e-2.

    Each step misses at most 1e-10, and the flow of these worlds stretches a difference by at most ten or so on its way
    down, in at most 50 steps: 5e-8 at the very most.
    """
    x, denoiser = WORLDS[world].sample(16, 5), WORLDS[world].denoiser(PROCESSES[process])
    z = samplers.encode(denoiser, x, steps=steps, fixed_point=60)
    assert rms(samplers.decode(denoiser, z, steps=steps) - x) < 1e-8
    assert rms(samplers.decode(denoiser, samplers.encode(denoiser, x, steps=steps), steps=steps) - x) > 1e-2


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("world", WORLDS)
def test_explicit_form_at_50_steps(world, process):
    """A second-order rule comes back to 1e-3 RMS in 50 steps without the fixed point (DDIM: 2e-2 to 7e-2)."""
    x, denoiser = WORLDS[world].sample(64, 5), WORLDS[world].denoiser(PROCESSES[process])
    z = samplers.encode(denoiser, x, steps=50, sampler=samplers.RhoHeun())
    assert rms(samplers.decode(denoiser, z, steps=50, sampler=samplers.RhoHeun()) - x) < 1e-3


def test_any_deterministic_rule():
    """Two-stage steps are inverted as one-stage ones are."""
    x, denoiser = WORLDS["ring"].sample(16, 5), WORLDS["ring"].denoiser(PROCESSES["vp"])
    for rule in (samplers.RhoHeun(), samplers.DDIM()):
        z = samplers.encode(denoiser, x, steps=20, sampler=rule, fixed_point=60)
        assert rms(samplers.decode(denoiser, z, steps=20, sampler=rule) - x) < 1e-8


def test_networks_in_float32_and_float64():
    """A network that answers exactly: 1e-6 RMS in float64; in float32 the tolerance of a step, 1e-5, ten times over."""
    world, process = WORLDS["16-D"], PROCESSES["vp"]
    x = world.sample(16, 5)
    for dtype, most in ((F64, 1e-6), (torch.float32, 1e-4)):
        network = oracle(world, process, "v", dtype)
        z = samplers.encode(network, x, steps=30, fixed_point=60)
        assert z.dtype == dtype
        assert rms(samplers.decode(network, z, steps=30).double() - x) < most


def test_each_sample_by_itself():
    """A latent does not depend on the batch its sample stands in, and labels stay with their samples."""
    world, process = worlds.ring(), PROCESSES["vp"]
    x, label = world.sample(6, 5, with_labels=True)
    denoiser = world.denoiser(process).given(label=label)
    z = samplers.encode(denoiser, x, steps=20, fixed_point=80)
    part = samplers.encode(denoiser.rows(slice(2, 4)), x[2:4], steps=20, fixed_point=80)
    torch.testing.assert_close(z[2:4], part, rtol=0, atol=1e-9)


def test_where_the_plain_iteration_runs_away():
    """2 sinh z = c from z = 1 with a step of 1: the plain iteration overflows; Anderson with restarts solves it."""
    c = torch.tensor([[5.0, 100.0, 0.1], [1e4, -1e3, 3.0]], dtype=F64)
    z, missed = solve(lambda z, rows: 2 * torch.sinh(z), c, torch.ones_like(c), 1.0, 200, 1e-10)
    assert float(missed.max()) <= 1e-10
    torch.testing.assert_close(z, torch.asinh(c / 2), rtol=0, atol=1e-9)
    plain = torch.ones_like(c)
    for _ in range(8):
        plain = plain + (c - 2 * torch.sinh(plain))
    assert not bool(plain.isfinite().all(1).any())


def test_refusals():
    x, denoiser = WORLDS["ring"].sample(64, 5), WORLDS["ring"].denoiser(PROCESSES["flow"])
    coarse = {"steps": 10, "sampler": samplers.RhoHeun(), "fixed_point": 60}  # such long steps fold space
    for settings, message in (
        (coarse, "the step from t = 0.317.* was not inverted in fixed_point = 60"),
        ({"fixed_point": 1}, "the step from t = .* to 0 was not inverted"),
        ({"fixed_point": -1}, "fixed_point must be an integer of at least 0"),
        ({"fixed_point": 5, "tolerance": 0.0}, "tolerance must be > 0"),
        ({"fixed_point": 5, "sampler": samplers.DPMSolverPP()}, "without a memory"),
        ({"fixed_point": 60, "sampler": samplers.DDIM(1.0)}, "eta must be 0"),
    ):
        with pytest.raises(UserError, match=message):
            samplers.encode(denoiser, x, **settings)
