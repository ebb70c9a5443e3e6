"""The tab Train: the network, its score and its losses are what the lines of Python give; what is exact is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import langevin
from langevin import UserError
from langevin.playground import train, worlds
from langevin.playground.jobs import Cancelled, Job
from unpacking import unpacked


def asked(**arguments: Any) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """The picture, the looks on the way, the last one, and the names of the lines of Python once they have run."""
    said: list[dict[str, Any]] = []
    last = train.run(Job(arguments, said.append))
    picture, *looks = [message for message in said if message["event"] in ("picture", "learned")]
    space: dict[str, Any] = {}
    exec(picture["python"], space)
    return picture, looks, dict(last), space


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 40, "world": "moons"},
        {"steps": 40, "world": "drawn", "points": [[0.3, -0.4], [-1.0, 0.8]], "sigma": 0.25, "width": "16", "seed": 3},
        {"steps": 20, "world": "mixture", "size": "16", "rate": 0.001},
    ],
)
def test_the_lines_of_python_train_the_same(arguments: dict[str, Any]) -> None:
    picture, looks, last, space = asked(**arguments)
    assert looks[0]["step"] == 0
    assert last["step"] == arguments["steps"]
    half, model = picture["half"], space["model"]
    torch.testing.assert_close(space["x"] / half[-1], unpacked(last["samples"]), rtol=1e-5, atol=1e-6)
    frame, sigma = 20, picture["sigma"][20]
    along = half[frame] * ((torch.arange(worlds.ARROWS) + 0.5) / worlds.ARROWS * 2 - 1)
    x = torch.stack((along[4], along[9]))[None]
    with torch.no_grad():
        score = (model(x, picture["times"][frame]).mean - x) / sigma**2
    torch.testing.assert_close(unpacked(last["score"])[frame, 9, 4], sigma * score[0], rtol=1e-3, atol=1e-4)


def test_what_the_exact_denoiser_gives() -> None:
    """Its errors are those of float32, whose eps in x̂_0 is a share eps·|x̂_0|/|x̂_0 − x_t| of the score; its losses are
    the floors, by definition.
    """
    request = train.Request.read({"world": "two"})
    look = train.Look(request)
    told = request.world.denoiser(request.process)
    found = look.at(told)
    assert found["losses"] == look.floors
    assert max(e for e, sigma in zip(found["errors"], look.levels.tolist()) if sigma > 0.05) < 1e-6
    arrows = unpacked(found["score"])
    scale = look.exact.score.abs().amax((1, 2, 3)).float()
    away = (arrows - look.exact.score.float()).abs().amax((1, 2, 3))
    shown = look.exact.sigma > 0.05
    assert (away < 1e-4 * scale.clamp_min(1))[shown].all()


def test_the_floor_is_the_error_of_the_posterior_mean() -> None:
    """At one level the loss of EDM is (σ² + σ_d²)/(σσ_d)² times the mean square error, by quadrature over the plane.

    E|x_0 − x̂_0|² = E|x_0|² − E|x̂_0|², the second integrated on 200 × 200 cells. 1,024 squared errors whose ratio of
    standard deviation to mean is r have a mean within r/32; r is below 1.5 here, and four of them are 0.19.
    """
    sigma = 0.4
    request = train.Request.read({"world": "two", "sigma": sigma})
    world, t = request.world, torch.tensor(request.time, dtype=torch.float64)
    x = 4 * worlds.places(200)
    density = world.log_prob(x, request.process, t).exp()
    mean = world.denoiser(request.process)(x, t).mean
    squares = world.means.square().sum(1) + world.values.sum(1)
    error = (world.log_weights.softmax(0) * squares).sum() - (density * mean.square().sum(1)).sum() / density.sum()
    want = float(error) / 2 * (sigma**2 + request.sigma_data**2) / (sigma * request.sigma_data) ** 2
    assert train.Look(request).floors[1] == pytest.approx(want, rel=0.19)


def test_one_level_is_learned_where_its_draws_are_and_all_levels_everywhere() -> None:
    """At 0.1 a network of one level is right, at three times that it is not; one of all levels is right at both."""
    _, _, one, _ = asked(world="moons", sigma=0.1, steps=300)
    picture, looks, every, _ = asked(world="moons", steps=600)
    levels = torch.tensor(picture["levels"])
    here, there = int((levels - 0.1).abs().argmin()), int((levels - 0.35).abs().argmin())
    assert one["errors"][here] < 0.1 < one["errors"][there]
    assert every["errors"][here] < 0.1
    assert every["errors"][there] < 0.1
    assert looks[0]["losses"][1] - picture["floors"][1] > 10 * (every["losses"][1] - picture["floors"][1])


def test_sixteen_points_are_learned_by_heart() -> None:
    """Their loss is below what the distribution allows, and that of new data rises above."""
    picture, _, last, _ = asked(world="moons", size="16", steps=400)
    assert last["losses"][0] < picture["floors"][0] - 0.02
    assert last["losses"][1] > picture["floors"][1] + 0.02


def test_it_ends_when_nobody_waits() -> None:
    said: list[dict[str, Any]] = []
    job = Job({"steps": 10_000}, said.append)
    job._send = lambda message: (said.append(message), job.cancel() if message["event"] == "learned" else None)
    with pytest.raises(Cancelled):
        train.run(job)
    assert [message["event"] for message in said if message["event"] != "progress"] == ["picture", "learned"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"world": "nowhere"}, "nowhere"),
        ({"world": "drawn", "points": []}, "points must be"),
        ({"size": "17"}, "17"),
        ({"sigma": 1000}, "sigma must be in 0.01…10"),
        ({"rate": 0}, "rate must be in"),
        ({"steps": 10**6}, "steps must be in 10…10000"),
        ({"width": 64}, "64"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train.Request.read(arguments)


def test_a_network_that_diverges_is_said_to() -> None:
    look = train.Look(request := train.Request.read({"rate": 0.5}))
    with torch.no_grad():
        network = langevin.nn.MLP(2, width=16, depth=1)
        model = langevin.denoiser(network, process=request.process, prediction="edm", shape=(2,), sigma_data=0.5)
        network.head.bias.fill_(torch.nan)
        with pytest.raises(UserError, match=r"diverged at a learning rate of 0\.5: take a smaller one"):
            look.at(model)
