"""The exponential multistep methods: exact where they promise it, and their settings against each other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.support import flow_reference, oracle

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.numerics.quadrature import gauss, lagrange
from langevin.samplers import Multistep
from langevin.samplers.linear.predictions import PREDICTIONS, Point

PROCESSES = [processes.VP(), processes.SubVP(), processes.EDM(), processes.RectifiedFlow(), processes.DDPM()]
TIMES = (0.5, 0.62, 0.71, 0.83)


def names(value):
    return type(value).__name__ if isinstance(value, processes.Process) else None


def weights(process, sampler, s, times=TIMES):
    rule = sampler.coefficients(process, times[: sampler.order], s)
    return rule.scale, rule.weights


@pytest.mark.parametrize("process", PROCESSES, ids=names)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("s", [0.49, 0.31])
def test_first_order_is_the_exact_flow_of_a_constant(process, prediction, s):
    """With f = p x̂_0 + q ε̂ held, x runs as the process says; order 1 must be that, for two lines of x̂_0 and ε̂.

    Along x = α x_0 + σ ε every prediction is p x_0 + q ε, which is constant for x0, eps and flow: the step is exact.
    v turns with the angle, so it is compared with the exact integral of a constant v: a rotation by the angle.
    """
    sampler = Multistep(prediction, "log-snr", 1)
    scale, (weight,) = weights(process, sampler, s)
    t = torch.tensor(TIMES[0], dtype=torch.float64)
    a, b = float(process.alpha(t)), float(process.sigma(t))
    e, g = (float(f(torch.tensor(s, dtype=torch.float64))) for f in (process.alpha, process.sigma))
    if prediction == "x0":
        known, lines = (1.0, 0.0), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0)]
    elif prediction == "eps":
        known, lines = (0.0, 1.0), [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0)]
    elif prediction == "flow":
        known, lines = (-1.0, 1.0), [(1.0, 0.0, -1.0), (0.0, 1.0, 1.0)]
    else:
        r, q = math.hypot(a, b), math.hypot(e, g)
        p = Point(float(t), a, b)
        assert PREDICTIONS["v"].parts(p) == pytest.approx((-b / r, a / r), rel=1e-13)  # (α ε − σ x_0)/√(α² + σ²)
        angle = math.atan2(g, e) - math.atan2(b, a)
        assert scale == pytest.approx(q / r, rel=1e-13)
        assert weight == pytest.approx(q * angle, rel=1e-11)
        return
    assert known == PREDICTIONS[prediction].parts(None)
    for x0, eps, f in lines:
        assert scale * (a * x0 + b * eps) + weight * f == pytest.approx(e * x0 + g * eps, rel=1e-12, abs=1e-14)


def test_adams_bashforth():
    """On equal steps in the variable ``flat`` has the classical coefficients (Hairer, Nørsett & Wanner, III.1)."""
    times = tuple(0.1 + 0.1 * k for k in range(1, 5))
    classical = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for order, expected in classical.items():
        _, found = weights(processes.VP(), Multistep("eps", "time", order, "flat"), 0.1, times)
        np.testing.assert_allclose(np.array(found) / sum(found), expected, rtol=1e-12)


def test_settings_of_published_names():
    """Prediction, variable, order, η and corrector of each name, as its paper has them."""
    s = samplers
    named = {
        s.DPMSolverPP(): ("x0", "log-snr", 2, 0.0, 0),
        s.DPMSolverPP3M(): ("x0", "log-snr", 3, 0.0, 0),
        s.DPMSolverPPSDE(): ("x0", "log-snr", 2, 1.0, 0),
        s.DPMSolverPP3MSDE(): ("x0", "log-snr", 3, 1.0, 0),
        s.DPMSolverMultistep(): ("eps", "log-snr", 2, 0.0, 0),
    }
    for rule, settings in named.items():
        assert (rule.prediction, rule.variable, rule.order, rule.eta, rule.corrector) == settings, rule


def test_one_predictor_by_three_names():
    """UniP-p is the polynomial through p values (p ≥ 3), UniP-2 with B2 is DPM-Solver++(2M)."""
    process = processes.VP()
    for order in (3, 4):
        for b in ("B1", "B2"):
            unip = samplers.UniPC(order, b=b, corrector=False)
            assert weights(process, unip, 0.4) == weights(process, Multistep("x0", "log-snr", order), 0.4)
    assert samplers.UniPC(2, corrector=False) == samplers.DPMSolverPP()


def test_corrector_alone_raises_the_order():
    """UniC on a first-order predictor is of order 2 with as many evaluations (arXiv:2302.04867, proposition 3.1)."""
    q = processes.VP()
    world = worlds.random_mixture(2, components=4, rms=0.7, seed=2)
    ends = q.time(torch.tensor([-4.0, 4.0], dtype=torch.float64))
    start = world.sample(16, 1, process=q, t=ends[0])
    reference = flow_reference(world.denoiser(q), start, float(ends[0]), float(ends[1]))
    errors = {0: [], 1: []}
    for corrector, found in errors.items():
        for n in (64, 128):
            grid = q.time(torch.linspace(-4, 4, n + 1, dtype=torch.float64))
            sampler = Multistep("x0", "log-snr", 1, corrector=corrector)
            *_, last = langevin.trajectory(world.denoiser(q), sampler, grid=grid, start=start)
            found.append(float((last.x - reference).abs().median()))
    slopes = {k: math.log2(a / b) for k, (a, b) in errors.items()}
    assert abs(slopes[0] - 1) < 0.25
    assert abs(slopes[1] - 2) < 0.25


def test_planned_is_the_same_as_step_by_step():
    """The plan only computes coefficients earlier: bit for bit."""
    q = processes.VP()
    world = worlds.ring(8)
    grid = samplers.grids.karras(q, 6)[:-1]
    for sampler in (
        samplers.UniPC(3),
        samplers.DPMSolverPP(order=4, start="corrected"),
        samplers.DDIM(),
        samplers.DEIS(),
    ):
        start = world.sample(5, 1, process=q, t=q.t_max)
        *_, planned = langevin.trajectory(world.denoiser(q), sampler, grid=grid, start=start)
        state, own = samplers.State(start, grid[0]), samplers.State(start, grid[:1].expand(5))
        for i, s in enumerate(grid[1:], 1):
            noise = Noise(0, 5).step(i)
            state = sampler.step(state, s, world.denoiser(q), noise)
            if not sampler.history:
                own = sampler.step(own, s.expand(5), world.denoiser(q), noise)
        assert torch.equal(state.x, planned.x)
        # A coefficient of one a sample multiplies in another order: an ulp a step, grown by the flow (< 1e3).
        if not sampler.history:
            torch.testing.assert_close(own.x, planned.x, rtol=0, atol=1e-11)


@dataclasses.dataclass(frozen=True)
class Nudge(samplers.Sampler):
    """Moves a state and stays."""

    by: float

    def step(self, state, s, denoiser, noise):
        return state.move(state.x + self.by, s, state.memory)


@pytest.mark.parametrize("sampler", [samplers.UniPC(2), samplers.UniPC(3, taper=True), Multistep(corrector=2, reach=2)])
def test_a_correction_keeps_what_another_sampler_moved(sampler):
    """On a plan and step by step alike: a correction says what the solver's own step lacked."""
    q = processes.VP()
    denoiser = worlds.ring(8).denoiser(q)
    grid = samplers.grids.karras(q, 6)[:-1]
    start = worlds.ring(8).sample(5, 1, process=q, t=q.t_max)
    ends = []
    for by in (0.0, 1e-3):
        whole = sampler.then(Nudge(by))
        *_, planned = langevin.trajectory(denoiser, whole, grid=grid, start=start)
        ends.append(planned.x)
        if sampler.taper:  # step by step nobody knows where the end is
            continue
        state = samplers.State(start, grid[0])
        for s in grid[1:]:
            state = whole.step(state, s, denoiser, Noise(0, 5))
        # An ulp a step, grown by the flow (< 1e3).
        torch.testing.assert_close(state.x, planned.x, rtol=0, atol=1e-11)
    # The last nudge alone is 1e-3; those before it reach the end through a flow that contracts, and none is lost.
    q0 = samplers.DDIM().then(Nudge(1e-3))
    *_, plain = langevin.trajectory(denoiser, samplers.DDIM(), grid=grid, start=start)
    *_, moved = langevin.trajectory(denoiser, q0, grid=grid, start=start)
    shift, expected = (ends[1] - ends[0]).median(), (moved.x - plain.x).median()
    assert float(shift) > 1.05e-3
    assert abs(float(shift / expected) - 1) < 0.5


