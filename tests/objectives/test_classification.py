"""Cross-entropy of noisy classifiers and maximum likelihood, against exact classifiers and densities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import langevin
from langevin import worlds
from langevin._errors import UserError
from langevin.data import DataInfo
from langevin.denoisers import NoisyClassifier, NormalizingFlow
from langevin.distributions import Noise
from langevin.nn import CouplingFlow
from langevin.objectives import create_objective
from langevin.objectives.classification import CrossEntropy, MaximumLikelihood
from langevin.processes import EDM, VP, ScalarGaussian

WORLD = worlds.ring()
INFO = DataInfo("ring", (2,), low=None, high=None, classes=tuple("abcdefgh"))
SIGMA_DATA = 0.7


class Exact(nn.Module):
    """The exact classifier of a world, as a network that is shown what ``NoisyClassifier`` shows one."""

    def __init__(self, process: ScalarGaussian, wrong: float = 0.0) -> None:
        super().__init__()
        self.process, self.wrong = process, wrong
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        t = self.process.time(-8 * time.double())  # time is ¼ log σ/α = −⅛ log-SNR
        scale = torch.sqrt(self.process.sigma(t) ** 2 + self.process.alpha(t) ** 2 * SIGMA_DATA**2)
        logits = WORLD.classifier(self.process)(x * scale[:, None], t)
        return logits + self.wrong * torch.arange(8).double() + 3.0


def classifier(process: ScalarGaussian, wrong: float = 0.0) -> NoisyClassifier:
    return NoisyClassifier(Exact(process, wrong), process, INFO, SIGMA_DATA)


@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
def test_a_network_is_read_as_the_classifier_it_is(process: ScalarGaussian) -> None:
    """What it is shown is undone by what it should be shown; logits are up to a constant."""
    x = WORLD.sample(50, 3)
    t = torch.linspace(process.t_min, process.t_max, 50, dtype=torch.float64)
    x_t = process.marginal(x, t).sample(Noise(0, 50))
    found, truth = classifier(process)(x_t, t), WORLD.classifier(process)(x_t, t)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-7)  # the time is told in float64, as the network computes
    torch.testing.assert_close(found.exp().sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_loss_is_minus_the_log_probability_of_the_label() -> None:
    process, noise = VP(), Noise(1, 40)
    x, label = WORLD.sample(40, 3), torch.arange(40) % 8
    objective = CrossEntropy()
    found = objective(classifier(process), x, {"label": label}, noise)
    t = objective.times.quantile(process, objective.times.uniform(noise))
    x_t = process.marginal(x, t).sample(noise)
    truth = -WORLD.classifier(process)(x_t, t)[torch.arange(40), label]
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-7)


def test_examples_without_a_label_count_nothing() -> None:
    x, noise = WORLD.sample(6, 3), Noise(1, 6)
    label = torch.tensor([0, -1, 2, -1, 4, 5])
    made = classifier(VP())
    found = CrossEntropy()(made, x, {"label": label}, noise)
    assert (found[label < 0] == 0).all()
    assert (found[label >= 0] > 0).all()
    with pytest.raises(UserError, match="needs the condition label"):
        CrossEntropy()(made, x, None, noise)


def test_the_exact_classifier_has_the_least_loss() -> None:
    """The mean excess of a wrong one is its Kullback–Leibler divergence, whose estimate over n draws has an error."""
    n, process = 20_000, VP()
    x, label = WORLD.sample(n, 3, with_labels=True)
    noise = Noise(1, n)
    losses = [CrossEntropy()(classifier(process, wrong), x, {"label": label}, noise) for wrong in (0.0, 0.3)]
    excess = losses[1] - losses[0]
    assert float(excess.mean()) > 4.5 * float(excess.std()) / math.sqrt(n)


def test_its_gradient_in_x_is_the_classifier_s() -> None:
    """What classifier guidance asks for."""
    process = VP()
    x_t = WORLD.sample(5, 3).requires_grad_()
    ours = torch.autograd.grad(classifier(process)(x_t, 0.4)[:, 2].sum(), x_t)[0]
    truth = torch.autograd.grad(WORLD.classifier(process)(x_t, 0.4)[:, 2].sum(), x_t)[0]
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-8)


def test_maximum_likelihood_is_minus_the_density_a_coordinate() -> None:
    torch.manual_seed(0)
    network = CouplingFlow(2, width=8, depth=2, conditions={"label": 3}).double()
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    info = DataInfo("dots", (2,), low=None, high=None, classes=("a", "b", "c"))
    model, x = NormalizingFlow(network, info), torch.randn(5, 2, dtype=torch.float64)
    label = {"label": torch.tensor([0, 1, 2, -1, 0])}
    found = MaximumLikelihood()(model, x, label, Noise(0, 5))
    torch.testing.assert_close(found, -network.log_prob(x, label) / 2, rtol=0, atol=1e-13)
    torch.testing.assert_close(MaximumLikelihood()(model, x, None, Noise(0, 5)), -network.log_prob(x) / 2)


def test_each_is_for_its_own_kind_of_model() -> None:
    denoiser: Any = WORLD.denoiser(VP())
    for name in ("cross-entropy", "maximum-likelihood"):
        objective = create_objective(name)
        assert create_objective(objective.to_dict()) == objective
        with pytest.raises(UserError, match=f"objective '{name}' learns"):
            objective.check(denoiser)
    with pytest.raises(UserError, match="has no times"):
        create_objective({"name": "maximum-likelihood", "times": "uniform"})


def test_what_is_no_classifier_of_noisy_data() -> None:
    with pytest.raises(UserError, match="sigma_data must be > 0"):
        NoisyClassifier(Exact(VP()), VP(), INFO, 0.0)
    with pytest.raises(UserError, match="a classifier of noisy data needs a process"):
        NoisyClassifier(Exact(VP()), langevin.processes.PhaseSpace(), INFO, 1.0)
    with pytest.raises(UserError, match=r"x_t must have shape \(B, 2\), got \(3, 3\)"):
        classifier(VP())(torch.zeros(3, 3), 0.5)
