"""A network read as a law of levels: Bayes' rule written out, its limits, and the trainer's way to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from langevin import UserError, data, likelihood, models, processes, training, worlds
from langevin.denoisers import LevelParameterization, NetworkDenoiser
from langevin.training.config import (
    BudgetConfig,
    Config,
    NetworkConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from langevin.training.resolve import resolve_config

DOUBLE = torch.float64


class Prior(nn.Module):
    """The logits of a prior over levels that is the same for every coordinate, whatever x_t."""

    def __init__(self, log_probs):
        super().__init__()
        self.log_probs = nn.Parameter(log_probs)
        self.seen = None

    def forward(self, x, time, condition=None):
        self.seen = x
        return self.log_probs.repeat(x.shape[1] // 2).expand(x.shape[0], -1)


def denoiser(process, probs):
    parameterization = LevelParameterization(levels=len(probs), sigma_data=0.6)
    return NetworkDenoiser(Prior(torch.tensor(probs, dtype=DOUBLE).log()), process, parameterization, (2,))


@pytest.mark.parametrize("process", [processes.VP(), processes.EDM(), processes.RectifiedFlow()])
def test_independent_levels_are_exact(process):
    """The true prior of independent coordinates as output: the exact posterior of the finite world of all pairs."""
    probs = [0.1, 0.2, 0.3, 0.25, 0.15]
    values = torch.linspace(-1, 1, 5, dtype=DOUBLE)
    world = worlds.Empirical(
        torch.cartesian_prod(values, values), torch.outer(*[torch.tensor(probs, dtype=DOUBLE)] * 2).flatten()
    )
    ours, exact = denoiser(process, probs), world.denoiser(process)
    x = world.sample(50, 3)
    for t in (0.01, 0.3, torch.linspace(0.05, 0.9, 50, dtype=DOUBLE)):
        x_t = process.marginal(x, t).mean + 0.1
        belief, truth = ours(x_t, t), exact(x_t, t)
        torch.testing.assert_close(belief.mean, truth.mean, rtol=1e-9, atol=1e-9)
        variances = torch.diagonal(truth.cov.matrix, dim1=1, dim2=2)
        torch.testing.assert_close(belief.cov.diagonal((2,)), variances, rtol=1e-7, atol=1e-9)
    # And so the bound by whole paths is −log P, but for the law at T.
    if isinstance(process, processes.EDM):
        found = likelihood.bound(ours, x, steps=5, estimator="path", decoder=None)
        assert found.protocol["of"] == "density"  # nothing said that these data have levels
    described = NetworkDenoiser(
        ours.network, process, ours.parameterization, (2,), data=data.DataInfo("x", (2,), levels=5)
    )
    found = likelihood.bound(described, x, steps=5, estimator="path")
    torch.testing.assert_close(found.nats, -world.log_prob(x), rtol=0, atol=0.02)


def test_input_is_scaled_and_says_the_level():
    process = processes.VP()
    of = denoiser(process, [0.5, 0.5])
    t = torch.tensor([0.4], dtype=DOUBLE)
    x_t = torch.tensor([[0.8, 0.3]], dtype=DOUBLE)
    of(x_t, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    scaled = x_t / torch.sqrt(sigma**2 + alpha**2 * 0.36)
    level = torch.tanh(alpha * x_t / sigma**2)  # the posterior mean of a fair ±1
    torch.testing.assert_close(of.network.seen, torch.cat((scaled, level), 1))


def test_clean_data_are_their_own_level():
    of = denoiser(processes.VP(), [0.9, 0.05, 0.05])
    x = torch.tensor([[0.0, 1.0]], dtype=DOUBLE)
    torch.testing.assert_close(of(x, 0.0).mean, x)


def test_it_trains_saves_and_loads(tmp_path):
    """A few steps through the one trainer, on digits; the model that is read back gives the same bound."""
    config = Config(
        process=ProcessConfig(name="vp"),
        prediction=PredictionConfig(name="levels"),
        network=NetworkConfig(options={"width": "16"}),
        budget=BudgetConfig(steps=3),
        output=OutputConfig(sample_every=0),
        batch=16,
    )
    digits = data.load("digits")
    settled = resolve_config(config, digits.info)
    assert (settled.objective.name, settled.objective.times) == ("likelihood", "likelihood-importance")
    made = training.train(config, digits, tmp_path / "run", quiet=True)
    loaded = models.load(tmp_path / "run")
    x = digits.test.all()["x"][:4]
    assert loaded.parameterization == LevelParameterization(levels=17, sigma_data=made.parameterization.sigma_data)
    one, other = (likelihood.bound(m, x, steps=3) for m in (made, loaded))
    torch.testing.assert_close(one.nats, other.nats)
    assert other.units.levels == 17


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="levels"):
        LevelParameterization(levels=1)
    with pytest.raises(UserError, match="levels"):
        denoiser(processes.Absorbing(2), [0.5, 0.5])
    points = data.DataInfo("points", (2,), mean=torch.zeros(2), cov=torch.eye(2))
    with pytest.raises(UserError, match="levels"):
        resolve_config(Config(prediction=PredictionConfig(name="levels")), points)
