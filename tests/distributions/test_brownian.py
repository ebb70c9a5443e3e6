"""Brownian paths: the law of increments in any Brownian time, additivity, refinement, splits, parts, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from langevin import Noise, UserError
from langevin.distributions import BrownianPath

F64 = torch.float64
BROWNIAN_TIMES = {
    "time": lambda t: t,
    "exploding": lambda t: torch.expm1(6 * t),
    "falling": lambda t: 3 - 2 * t**2,
    "infinite at 0": lambda t: 1 / t**2,
    "infinite at 1": lambda t: (t / (1 - t)) ** 2,
}
TIMES = torch.tensor([0.97, 0.9, 0.73, 0.71, 0.7, 0.5, 0.2, 0.11, 0.05], dtype=F64)
KNOTS = {"ranks": None, "knots": TIMES, "five knots": torch.tensor([0.01, 0.3, 0.5, 0.9, 0.99], dtype=F64)}


def walk(path, times, brownian_time, event=(2,)):
    """The increments along the times, ``(steps, B, *event)``."""
    return torch.stack([path.increment(event, t, s, brownian_time) for t, s in itertools.pairwise(times)])


def spans(times, brownian_time):
    return (brownian_time(times[1:]) - brownian_time(times[:-1])).abs()


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("brownian_time", BROWNIAN_TIMES)
def test_law(brownian_time, knots):
    """Divided by √|ΔV|, the increments are standard and independent: mean, covariance and fourth moments.

    With n = 20,000 paths of two coordinates, a mean has the standard deviation 1/√2n, a covariance at most √(2/2n), the
    mean of z⁴ √(96/2n); 5 of them are passed by all 4·(8 + 36 + 8) entries of a row with probability 1 − 1e-4.
    """
    brownian_time, n = BROWNIAN_TIMES[brownian_time], 20_000
    z = (
        walk(BrownianPath(1, n, knots=KNOTS[knots]), TIMES, brownian_time)
        / spans(TIMES, brownian_time).sqrt()[:, None, None]
    )
    z, count = z.reshape(len(z), -1), 2 * n
    assert float(z.mean(1).abs().max()) < 5 / math.sqrt(count)
    assert float((z @ z.T / count - torch.eye(len(z))).abs().max()) < 5 * math.sqrt(2 / count)
    assert float(((z**4).mean(1) - 3).abs().max()) < 5 * math.sqrt(96 / count)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_every_pair_of_levels(depth):
    """Ends, cell ends and points in cells, at small depths where all of them meet: the covariance of W is min(V, V').

    W(t) − W(0) over n = 20,000 paths of two coordinates; entries have a standard deviation below √(2/2n).
    """
    times = torch.cat((torch.linspace(0, 1, 2**depth + 1, dtype=F64), torch.tensor([0.31], dtype=F64))).unique()
    path = BrownianPath(2, 20_000, depth=depth, knots=[0.0, 1.0])
    w = torch.stack([path.increment((2,), 0.0, t, lambda u: u) for t in times]).reshape(len(times), -1)
    expected = torch.minimum(times[:, None], times)
    assert float((w @ w.T / w.shape[1] - expected).abs().max()) < 5 * math.sqrt(2 / w.shape[1])


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("brownian_time", BROWNIAN_TIMES)
def test_additive_and_refined(brownian_time, knots):
    """Parts sum to the whole, in any order of questions, to rounding of the largest W: 2⁻⁵² · √V · 8 terms."""
    brownian_time = BROWNIAN_TIMES[brownian_time]
    path = BrownianPath(5, 6, knots=KNOTS[knots])
    fine = walk(path, TIMES, brownian_time, (3, 5))
    coarse = walk(path, TIMES[::4], brownian_time, (3, 5))
    back = walk(path, TIMES.flip(0), brownian_time, (3, 5)).flip(0)
    fresh = walk(BrownianPath(5, 6, knots=KNOTS[knots]), TIMES[::4], brownian_time, (3, 5))
    bound = 100 * 2**-52 * float(brownian_time(TIMES).abs().max().sqrt())
    torch.testing.assert_close(fine.reshape(2, 4, 6, 3, 5).sum(1), coarse, rtol=0, atol=bound)
    torch.testing.assert_close(back, -fine, rtol=0, atol=0)
    torch.testing.assert_close(fresh, coarse, rtol=0, atol=0)


@pytest.mark.parametrize("event", [(7,), (2, 64, 64)])
def test_batches_do_not_matter(event):
    """To the bit: any part of the samples, alone or cut from a path that was used; another draw changes nothing.

    The larger event takes the level-by-level way through the generator, the smaller the joint one.
    """
    brownian_time, index = BROWNIAN_TIMES["exploding"], torch.tensor([4, 0, 4])
    path = BrownianPath(3, 5)
    whole = walk(path, TIMES[:4], brownian_time, event)
    for part in (path.rows(index), BrownianPath(3, index), path.step(9).rows(index)):
        assert torch.equal(walk(part, TIMES[:4], brownian_time, event), whole[:, index])
    assert torch.equal(walk(path.step(7), TIMES[:4], brownian_time, event), whole)
    assert not torch.equal(walk(BrownianPath(4, 5), TIMES[:4], brownian_time, event), whole)


@pytest.mark.parametrize("brownian_time", BROWNIAN_TIMES)
def test_a_time_a_sample(brownian_time):
    """Times ``(B,)`` give each sample what its own time alone gives, to rounding."""
    brownian_time, path = BROWNIAN_TIMES[brownian_time], BrownianPath(3, 4)
    t = torch.tensor([0.9, 0.5, 0.3, 0.5], dtype=F64)
    s = torch.tensor([0.1, 0.2, 0.2, 0.03125], dtype=F64)
    both = path.increment((4,), t, s, brownian_time)
    for i in range(4):
        alone = BrownianPath(3, torch.tensor([i])).increment((4,), t[i], s[i], brownian_time)
        torch.testing.assert_close(both[i], alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_time_each_for_few_samples(samples):
    """One, two or three samples at times of their own: none takes another's place on the way."""
    brownian_time, path = BROWNIAN_TIMES["exploding"], BrownianPath(3, samples)
    t = torch.tensor([0.9, 0.3, 0.6], dtype=F64)[:samples]
    together = path.value((2,), t, brownian_time)
    for i in range(samples):
        torch.testing.assert_close(together[i], path.value((2,), float(t[i]), brownian_time)[i], rtol=1e-9, atol=1e-12)


def test_values_belong_to_the_caller():
    """Writing into a value changes no later answer (an adaptive solver did)."""
    path = BrownianPath(3, 4)
    for time in (0.3, 0.5, 0.0, torch.full((4,), 0.3, dtype=F64)):
        value = path.value((2,), time, BROWNIAN_TIMES["time"])
        kept = value.clone()
        value += 1
        assert torch.equal(path.value((2,), time, BROWNIAN_TIMES["time"]), kept)
        difference = path.increment((2,), time, 0.9, BROWNIAN_TIMES["time"])
        torch.testing.assert_close(difference, path.value((2,), 0.9, BROWNIAN_TIMES["time"]) - kept, rtol=0, atol=1e-12)


def test_parts_are_paths_of_their_own():
    """A fold is another path, the same at every draw; other numbers are those of ``Noise``."""
    path = BrownianPath(3, 2000)
    step = lambda p: p.increment((2,), 0.9, 0.2, BROWNIAN_TIMES["time"])
    a, b = step(path.step(1).fold_in(11)), step(path.step(2).fold_in(11))
    assert torch.equal(a, b)
    for other in (step(path), step(path.fold_in(12)), step(path.fold_in(11).fold_in(11))):
        assert abs(float(torch.corrcoef(torch.stack((a.reshape(-1), other.reshape(-1))))[0, 1])) < 5 / math.sqrt(4000)
    plain = Noise(3, 2000)
    assert torch.equal(path.step(4).normal((2,)), plain.step(4).normal((2,)))
    assert torch.equal(path.step(4).fold_in(1).uniform((2,)), plain.step(4).fold_in(1).uniform((2,)))


def test_over_is_the_increment_divided():
    """``along_path`` gives the increment over its standard deviation; over an infinite one a normal of the draw."""
    brownian_time, n = BROWNIAN_TIMES["infinite at 0"], 20_000
    path = BrownianPath(3, n)
    z = path.along_path(0.9, 0.2, brownian_time).normal((2,))
    torch.testing.assert_close(
        z * math.sqrt(0.2**-2 - 0.9**-2), path.increment((2,), 0.9, 0.2, brownian_time), rtol=1e-12, atol=1e-12
    )
    last = path.step(2).along_path(0.2, 0.0, brownian_time).normal((2,))
    assert torch.equal(last, Noise(3, n, 2).normal((2,)))
    t, s = torch.tensor([0.9, 0.9], dtype=F64), torch.tensor([0.2, 0.0], dtype=F64)
    mixed = path.rows(slice(0, 2)).along_path(t, s, brownian_time).normal((2,))
    torch.testing.assert_close(mixed[0], z[0], rtol=1e-12, atol=1e-12)
    assert mixed.isfinite().all()
    plain = Noise(3, 5)
    assert plain.along_path(0.9, 0.2, brownian_time) is plain


def test_plain_noise_has_independent_intervals():
    """``Noise.increment`` is this draw's normal times √|ΔV|, for one time or one a sample."""
    noise, brownian_time = Noise(2, 3, 4), BROWNIAN_TIMES["exploding"]
    s = torch.tensor([0.1, 0.2, 0.9], dtype=F64)
    spread = torch.sqrt((brownian_time(s) - brownian_time(torch.tensor(0.9, dtype=F64))).abs())
    torch.testing.assert_close(
        noise.increment((2, 2), 0.9, s, brownian_time), spread[:, None, None] * noise.normal((2, 2))
    )


def test_normals_a_step(monkeypatch):
    """Shared ancestors: down a grid of its knots a path makes each normal once, else depth − log₂ n + 2 a step."""
    made = []
    original = BrownianPath._numbers

    def counted(self, event, words, uses, levels, spread):
        for z in original(self, event, words, uses, levels, spread):
            made.append(z is not None)
            yield z

    monkeypatch.setattr(BrownianPath, "_numbers", counted)
    for n in (8, 32):
        grid = torch.linspace(1, 0, n + 1, dtype=F64)
        made.clear()
        walk(BrownianPath(0, 1, knots=grid), grid, BROWNIAN_TIMES["time"])
        assert sum(made) == n - 1
        made.clear()
        walk(BrownianPath(0, 1, depth=10), grid, BROWNIAN_TIMES["time"])
        assert sum(made) <= n * (10 - math.log2(n) + 2)


def test_two_times_in_one_cell_are_refused():
    path = BrownianPath(0, 2, depth=4)
    with pytest.raises(UserError, match=r"depth must be more than 4 .* t = 0.5.* s = 0.5"):
        path.increment((1,), 0.51, 0.512, BROWNIAN_TIMES["time"])
    BrownianPath(0, 2, depth=12).increment((1,), 0.51, 0.512, BROWNIAN_TIMES["time"])
    assert not path.increment((1,), 0.51, 0.51, BROWNIAN_TIMES["time"]).any()
    with pytest.raises(UserError, match="depth must be more than 4"):
        path.along_path(0.51, 0.512, BROWNIAN_TIMES["time"])


def test_a_usual_grid_fits_the_default_depth():
    """A thousand uniform steps need 12 levels, 200 steps of a Karras grid over 0.002…80 the default 10."""
    walk(BrownianPath(0, 1, depth=12), torch.linspace(1, 0, 1001, dtype=F64)[:20], BROWNIAN_TIMES["time"], (1,))
    sigma = (80 ** (1 / 7) + torch.linspace(0, 1, 200, dtype=F64) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    walk(BrownianPath(0, 1), torch.cat((sigma / 80, torch.zeros(1, dtype=F64))), BROWNIAN_TIMES["time"], (1,))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"depth": 0}, "depth must be an integer from 1 to 30"),
        ({"depth": 31}, "depth must be an integer from 1 to 30"),
        ({"depth": 2.0}, "depth must be an integer from 1 to 30"),
        ({"knots": [0.5]}, "knots must be 1-D"),
        ({"knots": [0.1, 0.5, 0.5]}, "strictly"),
        ({"knots": [0.1, 1.5]}, "strictly within"),
        ({"knots": [0.1, math.nan]}, "knots must be 1-D"),
        ({"depth": 2, "knots": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}, "depth must be at least 3"),
    ],
)
def test_refuses_settings(settings, match):
    with pytest.raises(UserError, match=match):
        BrownianPath(0, 2, **settings)