@pytest.mark.parametrize(("order", "calls"), [(3, [1, 2, 3, 4, 5]), (4, [1, 3, 4, 5, 6])])
def test_corrected_starts_ask_once_more_at_order_4(order, calls):
    """The second value is asked at a state of error h², one order short of what order 4 needs: it is asked again."""
    process, world = processes.VP(), worlds.ring()
    found = []
    for steps in range(1, 6):
        denoiser = oracle(world, process, "eps")
        langevin.sample(denoiser, samplers.DPMSolverPP(order=order, start="corrected"), n=2, steps=steps)
        found.append(denoiser.counter.calls)
    assert found == calls


def test_taper():
    """The order falls to 1 at the last step."""
    q = processes.VP()
    grid = samplers.grids.karras(q, 8)[:-1]
    used = lambda sampler: [len(c.weights) for c in sampler.tabulate(q, tuple(grid.tolist())).values()]
    assert used(Multistep("x0", "log-snr", 3, taper=True)) == [1, 2, 3, 3, 3, 2, 1]
    assert used(Multistep("x0", "log-snr", 3)) == [1, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_step_of_no_length_stands_still(prediction):
    process, world = processes.VP(), worlds.ring(8)
    t = torch.tensor(0.4, dtype=torch.float64)
    x = world.sample(3, 1, process=process, t=t)
    state = Multistep(prediction, "log-snr", 1).step(samplers.State(x, t), t, world.denoiser(process), Noise(0, 3))
    assert torch.equal(state.x, x)


def test_gauss_and_lagrange():
    """Degree 31 exactly; a basis that sums to one."""
    x, w = gauss(-1.0, 3.0)
    assert (w * x**31).sum() == pytest.approx((3**32 - 1) / 32, rel=1e-13)
    basis = lagrange(np.array([0.0, 1.0, 3.0]), np.linspace(-1, 4, 7))
    np.testing.assert_allclose(basis.sum(0), 1, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order must be 1, 2, 3 or 4, got 0"),
        ({"order": 5}, "order must be 1, 2, 3 or 4, got 5"),
        ({"order": True}, "order must be"),
        ({"corrector": 7}, "corrector must be"),
        ({"prediction": "epsilon"}, "epsilon"),
        ({"variable": "logsnr"}, "log-snr"),
        ({"rule": "trapezoid"}, "trapezoid"),
        ({"eta": -1.0}, "eta must be"),
        ({"eta": math.nan}, "eta must be"),
        ({"eta": 1.0, "prediction": "v"}, "eta must be 0 for prediction 'v'"),
        ({"eta": 1.0, "corrector": 1}, "corrector must be 0"),
        ({"eta": 1.0, "start": "corrected"}, "start 'plain'"),
        ({"reach": 2}, "reach must be"),
        ({"start": "slow"}, "start must be"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Multistep(**settings)


def test_bad_process_and_grid():
    tokens = worlds.TokenTable(torch.ones(3, 3))
    with pytest.raises(ValueError, match="multistep"):
        langevin.sample(tokens.denoiser(processes.Absorbing(3)), samplers.DEIS(), n=2)
    world = worlds.ring(8).denoiser(processes.VP())
    up = [0.2, 0.5]
    with pytest.raises(ValueError, match="eta must be 0 for a grid that goes up"):
        langevin.sample(world, samplers.DPMSolverPPSDE(), start=torch.zeros(2, 2), grid=up)
    with pytest.raises(ValueError, match="grid must start above 0"):
        langevin.sample(world, samplers.DPMSolverPP(), start=torch.zeros(2, 2), grid=[0.0, 0.5])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("process", [processes.VP(), processes.EDM()], ids=names)
def test_weight_is_the_rate_of_the_total(process, prediction, eta):
    """``weight`` is n_s dm/du at s: ``total`` of a short step over its length in u, to its first order, 1e-5."""
    form = PREDICTIONS[prediction]
    if eta and form.std is None:
        return
    times = torch.tensor([0.5 + 1e-5, 0.5], dtype=torch.float64)
    t, s = (Point(*v) for v in zip(times.tolist(), process.alpha(times).tolist(), process.sigma(times).tolist()))
    assert form.weight(s, eta) == pytest.approx(form.total(t, s, eta) / (s.u - t.u), rel=1e-4)
