"""What the scheduler refuses: times, settings, moments of another shape, samplers it cannot drive, and calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import Noise, UserError, samplers
from langevin.numerics.frame import GaussianFrame

diffusers = pytest.importorskip("diffusers")
from scheduler_walks import CONFIG, FLOW, SHAPE, start, walk  # noqa: E402

from langevin.adapters.diffusers import Scheduler  # noqa: E402


@pytest.mark.parametrize(
    ("config", "call", "said"),
    [
        (FLOW, {"sigmas": [0.2, 0.5]}, "sigmas must fall strictly"),
        (FLOW, {"sigmas": [0.5, 0.5]}, "sigmas must fall strictly"),
        (FLOW, {"sigmas": [1.5, 0.5]}, "range the network was trained in"),
        (FLOW, {"sigmas": [0.5, float("nan")]}, "finite numbers"),
        (FLOW, {"sigmas": "half"}, "sigmas must be a list of numbers"),
        (CONFIG, {"sigmas": [1.0, 2.0, 0.0]}, "sigmas must fall strictly"),
        (CONFIG, {"sigmas": [1.0]}, "the end too"),
        (CONFIG, {"sigmas": [90.0, 1.0, 0.0]}, "range the network was trained in"),
        (CONFIG, {"num_inference_steps": 5, "mu": 0.5}, "mu must be left out"),
        ({**FLOW, "use_dynamic_shifting": True}, {"num_inference_steps": 5}, "mu must be given"),
        (
            {**FLOW, "use_dynamic_shifting": True},
            {"num_inference_steps": 5, "mu": "large"},
            "mu must be a finite number",
        ),
        (CONFIG, {"num_inference_steps": 5, "timesteps": [900, 100]}, "timesteps must be 5 numbers"),
        (CONFIG, {"timesteps": [100, 900]}, "timesteps must fall strictly"),
        (CONFIG, {"timesteps": [1000, 900]}, "range the network was trained in"),
        (CONFIG, {"timesteps": [900], "sigmas": [1.0, 0.0]}, "give one of them"),
        (CONFIG, {"num_inference_steps": 0}, "num_inference_steps must be an integer"),
        (CONFIG, {}, "num_inference_steps must be an integer"),
    ],
)
def test_bad_times(config: dict[str, Any], call: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Scheduler.from_config(config).set_timesteps(**call)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Scheduler.from_config({"_class_name": "DPMSolverSDE"}), "class 'DPMSolverSDE' is not accepted"),
        (lambda: Scheduler.from_config({"shift": 3.0, "snr": 0.1}), r"unknown keyword 'snr'.* Accepted are DDIM"),
        (lambda: Scheduler.from_config({**CONFIG, "beta_schedule": "flat"}), "unknown beta_schedule"),
        (lambda: Scheduler.from_config({**CONFIG, "prediction_type": "noise"}), "unknown prediction_type"),
        (lambda: Scheduler.from_config({**FLOW, "prediction_type": "epsilon"}), "cannot be read at t = 1"),
        (lambda: Scheduler.from_config({**FLOW, "invert_sigmas": True}), "invert_sigmas must be false"),
        (lambda: Scheduler.from_config("pipe"), "config must be a scheduler's config"),
        (lambda: Scheduler.from_config(CONFIG, sampler="dpmp"), "unknown sampler"),
        (lambda: Scheduler.from_config(CONFIG, sampler=samplers.DDIM), "sampler must be"),
        (lambda: Scheduler.from_config(CONFIG, grid="karas"), "Did you mean 'karras'"),
        (lambda: Scheduler.from_config(CONFIG, grid=[0.5, 0.5]), "grid must move"),
        (lambda: Scheduler.from_config(CONFIG, sampler="ddim", moments=start()), "moments must be left out"),
        (lambda: Scheduler.from_config(CONFIG, moments=start(1)), "two data or more"),
        (lambda: Scheduler.from_config(CONFIG, moments=start() / 0), "moments must be of finite .* got 72 of 72"),
        (lambda: Scheduler.from_config(CONFIG, moments=start().long()), "moments must be of finite .* got torch.int64"),
        (
            lambda: Scheduler.from_config(CONFIG, moments=start(1).repeat(4, 1, 1, 1)),
            "moments must be of data that dif",
        ),
        (lambda: Scheduler.from_config(CONFIG, moments=[1.0]), "moments must be a GaussianFrame or a batch"),
        (lambda: Scheduler.from_config(CONFIG, grid=[0.5, 0.0]).set_timesteps(4), "num_inference_steps must be 1"),
        (lambda: Scheduler.from_config(CONFIG, sampler="rk45").set_timesteps(4), "known beforehand"),
        (lambda: Scheduler.from_config(CONFIG).step(start(), 999, start()), "set_timesteps must be called"),
    ],
)
def test_bad_requests(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("config", [CONFIG, FLOW])
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 4, 2), (12,)])
def test_moments_of_another_shape(shape: tuple[int, ...], config: dict[str, Any]) -> None:
    """Of other coordinates, or of the same in another order; as a batch and as a frame."""
    data = Noise(0, 8).normal(shape)
    frame = GaussianFrame.from_covariance(torch.zeros(30).double(), torch.eye(30).double())
    for moments, got in ((data, shape), (frame, (30,))):
        scheduler = Scheduler.from_config(config, moments=moments)
        scheduler.set_timesteps(4)
        said = re.escape(f"moments must be of data of shape {SHAPE}, as this pipeline's states, got {got}")
        with pytest.raises(UserError, match=said):
            walk(scheduler, start())
    scheduler = Scheduler.from_config(config, moments=start(8).flatten(1))
    scheduler.set_timesteps(4)
    assert walk(scheduler, start()).shape == (3, *SHAPE)


@pytest.mark.parametrize("kind", ["lazy", "ahead"])
def test_samplers_of_your_own_that_a_pipeline_cannot_drive(kind: str) -> None:
    """One that asks nothing in a later step, and one that asks about the state at another time."""

    class Own(samplers.Sampler):
        def step(self, state: Any, s: Tensor, denoiser: Any, noise: Noise) -> Any:
            if kind == "ahead":
                return state.move(denoiser(state.x, s).mean, s)
            return state.move(state.x if state.t < 0.6 else denoiser(state.x, state.t).mean, s)

    with pytest.raises(UserError, match="before anything else"):
        Scheduler.from_config(CONFIG, sampler=Own(), grid="trailing").set_timesteps(4)


def test_calls_out_of_turn() -> None:
    """A timestep that is not up, an index within a step or beyond the end, shapes that change, eta: refused."""
    scheduler = Scheduler.from_config(CONFIG, sampler="heun", grid="trailing")
    x = start()
    begin = lambda: (scheduler.set_timesteps(4), scheduler.step(x, 999, x))[1]
    begin()
    with pytest.raises(UserError, match=r"timestep must be 749.* got 499"):
        scheduler.step(x, 499, x)
    with pytest.raises(UserError, match="timestep must be one for all"):
        scheduler.step(x, torch.tensor([749, 499, 249]), x)
    with pytest.raises(UserError, match="model_output must have"):
        scheduler.step(x[:, :1], 749, x)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    with pytest.raises(UserError, match="in the midst of it"):
        scheduler.step(x, 749, x)
    scheduler.set_timesteps(4)
    walk(scheduler, x)
    with pytest.raises(UserError, match="index 7 is none"):
        scheduler.step(x, 249, x)
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match="timestep must be one of the 7"):
        scheduler.step(x, 600, x)
    with pytest.raises(UserError, match="eta must be 0"):
        scheduler.step(x, 999, x, eta=1.0)
    plain = Scheduler.from_config(CONFIG, sampler="ddim", grid="trailing")
    plain.set_timesteps(4)
    plain.step(x, 999, x)
    with pytest.raises(UserError, match="as in the steps before"):
        plain.step(x[:1], 749, x[:1])
