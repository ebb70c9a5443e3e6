"""What every chain of the table must satisfy, with the law of a sampler enumerated, not drawn."""

from __future__ import annotations

import itertools

import pytest
import torch

from langevin import Noise, samplers, worlds
from langevin.denoisers import Denoiser, independent, reweighted
from langevin.distributions import Categorical
from langevin.processes import Chain
from laws.table import CHAINS

EACH = pytest.mark.parametrize("name", CHAINS)
PAIRS = torch.softmax(1.5 * torch.randn(9, generator=torch.Generator().manual_seed(5)).double(), 0)
WORLD = worlds.TokenTable(PAIRS.reshape(3, 3))
"""Two tokens that depend on each other."""


def sequences(states: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(states), torch.arange(states))


def noised(chain: Chain, t: float) -> torch.Tensor:
    """p(x_t) of the world over all pairs of states, in their order."""
    rows = chain.marginal(torch.arange(3)[:, None], t).probs[:, 0]
    return torch.einsum("kl,ki,lj->ij", WORLD.probs, rows, rows).flatten()


def law(denoiser: Denoiser, steps: int) -> torch.Tensor:
    """The law over all pairs of states that ancestral sampling ends in, from p(x_1): every path summed."""
    chain: Chain = denoiser.process  # type: ignore[assignment]
    x = sequences(chain.states)
    p = noised(chain, 1.0)
    for t, s in itertools.pairwise(samplers.grids.uniform(chain, steps).tolist()):
        each = chain.reverse(x, denoiser(x, t), t, s)
        assert isinstance(each, Categorical)
        p = torch.einsum("n,ni,nj->ij", p, each.probs[:, 0], each.probs[:, 1]).flatten()
    return p


def apart(p: torch.Tensor, chain: Chain) -> float:
    return float((p - noised(chain, 0.0)).abs().sum() / 2)


@EACH
def test_total_variation_falls_as_one_over_the_steps(name: str) -> None:
    """The exact belief about each position alone: positions drawn in one step are independent, an error of h² a step.

    e(n) = c/n + O(1/n²): doubling the steps halves it, up to the next order.
    """
    chain = CHAINS[name]
    denoiser = independent(WORLD.denoiser(chain))
    error = {n: apart(law(denoiser, n), chain) for n in (1, 16, 32, 64)}
    assert error[64] > 1e-4  # an error there is: what follows is about something
    assert error[16] < error[1]
    assert 1.6 < error[32] / error[64] < 2.5
    assert 1.4 < error[16] / error[32] < 2.8


@EACH
def test_positions_alone_are_exact(name: str) -> None:
    """Independent positions: the belief is whole, and the law right at every number of steps, 1 included."""
    chain = CHAINS[name]
    one = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    denoiser = independent(worlds.TokenTable(one).denoiser(chain))
    rows = chain.marginal(torch.arange(3)[:, None], 1.0).probs[:, 0]
    for steps in (1, 2, 16):
        x, p = torch.arange(chain.states)[:, None], one @ rows
        for t, s in itertools.pairwise(samplers.grids.uniform(chain, steps).tolist()):
            p = p @ chain.reverse(x, denoiser(x, t), t, s).probs[:, 0]  # type: ignore[attr-defined]
        torch.testing.assert_close(p[:3], one, rtol=0, atol=1e-13)


@EACH
def test_the_published_reverse_counts_the_evidence_twice(name: str) -> None:
    """Σ_k q(x_s, x_t | k) b_k, summed by hand, is the reverse of the reweighted belief.

    Given the posterior it is wrong, at any number of steps, where a state says something of x_0 but not all (replaced
    tokens, moved ones; a mask says nothing and an unmasked token all).
    """
    chain = CHAINS[name]
    denoiser = independent(WORLD.denoiser(chain))
    x, t, s = sequences(chain.states), 0.5, 0.25
    x = x[noised(chain, t) > 0]
    belief = denoiser(x, t).probs  # type: ignore[attr-defined]
    before = chain.marginal(torch.arange(3)[:, None], s).probs[:, 0]
    step = chain.transition(torch.arange(chain.states)[:, None], s, t).probs[:, 0]
    joint = torch.einsum("nlk,kj,jnl->nlj", belief, before, step[:, x])
    found = chain.reverse(x, reweighted(denoiser)(x, t), t, s).probs  # type: ignore[attr-defined]
    torch.testing.assert_close(found, joint / joint.sum(-1, keepdim=True), rtol=0, atol=1e-13)
    twice, once = (apart(law(d, 64), chain) for d in (reweighted(denoiser), denoiser))
    if name.startswith("absorbing"):
        assert twice == pytest.approx(once, abs=1e-13)
    else:
        assert twice > 5 * once


@EACH
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """The whole, one at a time, and some in another order, through the loop with its default grid."""
    chain = CHAINS[name]
    denoiser = independent(WORLD.denoiser(chain))
    together = samplers.sample(denoiser, n=4, steps=5, seed=3)
    assert together.dtype == torch.int64
    alone = samplers.sample(denoiser, n=4, steps=5, seed=3, batch=1)
    assert torch.equal(together, alone)
    rest = samplers.sample(denoiser, noise=Noise(3, torch.tensor([2, 0])), steps=5)
    assert torch.equal(rest, together[[2, 0]])
