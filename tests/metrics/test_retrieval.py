"""Retrieval against every choice of candidates, and its standard error against the spread of repeated experiments."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import retrieval


def test_it_is_the_mean_over_every_choice_of_the_others() -> None:
    """Each of the sets of 3 others is looked at; examples of one group are none of each other's."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(8, 8, generator=generator) + torch.eye(8)
    scores[3, 5] = scores[3, 3]  # a tie is not found
    group = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    shares = []
    for i in range(8):
        others = [j for j in range(8) if group[j] != group[i]]
        sets = list(itertools.combinations(others, 3))
        shares.append(sum(all(scores[i, j] < scores[i, i] for j in some) for some in sets) / len(sets))
    found = retrieval(scores, group, among=4)
    assert found.value == pytest.approx(sum(shares) / 8, abs=1e-12)
    assert (found.among, found.n) == (4, 8)


def test_the_standard_error_is_that_of_leaving_each_example_out() -> None:
    """The jackknife by hand: the measure of all but one, as a query and as a candidate."""
    n = 9
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(2)) + 0.7 * torch.eye(n)
    group = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
    left = []
    for k in range(n):
        rest = [i for i in range(n) if i != k]
        left.append(retrieval(scores[rest][:, rest], group[rest], among=4).value)
    values = torch.tensor(left)
    known = ((n - 1) / n * (values - values.mean()).square().sum()).sqrt()
    assert retrieval(scores, group, among=4).stderr == pytest.approx(float(known), rel=1e-5)


def test_what_knows_nothing_has_chance_and_what_knows_all_finds_all() -> None:
    n = 300
    chance = retrieval(torch.randn(n, n, generator=torch.Generator().manual_seed(0)), among=10)
    assert abs(chance.value - 0.1) < 4.5 * chance.stderr
    assert retrieval(torch.eye(n), among=10).value == 1
    assert retrieval(torch.ones(n, n), among=10).value == 0  # one that says the same of all


def test_the_jackknife_s_error_is_the_spread_of_repeated_experiments() -> None:
    """Of R experiments the variance has the relative error √(2/R) = 7 %, of which 4.5 are let pass.

    The jackknife of a statistic of 10 examples is too large by some 10/n (Efron and Stein 1981): 5 %.

    The toy: unit vectors in the plane, of which the caption's is turned by a normal angle.
    """
    experiments, n = 400, 200
    values, variances = [], []
    generator = torch.Generator().manual_seed(1)
    for _ in range(experiments):
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        turned = angle + 0.2 * torch.randn(n, generator=generator)
        found = retrieval(torch.cos(angle[:, None] - turned), among=10)
        values.append(found.value)
        variances.append(found.stderr**2)
    truth = float(torch.tensor(values).var())
    assert abs(sum(variances) / experiments / truth - 1) < 0.35


@pytest.mark.parametrize(
    ("scores", "among", "said"),
    [
        (torch.zeros(3, 4), 2, "finite numbers"),
        (torch.full((9, 9), math.nan), 2, "finite numbers"),
        (torch.zeros(9, 9), 1, "among"),
        (torch.zeros(9, 9), 9, "among must be at most 8"),
    ],
)
def test_refused(scores: torch.Tensor, among: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        retrieval(scores, among=among)
