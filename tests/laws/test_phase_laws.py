"""Samplers with a velocity: exact law of x and v at all times, order, times asked, shapes, dtypes, splits, one step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, samplers
from langevin.denoisers import NetworkDenoiser, PhaseParameterization
from langevin.samplers import grids
from laws.table import PHASE_SAMPLERS, PHASES, mixture, remembers
from laws.test_laws import Spy
from support import flow_reference, sliced_w2, thinned

ROWS = pytest.mark.parametrize(
    ("process", "sampler"),
    [pytest.param(p, s, marks=[pytest.mark.slow] * (p != "phase-space")) for p in PHASES for s in PHASE_SAMPLERS],
)
SOME = [pytest.param(p, marks=[pytest.mark.slow] * (p != "phase-space")) for p in PHASES]
N = 1000
WATCHED = (0.6, 0.2, 0.05, 0.0)


class Law:
    """The law of (x, v) at a time: samples, the floor of two sets of them, log p."""

    def __init__(self, world, process, t):
        draw = lambda seed: world.sample(N, seed, process=process, t=t).flatten(1)
        sets = torch.tensor([sliced_w2(draw(2 * i + 1000), draw(2 * i + 1001)) for i in range(16)])
        self.real, self.floor = draw(77), float(sets.mean() + 4 * sets.std())
        self.log_prob = lambda z: world.log_prob(z, process, max(t, 1e-9)) if t else world.log_prob(z[:, 0])
        values = self.log_prob(world.sample(20_000, 4242, process=process, t=t))
        self.level, self.error = values.mean(), values.std() * math.sqrt(1 / N + 1 / 20_000)

    def gap(self, z):
        """|mean log p − E log p| in standard errors."""
        return float((self.log_prob(z).mean() - self.level).abs() / self.error)


@pytest.fixture(scope="module")
def truth():
    world = mixture(2)
    return {(name, t): Law(world, process, t) for name, process in PHASES.items() for t in WATCHED}


@ROWS
def test_exact_law_of_position_and_velocity(truth, process, sampler):
    """From the true p_1, (x, v) has its exact law at every time that is watched: in sliced W2, and in mean log p.

    As for scalar noise: an exact row is within the floor of N samples, mean + 4 sd of 16 pairs of independent sets,
    and its mean log p within 4 standard errors; of a row of weak order 1, four times the steps leave at most 0.35 of
    the bias, on top of that. At t = 0 x alone is looked at: no datum asks for a velocity.
    """
    q, law, world = PHASES[process], PHASE_SAMPLERS[sampler], mixture(2)
    start = world.sample(N, 5, process=q, t=1.0)

    def run(steps):
        """Distance and gap at each time watched; each is a time of the grid, and 0 the last."""
        grid = grids.quadratic(q, steps)
        grid = torch.cat((grid[:-1], torch.tensor(WATCHED, dtype=torch.float64)[:-1])).unique().flip(0)
        times = torch.cat((grid, torch.zeros(1, dtype=torch.float64)))
        walk = langevin.trajectory(world.denoiser(q), law.sampler, grid=times, start=start, noise=Noise(3, N))
        found = {float(state.t): state.x for state in walk if float(state.t) in WATCHED}
        result = []
        for t in WATCHED:
            known, z = truth[process, t], found[t]
            side = slice(0, 2) if t == 0 else slice(None)
            result.append((sliced_w2(z.flatten(1)[:, side], known.real[:, side]), known.gap(z)))
        return result

    last = run(law.steps)
    first = None if law.exact else last
    if first is not None:
        last = run(4 * law.steps)
    for i, t in enumerate(WATCHED):
        floor = truth[process, t].floor
        (distance, gap), (before, gap_before) = last[i], (0.0, 0.0) if first is None else first[i]
        assert distance < floor + 0.35 * before, t
        assert gap < 4 + 0.35 * gap_before, t


@pytest.fixture(scope="module")
def flows():
    """For each process 16 states at t = 0.9, and where the probability flow leads them at 0.2."""
    world = mixture(2)
    starts = {name: world.sample(16, 1, process=q, t=0.9) for name, q in PHASES.items()}
    return {n: (x, flow_reference(world.denoiser(PHASES[n]), x, 0.9, 0.2)) for n, x in starts.items()}


@pytest.mark.parametrize("process", SOME)
@pytest.mark.parametrize("sampler", thinned([name for name, law in PHASE_SAMPLERS.items() if law.order], 4))
def test_order(flows, process, sampler):
    """Error against a 1e-12 reference from t = 0.9 to 0.2: the slope over two doublings is within 0.25."""
    q, law, world = PHASES[process], PHASE_SAMPLERS[sampler], mixture(2)
    (start, reference), errors = flows[process], []
    for n in (64, 128, 256):
        times = torch.linspace(0.9, 0.2, n + 1, dtype=torch.float64)
        *_, last = langevin.trajectory(world.denoiser(q), law.sampler, grid=times, start=start)
        errors.append(float((last.x - reference).abs().median()))
    slope = math.log(errors[0] / errors[-1]) / math.log(4)
    assert abs(slope - law.order) < 0.25, (slope, errors)


@ROWS
def test_times_are_those_of_the_grid(process, sampler):
    """The denoiser is asked where the row says, in order, and states stand at the grid's times."""
    q, law = PHASES[process], PHASE_SAMPLERS[sampler]
    times = grids.karras(q, 5)
    spy = Spy(mixture(2).denoiser(q))
    start = mixture(2).sample(4, process=q, t=1.0)
    states = list(langevin.trajectory(spy, law.sampler, grid=times, start=start))
    assert [float(s.t) for s in states] == times.tolist()
    assert all(s.x.shape == (4, 2, 2) for s in states)
    if law.evaluations is None:
        return
    expected = []
    for t, s in itertools.pairwise(times.tolist()):
        asked = law.evaluations
        expected += asked(q, t, s) if callable(asked) else [t if e == "t" else s for e in asked if e == "t" or s > 0]
    assert spy.asked == expected


