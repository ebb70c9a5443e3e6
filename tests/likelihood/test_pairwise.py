"""Grids of least bound: every sub-grid by hand, every number of steps, and on draws the table has not seen."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

import langevin
from langevin import UserError, denoisers, likelihood, processes, worlds
from langevin.distributions import Stream
from langevin.likelihood.bound import step_term
from langevin.samplers import grids

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def ring():
    """A ring under point beliefs on a table of 40 knots."""
    process = processes.DDPM(processes.linear_betas(40, 0.004, 0.4))
    world = worlds.ring()
    return denoisers.dirac(world.denoiser(process)), world.sample(300, 5)


def test_equal_to_brute_force():
    world, process = worlds.random_mixture(2, seed=1), processes.VP()
    table = likelihood.pairs(denoisers.dirac(world.denoiser(process)), world.sample(100, 2), fine=8)
    inner = table.times[1:-1].tolist()
    for steps in range(1, 9):
        every = [[1.0, *some, 0.0] for some in itertools.combinations(inner, steps - 1)]
        best = min(table.value(grid) for grid in every)
        assert table.value(table.grid(steps)) == pytest.approx(best, abs=1e-12)


def test_table_is_the_bound(ring):
    """The whole fine grid: the same draws, the same terms, as ``bound`` has them; L_T apart."""
    denoiser, x = ring
    table = likelihood.pairs(denoiser, x, times="trailing", fine=40)
    found = likelihood.bound(denoiser, x, grid=table.times, seed=0)
    error = 4 * found.standard_error
    assert abs(table.value(table.times) - float((found.nats - found.prior).mean())) < error
    assert table.cost.shape == (41, 41)
    assert (table.cost[torch.ones(41, 41, dtype=torch.bool).tril()] == math.inf).all()


def test_never_worse_than_uniform_or_quadratic(ring):
    """At every number of steps, on the table; and with 5, 10, 20 steps on fresh data and draws, by 4 errors at 5."""
    denoiser, x = ring
    table = likelihood.pairs(denoiser, x, times="trailing", fine=40)
    process = denoiser.process
    for steps in range(1, 41):
        best = table.value(table.grid(steps))
        assert best <= table.value(grids.trailing(process, steps)) + 1e-12
        quadratic = (grids.quadratic(process, steps)[:-1] * 40).round().clamp_min(1) / 40
        quadratic = torch.cat((quadratic.unique().flip(0), torch.zeros(1, dtype=DOUBLE)))
        assert table.value(table.grid(len(quadratic) - 1)) <= table.value(quadratic) + 1e-12
    fresh = worlds.ring().sample(400, 77)
    for steps in (5, 10, 20):
        ours, uniform = (
            likelihood.bound(denoiser, fresh, grid=grid, seed=3)
            for grid in (table.grid(steps), grids.trailing(process, steps))
        )
        gain = uniform.nats - ours.nats
        assert float(gain.mean()) > (4 * float(gain.std()) / 20 if steps == 5 else 0)


def test_json_there_and_back(ring):
    denoiser, x = ring
    table = likelihood.pairs(denoiser, x[:20], fine=10)
    again = likelihood.PairwiseBound.from_dict(json.loads(json.dumps(table.to_dict())))
    torch.testing.assert_close(again.cost, table.cost)
    assert torch.equal(again.grid(4), table.grid(4))
    assert again.units == table.units
    drawn = langevin.sample(denoiser, "ancestral", n=4, grid=again.grid(4))
    assert drawn.shape == (4, 2)
    good = table.to_dict()
    for change, words in [
        ({"langevin": 2}, "format 2"),
        ({"kind": "grid"}, "table of pairs"),
        ({"cost": good["cost"][1:]}, "rows above the diagonal"),
        ({"times": ["a"]}, "table of pairs"),
        ({"units": {"dim": 0}}, "dim"),
    ]:
        with pytest.raises(UserError, match=words):
            likelihood.PairwiseBound.from_dict({**good, **change})


def test_a_cost_is_a_term_of_the_bound(ring):
    """The first entry of one datum, written out: the mean over data of the term from t to s."""
    denoiser, x = ring
    process, found = denoiser.process, likelihood.pairs(denoiser, x[:1], fine=3)
    t, s = found.times[0], found.times[1]
    draw = langevin.Noise(0, 1).step(1)
    x_t = process.marginal(x[:1], t).sample(draw)
    term = step_term(process, x[:1], x_t, denoiser(x_t, t), t, s, draw.fold_in(Stream.TERM + 1))
    torch.testing.assert_close(found.cost[0, 1], term.sum(), rtol=1e-12, atol=1e-12)


def test_batches_do_not_matter(ring):
    denoiser, x = ring
    one, other = (likelihood.pairs(denoiser, x[:10], fine=8, batch=size) for size in (3, 10))
    torch.testing.assert_close(one.cost, other.cost)


def test_bad_requests_are_named(ring):
    denoiser, x = ring
    with pytest.raises(UserError, match="x must be"):
        likelihood.pairs(denoiser, x[:, :1])
    with pytest.raises(UserError, match="batch"):
        likelihood.pairs(denoiser, x, batch=0)
    table = likelihood.pairs(denoiser, x[:5], fine=5)
    with pytest.raises(UserError, match="go through"):
        table.value([1.0, 0.123, 0.0])
    with pytest.raises(UserError, match="steps"):
        table.grid(6)


def test_what_is_no_table_is_named():
    with pytest.raises(langevin.UserError, match="got str"):
        likelihood.PairwiseBound.from_dict("pairs")
    with pytest.raises(langevin.UserError, match=r"got \['kind'\]"):
        likelihood.PairwiseBound.from_dict({"kind": "pairs"})


def test_progress_counts_evaluations():
    world = worlds.ring()
    seen = []
    tell = lambda done, total: seen.append((done, total))
    likelihood.pairs(world.denoiser(processes.VP()), world.sample(5, 1), fine=4, batch=2, progress=tell)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0
