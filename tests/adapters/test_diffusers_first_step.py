"""The first step of a pipeline's loop: from a state without signal, or one that asks the network nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin
from langevin import Noise
from langevin.numerics.frame import GaussianFrame

diffusers = pytest.importorskip("diffusers")
from scheduler_walks import FLOW, network, ours, start, walk  # noqa: E402

from langevin.adapters.diffusers import Scheduler  # noqa: E402
from langevin.adapters.diffusers.scheduler_config import process_of  # noqa: E402


def test_a_first_time_without_signal() -> None:
    """σ = 1 is used by samplers that can; for one that reads noise it is a little less."""
    for sampler, first in (("euler", 1000.0), ("ddim", 1000.0), ("dpmpp-2m", 1000.0), (None, 1000.0), ("deis", 999.0)):
        scheduler = Scheduler.from_config(FLOW, sampler=sampler)
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.3])
        assert (float(scheduler.timesteps[0]), len(scheduler.timesteps)) == (first, 3)
        assert walk(scheduler, start()).isfinite().all()


def lead(moments: Tensor | GaussianFrame | None = None) -> Any:
    """The default on its own grid of a flow, whose first step asks nothing."""
    scheduler = Scheduler.from_config(FLOW, moments=moments)
    scheduler.set_timesteps(6)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 6
    assert len(scheduler._run.grid) == 8
    return scheduler


def test_a_first_step_that_asks_nothing() -> None:
    """The pipeline begins at its end: with ``scale_model_input`` in the state there, in any batch."""
    scheduler = lead(start(64, seed=9) / 2 + 1)
    assert float(scheduler.timesteps[0]) < 900
    t, x = scheduler.timesteps[0], start()
    shown = scheduler.scale_model_input(torch.cat((x, x)), t)  # two for guidance
    assert torch.equal(shown[:3], shown[3:])
    assert float((shown[:3] - x).abs().max()) > 0.01
    out = network(shown[:3], t.expand(3))
    once = scheduler.step(out, t, x).prev_sample
    grid = scheduler._run.grid
    steps = langevin.trajectory(ours(FLOW), scheduler._run.sampler, grid=grid, start=x)
    states = [state.x for state in itertools.islice(steps, 3)]
    torch.testing.assert_close(shown[:3], states[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(once, states[2], rtol=1e-6, atol=1e-6)
    second = scheduler.timesteps[1]
    assert scheduler.scale_model_input(once, second) is once


@pytest.mark.parametrize(("components", "most"), [(1, 1e-7), (3, 0.02)])
def test_a_first_step_that_asks_nothing_in_pipelines_that_do_not_scale(components: int, most: float) -> None:
    """The network is asked about the noise itself, and its answer is moved as a Gaussian's would be.

    For a Gaussian that is exact, but for timesteps that are rounded to float32 (6e-8). For others a belief moves by
    1/64 of what the state does at most, and the Gaussian's move is most of that; what is left must be below a hundredth
    of the data's norm, which is 2.4.
    """
    world = langevin.worlds.random_mixture(6, components=components, rms=1.0, seed=2)
    process = process_of(FLOW)
    exact = world.denoiser(process)
    frame = GaussianFrame.from_covariance(exact.data.mean, exact.data.cov)
    ends = []
    for scales in (True, False):
        scheduler = lead(frame)
        x = Noise(3, 64).normal((6,))
        for t in scheduler.timesteps:
            seen, time = scheduler.scale_model_input(x, t) if scales else x, t.double() / 1000
            x = scheduler.step(process.velocity(seen, exact(seen, time), time), t, x).prev_sample
        ends.append(x)
    assert float((ends[0] - ends[1]).norm(dim=1).median()) < most


def test_a_first_step_that_asks_nothing_is_left_out_for_data_that_were_noised() -> None:
    """Image to image at full strength: what was noised to the first line is a state there, and is taken as it is."""
    scheduler = lead()
    t = scheduler.timesteps[:1]
    x = scheduler.add_noise(start(seed=4), start(), t)
    got = walk(scheduler, x)
    expected = langevin.sample(ours(FLOW), scheduler._run.sampler, grid=scheduler._run.grid[1:], start=x)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    scheduler = lead()
    once = walk(scheduler, start())
    scheduler._step_index = 0  # travel in time, to a state there
    torch.testing.assert_close(walk(scheduler, x), expected, rtol=1e-6, atol=1e-6)
    scheduler._step_index = None  # another run
    assert torch.equal(walk(scheduler, start()), once)
    scheduler = lead()
    scheduler.add_noise(x, x, scheduler.timesteps[2:3])  # to another line: it is no matter of the first states
    assert torch.equal(walk(scheduler, start()), once)
    scheduler = lead()  # entered further down, by its timestep alone
    expected = langevin.sample(ours(FLOW), scheduler._run.sampler, grid=scheduler._run.grid[3:], start=x)
    torch.testing.assert_close(walk(scheduler, x, 2), expected, rtol=1e-6, atol=1e-6)


def test_a_first_step_that_asks_nothing_is_asked_again() -> None:
    """An index set back to the first line, with the same noise."""
    scheduler, x = lead(), start()
    t = scheduler.timesteps[0]
    out = network(scheduler.scale_model_input(x, t), t.expand(3))
    once = scheduler.step(out, t, x).prev_sample
    scheduler._step_index = 0
    assert torch.equal(scheduler.step(out, t, x).prev_sample, once)


def test_a_first_step_that_asks_nothing_on_a_grid_of_the_pipeline() -> None:
    """The pipeline asks at every time it gave; what it says of pure noise is not used."""
    ends = []
    for value in (0.0, 100.0):
        scheduler = Scheduler.from_config(FLOW)
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.3])
        x = start()
        for i, t in enumerate(scheduler.timesteps):
            out = network(x, t.expand(3)) if i else torch.full_like(x, value)
            x = scheduler.step(out, t, x).prev_sample
        ends.append(x)
    assert torch.equal(ends[0], ends[1])