@ROWS
def test_batch_equal_to_width(process, sampler):
    """With as many samples as coordinates and as velocities, a time a sample stays with its sample."""
    q, law, world = PHASES[process], PHASE_SAMPLERS[sampler], mixture(2)
    pairs = torch.tensor([(0.9, 0.4), (0.5, 0.2)], dtype=torch.float64)
    x, noise = world.sample(2, 1, process=q, t=0.5), Noise(0, 2, draw=1)
    step = lambda x, t, s, noise: law.sampler.step(samplers.State(x, t), s, world.denoiser(q), noise).x
    if remembers(law.sampler, world.denoiser(q), x):
        with pytest.raises(UserError, match="one time for all samples"):
            step(x, pairs[:, 0], pairs[:, 1], noise)
        return
    both = step(x, pairs[:, 0], pairs[:, 1], noise)
    for i in range(2):
        alone = step(x[i : i + 1], pairs[i, 0], pairs[i, 1], noise.rows(slice(i, i + 1)))
        torch.testing.assert_close(both[i], alone[0], rtol=1e-9, atol=1e-10)


@ROWS
def test_any_split_and_one_step(process, sampler):
    """The same samples for any batch split and for a part alone; one step works; every grid that is a grid of it."""
    q, law = PHASES[process], PHASE_SAMPLERS[sampler]
    denoiser = mixture(2).denoiser(q)
    own = law.sampler.default_grid(q, 3)
    steps, one = (3, 1) if own is None else (None, None)
    whole = langevin.sample(denoiser, law.sampler, n=7, steps=steps, seed=9)
    split = langevin.sample(denoiser, law.sampler, n=7, steps=steps, seed=9, batch=3)
    torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-9)
    some = langevin.sample(denoiser, law.sampler, steps=steps, noise=Noise(9, torch.tensor([5, 2])))
    torch.testing.assert_close(some, whole[[5, 2]], rtol=1e-9, atol=1e-9)
    assert langevin.sample(denoiser, law.sampler, n=5, steps=one, seed=9).isfinite().all()
    for grid in ("uniform", "quadratic", "log-snr", "karras"):
        assert langevin.sample(denoiser, law.sampler, n=2, steps=3, grid=grid).shape == (2, 2)


class Oracle(torch.nn.Module):
    """The network whose output stands for the exact belief: asked of (x, v) and ¼ log r, as in ``support``."""

    def __init__(self, world, process, parameterization, dtype):
        super().__init__()
        self.world, self.process, self.parameterization, self.config = world, process, parameterization, {}
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x, time, condition=None):
        t = self.process.time(-8 * time.double())[:1]  # one time for all
        z = x.double().reshape(len(x), 2, -1) / self.parameterization.input_scale(self.process, t).reshape(1, 2, 1)
        mean = self.world.denoiser(self.process)(z, t).mean
        c, d = self.parameterization.mean(self.process, t)
        return ((mean - (c.reshape(1, 2, 1) * z).sum(1)) / d).to(self.anchor.dtype) + self.anchor


@ROWS
@pytest.mark.parametrize("prediction", ["eps", "mixed", "edm"])
def test_network_precision(process, sampler, prediction):
    """A float32 network on a float32 state moves the result by no more than its rounding.

    x̂_0 has a relative 2⁻²⁴ of the state and 1/κ_v ≤ 370 times that of an ε_v (without a control); six steps, each of
    which keeps errors within a few units, and x at t = 1e-3 has y = βt times the error of v: 2⁻²⁴ · 6 · 400.
    """
    q, law, world = PHASES[process], PHASE_SAMPLERS[sampler], mixture(2)
    times = grids.log_snr(q, 6)
    start = world.sample(32, 1, process=q, t=times[0])
    results = []
    for dtype in (torch.float64, torch.float32):
        parameterization = PhaseParameterization(prediction, sigma_data=0.7)
        model = NetworkDenoiser(Oracle(world, q, parameterization, dtype), q, parameterization, (2,))
        if dtype == torch.float64 and law.evaluations is not None:
            exact = langevin.sample(world.denoiser(q), samplers.Euler(), start=start, grid=times)
            read = langevin.sample(model, samplers.Euler(), start=start, grid=times)
            torch.testing.assert_close(read, exact, rtol=1e-6, atol=1e-6)
        if law.evaluations is None:
            pytest.skip("its steps follow the rounding")
        results.append(langevin.sample(model, law.sampler, start=start, grid=times))
    assert results[1].dtype == torch.float32
    assert (results[1] - results[0]).abs().median() < 2**-24 * 2400 * results[0].abs().median().clamp_min(1)


def test_whole_belief_is_exact_in_one_step(truth):
    """Ancestral sampling from the true belief has the law of (x, v) after one step from t = 1 to any time."""
    for name, q in PHASES.items():
        world = mixture(2)
        start = world.sample(N, 5, process=q, t=1.0)
        for t in WATCHED[:-1]:
            *_, state = langevin.trajectory(
                world.denoiser(q), samplers.Ancestral(), grid=[1.0, t], start=start, noise=Noise(3, N)
            )
            assert sliced_w2(state.x.flatten(1), truth[name, t].real) < truth[name, t].floor
            assert truth[name, t].gap(state.x) < 4
