"""The tab of worlds: what is shown is the exact law, and what is said of a sampler is so."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import langevin
from langevin import UserError
from langevin.playground import worlds
from langevin.playground.jobs import Job
from langevin.processes import create_process
from unpacking import unpacked


def asked(**arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The picture and the measures of a request."""
    said: list[dict[str, Any]] = []
    measures = worlds.run(Job(arguments, said.append))
    (picture,) = [message for message in said if message["event"] == "picture"]
    return picture, dict(measures)


@pytest.mark.parametrize("world", [*worlds.WORLDS, "drawn"])
def test_the_density_is_that_of_the_world_at_each_noise_level(world: str) -> None:
    """Against noisy data: the share of 40,000 exact samples in each of 16 × 16 cells of the picture.

    The total variation between the shares of n samples and their probabilities p has the mean ½ Σ √(2p(1 − p)/πn) at
    most; what the picture rounds (8 bits of the root) and smears (a cell's value for its mean) adds 0.01 at most here.
    """
    points = [[0.3, -0.4], [-1.0, 0.8]] if world == "drawn" else None
    picture, _ = asked(world=world, points=points, steps=1, n=10)
    request = worlds.Request.read({"world": world, "points": points})
    process, n = create_process("vp"), 40_000
    density = unpacked(picture["density"]).double().square()
    for frame in (8, 24, worlds.FRAMES):
        shares = density[frame].reshape(16, 4, 16, 4).sum((1, 3))
        shares = shares / shares.sum()
        t = picture["times"][frame]
        x = request.world.sample(n, process=process, t=t, seed=5) if t else request.world.sample(n, seed=5)
        cells = ((x / picture["half"][frame] + 1) * 8).floor()
        inside = ((cells >= 0) & (cells < 16)).all(1)
        assert inside.double().mean() > 0.93  # what lies outside of 2.5 σ is not shown
        index = (cells[inside, 1] * 16 + cells[inside, 0]).long()
        found = torch.bincount(index, minlength=256).double().reshape(16, 16) / inside.sum()
        floor = 0.5 * (2 * shares * (1 - shares) / (math.pi * n)).sqrt().sum()
        away = 0.5 * (found - shares).abs().sum()
        assert away < 1.5 * floor + 0.02


def test_the_arrows_are_the_score() -> None:
    picture, _ = asked(world="two", steps=1, n=10)
    process, frame = create_process("vp"), 20
    t, half, sigma = picture["times"][frame], picture["half"][frame], picture["sigma"][frame]
    arrows = unpacked(picture["score"])[frame]
    along = (torch.arange(worlds.ARROWS, dtype=torch.float64) + 0.5) / worlds.ARROWS * 2 - 1
    for row, column in ((2, 11), (7, 7), (12, 3)):
        at = (half * torch.stack((along[column], along[row])))[None].requires_grad_()
        (want,) = torch.autograd.grad(worlds.WORLDS["two"]().log_prob(at, process, t).sum(), at)
        torch.testing.assert_close(arrows[row, column].double(), sigma * want[0], rtol=1e-5, atol=1e-5)


def test_the_exact_particles_are_noisy_data() -> None:
    """x_t = αx_0 + σε of one ε: between two noise levels nothing else moves them."""
    picture, _ = asked(steps=1, n=10)
    forward = unpacked(picture["forward"]).double() * torch.tensor(picture["half"])[:, None, None]
    alpha, sigma = (torch.tensor(picture[name], dtype=torch.float64)[:, None, None] for name in ("alpha", "sigma"))
    x0 = forward[-1]
    eps = (forward[:1] - alpha[:1] * x0) / sigma[:1]
    torch.testing.assert_close(forward, alpha * x0 + sigma * eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 50},
        {"world": "moons", "sampler": "dpmpp-2m", "process": "edm", "grid": "log-snr", "steps": 7, "n": 50},
        {"world": "drawn", "points": [[0, 0.5], [1, -1]], "sampler": "ddpm", "process": "ddpm", "n": 50, "seed": 3},
        {"world": "mixture", "label": 2, "scale": 2.5, "sampler": "ddim", "n": 50},
        {"sampler": "rk45", "process": "flow", "n": 50},
    ],
)
def test_the_lines_of_python_draw_the_same(arguments: dict[str, Any]) -> None:
    picture, _ = asked(**arguments)
    space: dict[str, Any] = {}
    exec(picture["python"], space)
    request = worlds.Request.read(arguments)
    zero = torch.zeros(1, dtype=torch.float64)
    process = create_process(request.process)
    half = worlds.half_width(request.world, process.alpha(zero), process.sigma(zero))
    torch.testing.assert_close(space["x"].float() / half.float(), unpacked(picture["path"])[-1], rtol=1e-5, atol=1e-5)


