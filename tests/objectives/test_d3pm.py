"""The terms of the token bound against sums over every path."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import Noise, UserError, objectives, worlds
from langevin.denoisers import Denoiser, independent
from langevin.distributions import Categorical
from langevin.objectives import D3PM
from langevin.processes import VP, Absorbing, Chain, FiniteChain, Uniform

STEPS = 4
PROBS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
ROWS = torch.softmax(2 * torch.randn(STEPS, 3, 3, generator=torch.Generator().manual_seed(1)).double(), -1)
CHAINS: dict[str, Chain] = {"absorbing": Absorbing(3), "uniform": Uniform(3), "table": FiniteChain(ROWS)}


@dataclass(frozen=True, eq=False)
class Wrong(Denoiser):
    """A belief that is a softmax of sines of state and time: right for nothing, defined everywhere."""

    process: Chain
    shape: tuple[int, ...] = (1,)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Categorical:
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
        k = torch.arange(self.process.classes)
        return Categorical(torch.softmax(torch.sin(3 * x_t[..., None] + 2 * k + 5 * t), -1))


def exact(denoiser: Denoiser, x0: int, auxiliary: float) -> float:
    """E over n and x_t of N·KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − λ log b(x_0), every state summed over."""
    chain: Chain = denoiser.process  # type: ignore[assignment]
    total = 0.0
    for n in range(1, STEPS + 1):
        t, s = n / STEPS, (n - 1) / STEPS
        q = chain.marginal(torch.tensor([[x0]]), t).probs[0, 0]
        for x, weight in enumerate(q.tolist()):
            if weight > 0:
                x_t = torch.tensor([[x]])
                belief = denoiser(x_t, t)
                true = chain.bridge(x_t, torch.tensor([[x0]]), t, s).probs[0, 0]
                model = chain.reverse(x_t, belief, t, s).probs[0, 0]  # type: ignore[attr-defined]
                apart = sum(float(a * (a / b).log()) for a, b in zip(true, model) if a > 0)
                total += weight * (apart - auxiliary / STEPS * math.log(float(belief.probs[0, 0, x0])))  # type: ignore[attr-defined]
    return total


@pytest.mark.parametrize("name", CHAINS)
def test_the_loss_is_the_sum_over_paths(name: str) -> None:
    """Its mean over noise is the enumerated sum, to five standard errors; times are stratified, which only helps."""
    denoiser = Wrong(CHAINS[name])
    objective = objectives.create_objective({"name": "d3pm", "steps": STEPS, "auxiliary": 0.3})
    count = 20_000
    for x0 in range(3):
        loss = objective(denoiser, torch.full((count, 1), x0), None, Noise(x0, count))
        assert loss.dtype == torch.float64
        error = float(loss.std()) / math.sqrt(count)
        assert abs(float(loss.mean()) - exact(denoiser, x0, 0.3)) < 5 * error


@pytest.mark.parametrize("name", CHAINS)
def test_the_terms_of_the_exact_belief_add_to_the_likelihood(name: str) -> None:
    """With the true reverse the bound is −log p(x_0), to rounding: L_T − (log p over the path) closes."""
    chain = CHAINS[name]
    world = worlds.TokenTable(PROBS)
    denoiser = independent(world.denoiser(chain))
    end = PROBS @ chain.marginal(torch.arange(3)[:, None], 1.0).probs[:, 0]
    for x0 in range(3):
        q = chain.marginal(torch.tensor([[x0]]), 1.0).probs[0, 0]
        last = sum(float(a * (a / b).log()) for a, b in zip(q, end) if a > 0)
        assert exact(denoiser, x0, 0.0) + last == pytest.approx(-math.log(float(PROBS[x0])), abs=1e-13)


def test_a_loss_is_a_mean_over_tokens() -> None:
    """Two positions, the second a copy of the first's belief: the loss stays a number a token."""
    chain = Uniform(3)
    one, two = Wrong(chain, (1,)), Wrong(chain, (2,))
    objective = D3PM(steps=STEPS, auxiliary=0.0)
    count = 20_000
    losses = [objective(d, torch.ones((count, *d.shape), dtype=torch.int64), None, Noise(0, count)) for d in (one, two)]
    error = float(losses[0].std() + losses[1].std()) / math.sqrt(count)
    assert abs(float(losses[0].mean() - losses[1].mean())) < 5 * error


def test_two_scales_of_the_same_loss() -> None:
    """KL + λ CE, the authors' sum, is 1/N of N·KL + Nλ CE, on the same noise to rounding; λ alone is another loss."""
    denoiser, x0 = Wrong(Uniform(3)), torch.ones((64, 1), dtype=torch.int64)
    step, bound, same = (
        D3PM(steps=STEPS, auxiliary=own, scale=scale)(denoiser, x0, None, Noise(0, 64))
        for own, scale in ((0.3, "step"), (0.3 * STEPS, "bound"), (0.3, "bound"))
    )
    torch.testing.assert_close(step * STEPS, bound, rtol=1e-12, atol=1e-12)
    assert float((step * STEPS - same).abs().max()) > 0.1


def test_it_is_written_and_read_back() -> None:
    made = objectives.create_objective({"name": "d3pm", "steps": 7, "auxiliary": 0.01, "times": "importance"})
    assert objectives.create_objective(made.to_dict()).to_dict() == made.to_dict()
    assert made.learns
    assert not made.for_validation().learns
    assert objectives.create_objective("d3pm").to_dict()["times"]["of"]["low"] == 1e-9


REFUSED = [
    ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
    ({"steps": 2.0}, "steps must be an integer of at least 1, got 2.0"),
    ({"auxiliary": -1.0}, "auxiliary must be a number >= 0"),
    ({"scale": "image"}, "scale must be 'bound' or 'step', got 'image'"),
    ({"lambda": 1.0}, "unknown option of objective d3pm"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_settings_it_does_not_take(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        objectives.create_objective({"name": "d3pm", **settings})


def test_what_it_cannot_learn() -> None:
    with pytest.raises(UserError, match="steps must divide the 4 of the chain, got 3"):
        D3PM(steps=3).check(Wrong(CHAINS["table"]))
    with pytest.raises(UserError, match="objective 'd3pm' needs a process"):
        D3PM().check(worlds.random_mixture(2).denoiser(VP()))
    joint = worlds.TokenTable(torch.ones(2, 2)).denoiser(Uniform(2))
    with pytest.raises(UserError, match="needs a belief about each position, got FiniteSet"):
        D3PM()(joint, torch.zeros(1, 2, dtype=torch.int64), None, Noise(0, 1))


@dataclass(frozen=True, eq=False)
class Told(Wrong):
    """What is wrong by as much as it is told."""

    by: float = 0.0

    def given(self, condition: Any = None, /, **more: Any) -> Told:
        return replace(self, by=float((condition or more)["by"]))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Categorical:
        return Wrong.__call__(self, x_t + self.by, t)


def test_a_condition_reaches_the_belief() -> None:
    told, x0, noise = Told(Uniform(3)), torch.ones((64, 1), dtype=torch.int64), Noise(0, 64)
    objective = D3PM(steps=STEPS)
    loss = objective(told, x0, {"by": torch.tensor(0.5)}, noise)
    assert torch.equal(loss, objective(replace(told, by=0.5), x0, None, noise))
    assert not torch.equal(loss, objective(told, x0, None, noise))