def test_times_beyond_the_knots_are_refused():
    with pytest.raises(UserError, match="within the knots"):
        BrownianPath(0, 2, knots=[0.2, 0.8]).increment((1,), 0.9, 0.3, BROWNIAN_TIMES["time"])


def test_a_bridge_between_ends_where_nothing_is_known():
    """Weight of the right end and standard deviation; with both ends at infinity nothing is added."""
    from langevin.distributions.brownian import _bridge

    left, middle, right = (
        np.array(v) for v in ([0.0, -np.inf, 0.0, -np.inf, 1.0], [1.0] * 5, [4.0, 3.0, np.inf, np.inf, 1.0])
    )
    weight, std = _bridge(left, middle, right)
    np.testing.assert_allclose(std, np.sqrt([0.75, 2.0, 1.0, 0.0, 0.0]), rtol=1e-15)
    np.testing.assert_allclose(weight[:3], [0.25, 1.0, 0.0], rtol=1e-15)


def test_the_refusal_names_the_times_that_share_a_cell():
    """Of a batch of steps the first that does."""
    path = BrownianPath(0, torch.arange(3), depth=3)
    t = torch.tensor([0.9, 0.51, 0.3], dtype=torch.float64)
    s = torch.tensor([0.1, 0.52, 0.31], dtype=torch.float64)
    with pytest.raises(UserError, match=r"t = 0\.51 and s = 0\.52 share one"):
        path.increment((2,), t, s, lambda u: u)
