"""Energy-parameterised scores: curl-free, the density they belong to, and their way through training and sampling."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import langevin
from langevin import models, nn, processes, samplers, training, worlds
from langevin._errors import UserError
from langevin.denoisers import (
    PREDICTIONS,
    AffineParameterization,
    Density,
    EnergyDenoiser,
    NetworkDenoiser,
    make_denoiser,
)
from langevin.distributions import Noise
from langevin.nn.backbone import Backbone
from langevin.nn.conditioning import Conditioning
from langevin.training import NetworkConfig
from tiny_runs import points, tiny

CONFIGS = {
    "mlp": ({"name": "mlp", "channels": 3, "width": 16, "depth": 2, "conditions": {"label": 2}}, (3,)),
    "unet": (
        {"name": "unet", "channels": 1, "size": (4, 4), "width": 8, "multipliers": (1, 1), "attention": (2,)},
        (1, 4, 4),
    ),
    "dit": ({"name": "dit", "channels": 1, "patch": 2, "width": 16, "depth": 1, "heads": 2}, (1, 4, 4)),
}


def awake(name: str, energy: bool = True) -> Backbone:
    torch.manual_seed(0)
    network = nn.create_network({**CONFIGS[name][0], "energy": energy}).double().eval()
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_the_score_has_no_curl(name: str) -> None:
    """The Jacobian of the score is symmetric to rounding, where that of the same network without energy is not."""
    shape, process = CONFIGS[name][1], processes.VP()
    x = Noise(1, 1).normal(shape)

    def asymmetry(energy: bool) -> float:
        denoiser = make_denoiser(awake(name, energy), process, AffineParameterization("edm", sigma_data=0.7), shape)
        score = lambda v: process.score(v.reshape(1, *shape), denoiser(v.reshape(1, *shape), 0.4), 0.4).reshape(-1)
        jacobian = torch.autograd.functional.jacobian(score, x.reshape(-1))
        # The network's own part is there: a skip connection alone would be diagonal, and symmetric.
        assert float((jacobian - jacobian.diag().diag()).norm() / jacobian.norm()) > 1e-3
        return float((jacobian - jacobian.T).norm() / jacobian.norm())

    assert asymmetry(True) < 1e-12
    assert asymmetry(False) > 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("process", [processes.VP(), processes.VE(0.05, 5.0)], ids=["vp", "ve"])
def test_score_is_the_gradient_of_the_energy(prediction: str, scaled: bool, process: processes.ScalarGaussian) -> None:
    parameterization = AffineParameterization(prediction, sigma_data=0.7, scale_input=scaled)
    denoiser = make_denoiser(awake("mlp"), process, parameterization, (3,)).given(label=torch.tensor([0, 1, -1, 1]))
    assert isinstance(denoiser, EnergyDenoiser)
    x = Noise(1, 4).normal((3,)).requires_grad_()
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    energy = denoiser.energy(x, t)
    slope = torch.autograd.grad(energy.sum(), x)[0]
    torch.testing.assert_close(-slope, process.score(x, denoiser(x, t), t), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(denoiser.energy(x, t), energy.detach())
        # The label and the time are each sample's own.
        alone = denoiser.rows(slice(1, 2)).energy(x[1:2], t[1:2])
    torch.testing.assert_close(alone[0], energy[1].detach())


class Quadratic(Backbone):
    """f = K(t) x / 2 with the K of N(0, c²): ∇⟨x, f⟩ is the exact ε̂ of that law."""

    name = "quadratic"

    def __init__(self, process: processes.ScalarGaussian, variance: Tensor) -> None:
        super().__init__(channels=len(variance))
        self.conditioning = Conditioning(4, {}).double()
        self.process, self.variance = process, variance

    def check_shape(self, shape: tuple[int, ...]) -> None:
        assert shape == self.variance.shape

    def _answer(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
        t = (time / 1000)[:, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return x * sigma / (2 * (alpha**2 * self.variance + sigma**2))


def gaussian() -> tuple[EnergyDenoiser, worlds.GaussianMixture]:
    variance = torch.tensor([0.2, 1.5], dtype=torch.float64)
    process = processes.VP()
    parameterization = AffineParameterization("eps", time="time", scale_input=False)
    denoiser = make_denoiser(Quadratic(process, variance).as_energy(), process, parameterization, (2,))
    assert isinstance(denoiser, EnergyDenoiser)
    return denoiser, worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), variance[None])


def test_energy_of_a_gaussian() -> None:
    """The energy of the exact score is −log p_t up to one constant at each t, and MALA on it has p_t's law."""
    denoiser, world = gaussian()
    assert isinstance(denoiser, Density)
    x = Noise(3, 50).normal((2,))
    for t in (0.05, 0.4, 0.9):
        gap = denoiser.log_density(x, t) - world.log_prob(x, denoiser.process, t)
        torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-9)
    t = torch.tensor(0.4, dtype=torch.float64)
    n = 4000
    state = samplers.State(2 * Noise(4, n).normal((2,)), t)
    with torch.no_grad():
        x = samplers.MALA(60, 1.0).step(state, t, denoiser, Noise(5, n, draw=1)).x
    true = denoiser.network.variance * denoiser.process.alpha(t) ** 2 + denoiser.process.sigma(t) ** 2  # type: ignore
    # 4,000 independent chains know a variance to √(2/n); five of those.
    torch.testing.assert_close(x.var(0), true, rtol=0.112, atol=0)


