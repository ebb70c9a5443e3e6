"""A learned solver in a pipeline's loop takes the steps that ``langevin.sample`` takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import langevin
from langevin import Noise, UserError
from langevin.denoisers import gaussian_frame
from langevin.samplers import LearnedSolver
from langevin.samplers.learned.sampler import SolverUse
from langevin.samplers.learned.table import SolverTable

pytest.importorskip("diffusers")
from langevin.adapters.diffusers import Scheduler
from langevin.adapters.diffusers.scheduler_config import Conventions, prediction_of

TABLE = {"_class_name": "DDIMScheduler", "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
N = 5


def learned(config: dict[str, Any], above: float, frame: Any = None) -> LearnedSolver:
    """A table with every number away from its start; noise is drawn above the first question, or there."""
    process = Conventions.of(config).process
    high = float(-0.5 * process.log_snr(process.t_max))
    u = torch.linspace(high - above, -2.0, N, dtype=torch.float64)
    numbers = torch.Generator().manual_seed(3)
    some = lambda n: (0.05 * torch.randn(n, generator=numbers, dtype=torch.float64)).tolist()
    shifts = [0.0, *some(N - 1)]
    table = SolverTable(
        high, tuple(u.tolist()), None, tuple(shifts), *(tuple(tuple(some(i + 1)) for i in range(N)) for _ in "ab")
    )
    known = None if frame is None else (frame.std, frame.largest)
    return LearnedSolver(table, SolverUse(process, frame=known))


def network_of(world: Any, config: dict[str, Any]) -> tuple[langevin.Denoiser, Any]:
    """An exact world as a denoiser, and as what a pipeline asks: ε or the velocity, of timesteps."""
    units = Conventions.of(config)
    denoiser = world.denoiser(units.process)

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        t = units.time(timestep.double().reshape(()))
        alpha, sigma = float(units.process.alpha(t)), float(units.process.sigma(t))
        mean = denoiser(x.double(), t).mean
        noise = (x.double() - alpha * mean) / sigma
        return noise - mean if prediction_of(config) == "flow" else noise

    return denoiser, network


def walk(scheduler: Any, network: Any, x: Tensor, scales: bool, touch: float = 0.0) -> Tensor:
    """The loop of a pipeline, anew."""
    scheduler.set_timesteps(N)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(scheduler.scale_model_input(x, t) if scales else x, t), t, x, return_dict=False)[0]
        x = x + touch if i == 1 else x
    return x


@pytest.mark.parametrize("config", [TABLE, FLOW], ids=["table", "flow"])
@pytest.mark.parametrize("above", [0.0, 0.6], ids=["asked at once", "asked below"])
def test_it_takes_the_steps_that_sample_takes(config: dict[str, Any], above: float) -> None:
    """Timesteps go through float32, 3e-8 of a time; steps of order one grow that by less than 100."""
    world = langevin.worlds.random_mixture(4, components=3, seed=1)
    denoiser, network = network_of(world, config)
    solver = learned(config, above, gaussian_frame(denoiser))
    scheduler = Scheduler.from_config(config, sampler=solver.for_model(denoiser))
    start = Noise(0, 6).normal((4,))
    expected = langevin.sample(denoiser, solver, steps=N, start=start)
    torch.testing.assert_close(walk(scheduler, network, start, True), expected, rtol=0, atol=1e-4)
    assert len(scheduler.timesteps) == N
    again = walk(scheduler, network, start, True)  # nothing is left over
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)


def test_a_state_that_was_moved_is_followed() -> None:
    """What a callback adds is in the result: at a Gaussian world, where q is 0, as the flow carries it on."""
    covariance = 0.5 * torch.eye(2, dtype=torch.float64)
    world = langevin.worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=torch.float64), covariance[None])
    denoiser, network = network_of(world, TABLE)
    solver = learned(TABLE, 0.6, gaussian_frame(denoiser)).for_model(denoiser)
    scheduler = Scheduler.from_config(TABLE, sampler=solver)
    start = Noise(0, 3).normal((2,))
    plain, moved = (walk(scheduler, network, start, True, by) for by in (0.0, 0.25))
    process = denoiser.process
    at = torch.tensor(scheduler._run.entries[2].t, dtype=torch.float64)
    spread = torch.sqrt(process.alpha(at) ** 2 * 0.5 + process.sigma(at) ** 2)
    expected = torch.full((3, 2), float(0.25 * 0.5**0.5 / spread)).double()
    torch.testing.assert_close(moved - plain, expected, atol=1e-4, rtol=0)


def test_flow_pipelines_ask_about_the_noise_itself() -> None:
    """They do not scale what they show: the first belief is moved as the Gaussian's is, an error that stays small."""
    world = langevin.worlds.random_mixture(4, components=3, seed=1)
    denoiser, network = network_of(world, FLOW)
    solver = learned(FLOW, 0.6, gaussian_frame(denoiser)).for_model(denoiser)
    scheduler = Scheduler.from_config(FLOW, sampler=solver)
    start = Noise(0, 64).normal((4,))
    expected = langevin.sample(denoiser, solver, steps=N, start=start)
    away = (walk(scheduler, network, start, False) - expected).square().mean().sqrt()
    assert float(away) < 0.02 * float(expected.std())


def test_a_grid_that_was_kept_goes() -> None:
    """A config keeps the grid of the scheduler before; a learned solver takes its own."""
    world = langevin.worlds.random_mixture(4, components=3, seed=1)
    denoiser, network = network_of(world, TABLE)
    solver = learned(TABLE, 0.0, gaussian_frame(denoiser)).for_model(denoiser)
    before = Scheduler.from_config(TABLE, sampler="unipc", grid="trailing")
    start = Noise(0, 3).normal((4,))
    one, other = (walk(Scheduler.from_config(c, sampler=solver), network, start, True) for c in (TABLE, before.config))
    assert torch.equal(one, other)


def test_what_is_missing_is_said() -> None:
    world = langevin.worlds.random_mixture(4, components=3, seed=1)
    denoiser, _ = network_of(world, TABLE)
    solver = learned(TABLE, 0.0, gaussian_frame(denoiser))
    scheduler = Scheduler.from_config(TABLE, sampler=solver)
    with pytest.raises(UserError, match=r"solver\.for_model\(model\)"):
        scheduler.set_timesteps(N)
    scheduler = Scheduler.from_config(TABLE, sampler=solver.for_model(denoiser))
    with pytest.raises(UserError, match=f"steps must be {N}"):
        scheduler.set_timesteps(N + 1)
    with pytest.raises(UserError, match="learned for"):
        Scheduler.from_config(FLOW, sampler=solver)
