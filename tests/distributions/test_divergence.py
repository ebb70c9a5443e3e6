"""Divergences in closed form against quadrature over the densities, sums over states, and their own zero."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from langevin import UserError
from langevin.distributions import Blocks, Categorical, Dense, Diagonal, Dirac, LowRank, Normal, kl

B, EVENT = 3, (2, 2)


def gaussian(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariances(seed):
    """All forms on events (2, 2)."""
    matrix = lambda batch: (lambda r: r @ r.mT + 0.2 * torch.eye(4))(gaussian(batch, 4, 4, seed=seed))
    block = gaussian(B, 2, 2, 2, seed=seed + 1)
    block = torch.einsum("bikd,bjkd->bijd", block, block) + 0.2 * torch.eye(2)[None, :, :, None]
    return {
        "scalar": Diagonal(gaussian(1, 1, 1, seed=seed) ** 2 + 0.1),
        "diagonal": Diagonal(gaussian(B, *EVENT, seed=seed) ** 2 + 0.1),
        "one diagonal": Diagonal(gaussian(1, *EVENT, seed=seed) ** 2 + 0.1),
        "dense": Dense(matrix(B)),
        "one dense": Dense(matrix(1)),
        "low rank": LowRank(gaussian(B, 1, 1, seed=seed) ** 2 + 0.1, gaussian(B, 2, *EVENT, seed=seed + 2)),
        "one factor": LowRank(gaussian(1, *EVENT, seed=seed) ** 2 + 0.1, gaussian(1, 1, *EVENT, seed=seed + 2)),
        "blocks": Blocks(block),
    }


FORMS = list(covariances(0))


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMS, FORMS)))
def test_normal_pairs(first, second):
    """Against torch's own divergence of full matrices, to rounding: condition numbers here are below 1e3."""
    p = Normal(gaussian(B, *EVENT, seed=1), covariances(10)[first])
    q = Normal(gaussian(B, *EVENT, seed=2), covariances(20)[second])
    full = [
        torch.distributions.MultivariateNormal(law.loc.flatten(1), law.cov.dense(EVENT).expand(B, 4, 4))
        for law in (p, q)
    ]
    torch.testing.assert_close(kl(p, q), torch.distributions.kl_divergence(*full), rtol=1e-11, atol=1e-12)


def test_blocks_of_images():
    """Positions of an image are positions of a row: the same as of flattened data, which the pairs above prove."""
    shape = (3, 4)
    blocks = [covariances(seed)["blocks"].matrix[..., :1] + gaussian(B, 1, 1, 12, seed=seed) ** 2 for seed in (10, 20)]
    means = [gaussian(B, 2, 12, seed=seed) for seed in (1, 2)]
    rows = [Normal(mean, Blocks(block)) for mean, block in zip(means, blocks)]
    images = [
        Normal(mean.reshape(B, 2, *shape), Blocks(block.reshape(B, 2, 2, *shape))) for mean, block in zip(means, blocks)
    ]
    torch.testing.assert_close(kl(*images), kl(*rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_of_a_law_to_itself(form):
    """Zero, to a hundred roundings of numbers of order one."""
    law = Normal(gaussian(B, *EVENT, seed=1), covariances(10)[form])
    assert kl(law, law).shape == (B,)
    assert kl(law, law).abs().max() < 1e-13


def test_quadrature():
    """∫ p (log p − log q) by the trapezium rule, which is exact to rounding for analytic functions that vanish."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    p, q = Normal(torch.tensor([[0.3]]).double(), 0.5), Normal(torch.tensor([[-0.4]]).double(), 1.3)
    density = p.log_prob(x).exp()
    expected = torch.trapezoid(density * (p.log_prob(x) - q.log_prob(x)), x[:, 0])
    torch.testing.assert_close(kl(p, q)[0], expected, rtol=1e-12, atol=1e-13)


def test_small_differences_do_not_cancel():
    """Variances that differ by a share of 1e-9, ¼·1e-18 a coordinate: of log a − log b nothing would be left."""
    mean, large, small = torch.zeros(1, 5, dtype=torch.float64), 0.7 * (1 + 1e-9), 0.7
    value = kl(Normal(mean, large), Normal(mean, small))
    expected = torch.tensor([5 * ((large - small) / small) ** 2 / 4], dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_a_batch_of_one_stands_for_all():
    prior = Normal(torch.zeros(1, *EVENT, dtype=torch.float64), 1.0)
    law = Normal(gaussian(B, *EVENT, seed=1), Diagonal(torch.full((1, 1, 1), 0.3, dtype=torch.float64)))
    rows = torch.cat([kl(Normal(law.loc[i : i + 1], law.cov), prior) for i in range(B)])
    torch.testing.assert_close(kl(law, prior), rows)
    assert kl(prior, law).shape == (B,)


def test_categorical():
    """Σ p log p/q, with 0·log 0 = 0, and infinite where q excludes what p allows."""
    p = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    q = torch.tensor([[[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    expected = torch.tensor([0.5 * math.log(2), math.inf], dtype=torch.float64)
    torch.testing.assert_close(kl(Categorical(p), Categorical(q)), expected)
    assert kl(Categorical(p), Categorical(p)).tolist() == [0.0, 0.0]


def test_a_singular_law_is_infinitely_far():
    """From a regular one: it allows next to nothing of what the other does."""
    flat = Normal(torch.zeros(1, 2, dtype=torch.float64), Dense(torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]).double()))
    still = Normal(torch.zeros(1, 2, dtype=torch.float64), 0.0)
    round_ = Normal(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    assert kl(flat, round_).item() > 15  # −½ log of an eigenvalue that is 0 to rounding
    assert kl(still, round_).item() == math.inf


def test_laws_without_a_closed_form_are_refused():
    point, law = Dirac(torch.zeros(1, 2)), Normal(torch.zeros(1, 2), 1.0)
    with pytest.raises(UserError, match="Dirac and Normal"):
        kl(point, law)
    tokens = Categorical(torch.ones(1, 2, 2) / 2)
    for pair in ((tokens, law), (law, tokens)):
        with pytest.raises(UserError, match="Categorical"):
            kl(*pair)
    with pytest.raises(UserError, match="same event"):
        kl(law, Normal(torch.zeros(1, 3), 1.0))
    with pytest.raises(UserError, match="same tokens"):
        kl(Categorical(torch.ones(1, 2, 2) / 2), Categorical(torch.ones(1, 2, 3) / 3))
