"""Multistep methods beside diffusers' schedulers: the same grid and network.

The peers hold α, σ and λ in float32: coefficients are off by 2⁻²⁴ relative, errors made at t grow by at most
1/√ᾱ_N = 157, and weights of order 3 on unequal steps are up to 10: 157 · 10 · steps · 2⁻²⁴ ≈ 1e-3 at worst, and the
median is ten times less.
"""

from __future__ import annotations

import math

import pytest
import torch
from tests.samplers.test_parity import OURS, TABLE, doubled, same_grid, start, walk
from tests.support import flow_reference

import langevin
from langevin import processes, samplers, worlds
from langevin.samplers import Multistep

diffusers = pytest.importorskip("diffusers")


def agree(ours, theirs, steps):
    torch.testing.assert_close(ours, theirs.double(), rtol=2e-3, atol=2e-3)
    assert (ours - theirs).abs().median() < 157 * 2**-24 * steps


def run(peer, sampler, steps=12):
    """Both on the peer's grid, which ends at the σ of the first knot."""
    peer.set_timesteps(steps)
    theirs = walk(peer, start())
    grid = same_grid(peer)
    grid[-1] = float(TABLE.time(-2 * math.log(float(peer.sigmas[-1]))))
    agree(langevin.sample(OURS, sampler, start=start(), grid=grid), theirs, steps)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    """The peer's DEIS: ε̂ a polynomial in log σ/α, integrated exactly; the last step of order 1 at infinite log-SNR."""
    peer = diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=False, timestep_spacing="trailing")
    run(peer, Multistep("eps", "log-snr", order))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("b", ["B1", "B2"])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc(order, b, prediction, corrector):
    """UniP alone and with UniC. The peer's rule for the last steps is our ``taper``."""
    peer = diffusers.UniPCMultistepScheduler(
        solver_order=order,
        solver_type={"B1": "bh1", "B2": "bh2"}[b],
        predict_x0=prediction == "x0",
        lower_order_final=True,
        disable_corrector=[] if corrector else list(range(100)),
        timestep_spacing="trailing",
        final_sigmas_type="sigma_min",
    )
    run(peer, samplers.UniPC(order, prediction, b, corrector, taper=True))


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_multistep(order):
    """DPM-Solver in noise prediction."""
    peer = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver",
        solver_order=order,
        lower_order_final=False,
        timestep_spacing="trailing",
        final_sigmas_type="sigma_min",
    )
    run(peer, samplers.DPMSolverMultistep(order))


def test_plms():
    """PNDM without its Runge–Kutta start is PLMS; the peer's first step is of its own making, so it is given ours.

    Its table is float64 here; what remains is rounding: 1e-9.
    """
    peer = doubled(diffusers.PNDMScheduler(skip_prk_steps=True, timestep_spacing="trailing", set_alpha_to_one=True))
    peer.set_timesteps(10)
    times = torch.arange(10, 0, -1).double() * 100 / TABLE.steps
    grid = torch.cat((times, torch.zeros(1, dtype=torch.float64)))
    states = list(langevin.trajectory(OURS, samplers.PLMS(), grid=grid, start=start()))
    # From three values on: hand the peer our history and compare a step.
    peer.ets = [OURS.process.noise(states[i].x, OURS(states[i].x, grid[i]), grid[i]) for i in range(3)]
    peer.counter = 4
    for i in range(3, 9):
        t = round(float(grid[i]) * TABLE.steps) - 1
        eps = OURS.process.noise(states[i].x, OURS(states[i].x, grid[i]), grid[i])
        theirs = peer.step_plms(eps, t, states[i].x).prev_sample
        torch.testing.assert_close(states[i + 1].x, theirs, rtol=1e-9, atol=1e-9)


def test_3m_of_the_peer_is_of_order_2():
    """DPM-Solver++(3M) as it is widely written halves the second difference: proven on an exact world.

    Its D_2 is the difference quotient f''h²/2, but it is put where the expansion has f''h²: half of the term is
    missing, an error of h³ a step, order 2. It is handed two values of an order-4 run, so that the start is no
    excuse: over
    two doublings of the steps our slope is 3, theirs 2.
    """
    q = processes.VP()
    world = worlds.random_mixture(2, components=4, rms=0.7, seed=2)
    belief = world.denoiser(q)
    ends = q.time(torch.tensor([-4.0, 4.0], dtype=torch.float64))
    first = world.sample(16, 1, process=q, t=ends[0])
    reference = flow_reference(belief, first, float(ends[0]), float(ends[1]))
    ours, theirs = [], []
    third, fourth = (samplers.DPMSolverPP(order=k, start="corrected") for k in (3, 4))
    for n in (64, 128, 256):
        times = q.time(torch.linspace(-4, 4, n + 1, dtype=torch.float64))
        *_, last = langevin.trajectory(belief, third, grid=times, start=first)
        ours.append(float((last.x - reference).abs().median()))
        states = list(langevin.trajectory(belief, fourth, grid=times, start=first))
        peer = diffusers.DPMSolverMultistepScheduler(solver_order=3, timestep_spacing="trailing")
        sigma = torch.exp(-q.log_snr(times) / 2)  # σ/α, which is what the peer calls sigma
        peer.sigmas = sigma
        x = states[2].x
        outputs = [belief(states[i].x, times[i]).mean for i in range(2)]
        for i in range(2, n):
            outputs.append(belief(x, times[i]).mean)
            peer._step_index = i
            x = peer.multistep_dpm_solver_third_order_update(outputs[-3:], sample=x)
        theirs.append(float((x - reference).abs().median()))
    slope = lambda errors: math.log2(errors[0] / errors[-1]) / 2
    assert abs(slope(ours) - 3) < 0.25
    assert abs(slope(theirs) - 2) < 0.25
