"""One step from noise to data: the sampler is the generator itself."""

from __future__ import annotations

import pytest
import torch

import langevin
from langevin import data, nn, samplers
from langevin._errors import UserError
from langevin.denoisers import Generator, NormalizingFlow
from langevin.distributions import Noise
from langevin.samplers import Jump
from tiny_runs import points


def generator(conditions: dict[str, int] | None = None) -> Generator:
    torch.manual_seed(0)
    network = nn.MLP(2, width=16, depth=1, conditions=conditions or {}, time_range=(0.0, 1.0)).double()
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return Generator(network, points(90).info)


def test_it_is_the_generator_of_the_prior_s_noise() -> None:
    model = generator()
    z = Noise(3, 5).step(0).normal((2,))
    x = langevin.sample(model, n=5, seed=3)
    torch.testing.assert_close(x, model.generate(z).detach(), rtol=0, atol=0)
    assert model.counter.calls == 2


def test_whatever_the_batch_and_however_it_is_named() -> None:
    model = generator()
    x = langevin.sample(model, n=7, seed=1)
    for other in (
        langevin.sample(model, n=7, seed=1, batch=3),
        langevin.sample(model, "jump", n=7, seed=1, steps=1),
        langevin.sample(model, samplers.DDIM(), n=7, seed=1, steps=1, grid=[1.0, 0.0]),
    ):
        torch.testing.assert_close(other, x, rtol=1e-12, atol=1e-12)


def test_conditions_reach_the_network() -> None:
    model = generator({"label": 3})
    z = Noise(0, 4).step(0).normal((2,))
    label = torch.tensor([0, 1, 2, -1])
    x = langevin.sample(model.given(label=label), n=4)
    truth = model.network(z, torch.ones(4), {"label": label})
    torch.testing.assert_close(x, truth.detach(), rtol=0, atol=1e-12)
    assert not torch.equal(x, langevin.sample(model, n=4))


def test_more_steps_are_refused() -> None:
    with pytest.raises(UserError, match=r"steps must be left out: Jump\(\) makes its own number of steps, got 5"):
        langevin.sample(generator(), n=2, steps=5)
    with pytest.raises(UserError, match="t must be 1 for a model that makes data in one step"):
        langevin.sample(generator(), samplers.DDIM(), n=2, steps=5)


def test_of_a_normalizing_flow_it_is_the_inverse() -> None:
    torch.manual_seed(0)
    network = nn.CouplingFlow(2, width=8, depth=4).double()
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    model = NormalizingFlow(network, points(90).info)
    x = langevin.sample(model, n=6, seed=2)
    z, log_det = network(x)
    torch.testing.assert_close(z, Noise(2, 6).step(0).normal((2,)), rtol=0, atol=1e-12)
    normal = torch.distributions.Normal(torch.zeros(2).double(), 1.0)
    torch.testing.assert_close(model.log_prob(x), normal.log_prob(z).sum(1) + log_det, rtol=0, atol=1e-12)


def test_any_other_denoiser_may_be_asked_for_one_step() -> None:
    """Of an exact belief it is the mean of the data, as every state at t = 1 says next to nothing about them."""
    world = langevin.worlds.ring()
    denoiser = world.denoiser(langevin.processes.RectifiedFlow())
    x = langevin.sample(denoiser, Jump(), n=3, seed=0)
    torch.testing.assert_close(x, denoiser(Noise(0, 3).step(0).normal((2,)), 1.0).mean, rtol=0, atol=0)
    assert data.load("moons", limit=10).info.shape == x.shape[1:]