def test_the_measures() -> None:
    """More steps are nearer; exact noise levels' floor is that of the metric; straight paths have straightness 1."""
    coarse, fine = (asked(sampler="ddim", steps=steps, n=400)[1] for steps in (5, 100))
    assert fine["path_error"] < 0.1 * coarse["path_error"]
    assert fine["evaluations"] == 100
    assert fine["distance"] < fine["floor"][0] + 4 * fine["floor"][1] < coarse["distance"] + 1
    assert asked(sampler="ddpm", process="ddpm", n=50)[1]["path_error"] is None
    assert asked(sampler="rk45", n=20)[1]["straightness"] is None
    line = torch.linspace(0, 1, 5)[:, None, None] * torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]])
    assert worlds.straightness(line) == pytest.approx(1)
    detour = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
    assert worlds.straightness(detour) == pytest.approx(math.sqrt(2) / 2)


def test_the_path_error_is_the_distance_to_the_converged_end() -> None:
    """Against DOP853 at 1e-10: the mixture's DDIM ends lie 400 times further away than the reference does."""
    request = worlds.Request.read({"sampler": "ddim", "steps": 6, "n": 64})
    process = create_process("vp")
    found = worlds.path_error(request, process, Job({}, lambda message: None))  # type: ignore[arg-type]
    denoiser = request.world.denoiser(process)
    mine = langevin.sample(denoiser, "ddim", n=64, steps=6)
    exact = langevin.sample(denoiser, "dop853", n=64)
    std = request.world.cov.diagonal().mean().sqrt()
    assert found == pytest.approx(float((mine - exact).square().mean().sqrt() / std), rel=2e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"world": "rong"}, "unknown world 'rong'. Did you mean 'ring'?"),
        ({"world": "drawn"}, "points must be 1…64 pairs"),
        ({"world": "drawn", "points": []}, "points must be"),
        ({"world": "drawn", "points": [[0, 0, 0]]}, "points must be"),
        ({"world": "drawn", "points": [[0, 9]]}, "points must be"),
        ({"world": "drawn", "points": [[0, "x"]]}, "points must be"),
        ({"world": "drawn", "points": [[0, 0]] * 65}, "points must be"),
        ({"process": "gamma"}, "unknown process 'gamma'"),
        ({"sampler": "dps"}, "unknown sampler 'dps'"),
        ({"grid": "trailing"}, "unknown grid 'trailing'"),
        ({"steps": 0}, "steps must be in 1…200, got 0"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": math.nan}, "steps must be a whole number"),
        ({"steps": math.inf}, "steps must be a whole number"),
        ({"n": 10**9}, "n must be in 10…4000"),
        ({"label": 8}, "label must be in 0…7"),
        ({"label": 0, "scale": "much"}, "scale must be a number"),
        ({"label": 0, "scale": 1e9}, "scale must be in 0…20"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        worlds.Request.read(arguments)


def test_every_sampler_that_is_offered_draws() -> None:
    for process in ("vp", "flow"):
        for name in worlds.sampler_names(process):
            if name != "adaptive-sde":  # seconds each, and as others in what is tried here
                picture, _ = asked(process=process, sampler=name, steps=4, n=10)
                assert unpacked(picture["path"]).isfinite().all()
                assert picture["places"][-1] == pytest.approx(1, abs=0.05)