def test_constants_do_not_compare_between_times() -> None:
    denoiser, _ = gaussian()
    with pytest.raises(UserError, match="compare between times"):
        langevin.sample(denoiser, "denoising-mcmc", n=2)


def test_through_training_files_and_samplers(tmp_path: Path) -> None:
    """The one trainer learns it, the model directory keeps it, and samples are the same with and without gradients."""
    config = tiny(300, network=NetworkConfig("mlp", {"width": "32", "depth": "2", "energy": "true"}), batch=64)
    config = replace(config, output=replace(config.output, log_every=50, validate_every=0, checkpoint_every=0))
    made = training.train(config, points(900), tmp_path, quiet=True)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.75 * losses[0]
    assert json.loads((tmp_path / "config.json").read_text())["network"]["energy"] is True
    loaded = models.load(tmp_path, device="cpu")
    assert isinstance(made, EnergyDenoiser)
    assert isinstance(loaded, EnergyDenoiser)
    given = loaded.given(label=1)
    assert isinstance(given, EnergyDenoiser)
    process = loaded.process
    for sampler in (None, "ddpm", "dpmpp-2m", "heun", "langevin", "mala"):
        x = langevin.sample(given, sampler, n=4, steps=4, seed=1)
        assert x.isfinite().all()
        assert not x.requires_grad
    start = process.prior((2,)).sample(Noise(0, 4))
    grid = [1.0, 0.1, 0.0]
    *_, graded = langevin.trajectory(given, samplers.DDIM(), grid=grid, start=start)
    with torch.no_grad():
        *_, plain = langevin.trajectory(given, samplers.DDIM(), grid=grid, start=start)
    torch.testing.assert_close(graded.x.detach(), plain.x)
    assert graded.x.requires_grad
    counted = loaded.counter.calls
    loaded.energy(start, 0.4)
    assert loaded.counter.calls == counted + 1


def test_contract() -> None:
    plain, network = nn.create_network(CONFIGS["mlp"][0]), nn.create_network({**CONFIGS["mlp"][0], "energy": True})
    assert "energy" not in plain.config
    assert nn.create_network(network.config).energy
    assert nn.default((3,), energy=True)["energy"] is True
    x, t = torch.randn(4, 3), torch.zeros(4)
    assert torch.equal(network(x, t), torch.zeros(4, 3))
    assert not network(x, t).detach().requires_grad
    with torch.no_grad():
        assert not network(x, t).requires_grad
    assert type(make_denoiser(plain, processes.VP(), AffineParameterization(), (3,))) is NetworkDenoiser
    with pytest.raises(UserError, match="as many out_channels as channels"):
        nn.create_network({**CONFIGS["mlp"][0], "out_channels": 6, "energy": True})
    with pytest.raises(UserError, match="energy must be true or false"):
        nn.create_network({**CONFIGS["mlp"][0], "energy": 1})
