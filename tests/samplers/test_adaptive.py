"""Adaptive solvers: SciPy's steps, the papers' algorithm for one sample, tolerances, independence, limits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.samplers import State
from support import flow_reference, oracle, thinned

F64 = torch.float64
WORLD = worlds.random_mixture(3, components=4, rms=0.7, seed=1)


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=F64)


@dataclasses.dataclass(frozen=True, eq=False)
class Tally(Transform):
    """Counts calls."""

    calls: list = dataclasses.field(default_factory=list)

    def __call__(self, x_t, t):
        self.calls.append(len(x_t))
        return self.base(x_t, t)

    def rows(self, index):
        return dataclasses.replace(self, base=self.base.rows(index))


def scipy_path(process, denoiser, x, t, s, rule):
    """SciPy on one sample: its end and its evaluations."""
    from scipy.integrate import solve_ivp

    def slope(time, y):
        y, now = torch.as_tensor(y).reshape(1, *x.shape), torch.tensor(time, dtype=F64)
        return process.velocity(y, denoiser(y, now), now).reshape(-1).numpy()

    made = solve_ivp(slope, (t, s), x.reshape(-1).numpy(), method=rule.pair.upper(), rtol=rule.rtol, atol=rule.atol)
    return torch.as_tensor(made.y[:, -1]).reshape(x.shape), made.nfev


@pytest.mark.parametrize("ends", [(0.95, 0.01), (0.05, 0.9)])
@pytest.mark.parametrize("rule", [samplers.RK45(1e-4, 1e-5), samplers.DOP853(1e-7, 1e-8)], ids=lambda r: r.pair)
def test_steps_are_scipys(rule, ends):
    """Each sample of a batch ends where SciPy takes it alone, with as many evaluations as its slowest one.

    The same operations in another order: 1e-16 of rounding, grown along the path by at most a thousand.
    """
    process = processes.VP()
    denoiser = Tally(WORLD.denoiser(process))
    x = WORLD.sample(4, 3, process=process, t=ends[0])
    ours = rule.step(State(x, at(ends[0])), at(ends[1]), denoiser, None).x
    paths = [scipy_path(process, denoiser.base, x[i], *ends, rule) for i in range(4)]
    torch.testing.assert_close(ours, torch.stack([p[0] for p in paths]), rtol=0, atol=1e-12)
    assert len(denoiser.calls) == max(p[1] for p in paths)
    assert sum(denoiser.calls) == sum(p[1] for p in paths)


def lu_adaptive(process, denoiser, x, t, s, order, rtol, atol, h=0.05, theta=0.9):
    """arXiv:2206.00927 appendix C for one sample, on DPM-Solver's own formulas."""
    lam = lambda u: process.log_snr(u) / 2
    eps = lambda y, u: process.noise(y, denoiser(y, u), u)
    now, goal, before, calls = lam(t), lam(s), x, 0
    while now < goal - 1e-12:
        h = min(h, float(goal - now))
        u = s if now + h >= goal - 1e-12 else process.time(2 * (now + h))
        a, b = process.alpha(u) / process.alpha(t), process.sigma(u)
        r = 0.5 if order == 2 else 1 / 3
        v = process.time(2 * (now + r * h))
        e0 = eps(x, t)
        first = a * x - b * math.expm1(h) * e0
        e1 = eps(process.alpha(v) / process.alpha(t) * x - process.sigma(v) * math.expm1(r * h) * e0, v)
        second = first - b / (2 * r) * math.expm1(h) * (e1 - e0)
        if order == 2:
            low, high = first, second
        else:
            w = process.time(2 * (now + 2 / 3 * h))
            y = process.alpha(w) / process.alpha(t) * x - process.sigma(w) * math.expm1(2 / 3 * h) * e0
            y = y - 2 * process.sigma(w) * (math.expm1(2 / 3 * h) / (2 / 3 * h) - 1) * (e1 - e0)
            low, high = second, first - 1.5 * b * (math.expm1(h) / h - 1) * (eps(y, w) - e0)
        scale = torch.maximum(torch.tensor(atol), rtol * torch.maximum(low.abs(), before.abs()))
        error = float(((low - high) / scale).square().mean().sqrt())
        calls += order
        if error <= 1:
            x, t, now, before = high, u, lam(u), low
        else:
            calls -= 1  # ours keeps the first evaluation
        h = theta * h * error ** (-1 / order)
    return x, calls


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_is_the_papers(order):
    """Each sample of a batch as the algorithm takes it alone; h is compared through its own rounding, 1e-9."""
    process = processes.VP()
    denoiser = Tally(WORLD.denoiser(process))
    rule = samplers.DPMSolverAdaptive(0.01, 0.001, order=order, growth=math.inf)
    t, s = at(1.0), at(0.002)
    x = WORLD.sample(4, 3, process=process, t=t)
    ours = rule.step(State(x, t), s, denoiser, None).x
    paths = [lu_adaptive(process, denoiser.base, x[i : i + 1], t, s, order, 0.01, 0.001) for i in range(4)]
    torch.testing.assert_close(ours, torch.cat([p[0] for p in paths]), rtol=0, atol=1e-8)
    assert sum(denoiser.calls) == sum(p[1] for p in paths)


@pytest.mark.parametrize(
    "make", thinned([samplers.DPMSolver23, samplers.DOP853, samplers.DPMSolver12, samplers.RK45], 3)
)
def test_error_follows_the_tolerance(make):
    """Ten times less tolerance is at least four times less error (an error a step of tol, in ever more steps)."""
    process = processes.VP()
    x = WORLD.sample(16, 3, process=process, t=0.95)
    reference = flow_reference(WORLD.denoiser(process), x, 0.95, 0.01)
    errors = []
    for tolerance in (1e-3, 1e-5):
        rule = make(tolerance, tolerance)
        end = rule.step(State(x, at(0.95)), at(0.01), WORLD.denoiser(process), None).x
        errors.append(float((end - reference).abs().median()))
    assert errors[1] < errors[0] / 16
    assert errors[1] < 1e-4


RULES = [
    samplers.DPMSolver12(0.01, 0.001),
    samplers.DPMSolver23(0.01, 0.001),
    samplers.RK45(),
    samplers.DOP853(1e-6, 1e-6),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_sample_depends_on_no_other(rule):
    """Beside a sample a thousand times larger, which asks for other steps, and under labels of their own."""
    world, process = worlds.ring(8, 1.0, 0.1), processes.EDM(sigma_max=20.0)
    label = torch.tensor([3, 1, 6])
    denoiser = world.denoiser(process).given(label=label)
    x = world.sample(3, 5, process=process, t=1.0)
    x[1] *= 1000
    grid = [1.0, 0.0]
    together = langevin.sample(denoiser, rule, start=x, grid=grid)
    for i in range(3):
        alone = langevin.sample(denoiser.rows(slice(i, i + 1)), rule, start=x[i : i + 1], grid=grid)
        # The largest starts at 2e4: rounding of 1e-16 of that, in other sums for one row than for three
        torch.testing.assert_close(together[i], alone[0], rtol=1e-9, atol=1e-9)
    nearest = (together[[0, 2]][:, None] - world.means).norm(dim=-1).argmin(1)
    assert nearest.tolist() == [3, 6]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("process", [processes.RectifiedFlow(), processes.VP(), processes.Cosine()], ids=repr)
def test_ends(process, rule):
    """From t = 1, where a flow has no signal, to t = 0, where it has no speed; up again; and steps inside the ends."""
    denoiser = WORLD.denoiser(process)
    x = WORLD.sample(3, 1, process=process, t=1.0)
    one = rule.step(State(x, at(1.0)), at(0.0), denoiser, None)
    assert one.x.isfinite().all()
    assert float(one.t) == 0
    inside = rule.step(State(x, at(process.t_min / 2)), at(0.0), denoiser, None).x
    expected = samplers.DDIM().step(State(x, at(process.t_min / 2)), at(0.0), denoiser, None).x
    torch.testing.assert_close(inside, expected, rtol=1e-9, atol=1e-9)
    still = rule.step(State(x, at(0.5)), at(0.5), denoiser, None).x
    assert still.equal(x)
    down = rule.step(State(x, at(0.6)), at(0.3), denoiser, None).x
    back = rule.step(State(down, at(0.3)), at(0.6), denoiser, None).x
    assert (back - x).abs().max() < 0.1  # tolerances of 5 % of |x|; the tight ones come closer
    if isinstance(rule, samplers.ExplicitRungeKutta):
        assert (back - x).abs().max() < 1e-3


def test_orders_of_the_papers_pairs():
    assert (samplers.DPMSolver12().order, samplers.DPMSolver23().order) == (2, 3)


def test_a_field_that_is_zero_is_crossed_in_growing_steps():
    """Both estimates of DOP853's error are 0: it is 0, and a step is ten times the one before."""
    process = processes.VP()
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1))  # q is N(0, I) at every time
    watched = Tally(world.denoiser(process))
    x = torch.zeros(1, 1, dtype=F64)
    moved = samplers.DOP853(1e-6, 1e-6).step(State(x, at(0.9)), at(0.1), watched, None).x
    assert torch.equal(moved, x)
    assert len(watched.calls) <= 12 * 8  # from a first step of 1e-6


@pytest.mark.slow
def test_phase_space():
    """A flow with a velocity of its own, against SciPy's 1e-12 reference."""
    process = processes.PhaseSpace()
    world = worlds.random_mixture(2, components=3, rms=0.7, seed=2)
    start = world.sample(4, 1, process=process, t=0.9)
    reference = flow_reference(world.denoiser(process), start, 0.9, 0.1)
    end = samplers.DOP853(1e-8, 1e-9).step(State(start, at(0.9)), at(0.1), world.denoiser(process), None).x
    assert (end - reference).abs().max() < 1e-6
    assert langevin.sample(world.denoiser(process), "rk45", n=2).isfinite().all()


@pytest.mark.parametrize(
    "rule",
    [
        samplers.DPMSolver23(1e-6, 1e-6, max_steps=7),
        samplers.RK45(1e-9, 1e-9, max_steps=7),
        samplers.DOP853(1e-12, 1e-12, max_steps=7),
    ],
    ids=str,
)
def test_step_limit(rule):
    """It says at what time and with what error it stopped, and returns nothing."""
    process = processes.VP()
    with pytest.raises(UserError, match=r"stopped at its step limit at t = 0\.\d+, where its error is .* max_steps"):
        langevin.sample(WORLD.denoiser(process), rule, n=3)


def test_a_broken_network():
    """NaN is said so, with its time; no endless loop."""
    process = processes.VP()

    @dataclasses.dataclass(frozen=True, eq=False)
    class Broken(Transform):
        def __call__(self, x_t, t):
            belief = self.base(x_t, t)
            return langevin.distributions.Dirac(torch.where(t.min() < 0.5, torch.nan, belief.mean))

    for rule in RULES:
        with pytest.raises(UserError, match="not finite at t = "):
            langevin.sample(Broken(WORLD.denoiser(process)), rule, n=2)


def test_default_grid_and_count():
    """Two ends, and evaluations of a network counted by its own counter."""
    process = processes.VP()
    denoiser = oracle(WORLD, process, "eps")
    few = langevin.sample(denoiser, "dpm-23", n=2)
    spent = denoiser.counter.calls
    assert few.isfinite().all()
    assert 15 < spent < 300
    assert samplers.RK45().default_grid(process, 10).tolist() == [1.0, 0.0]


def test_refusals():
    """Each names the argument, what came, and what is accepted."""
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    cases = [
        (lambda: samplers.RK45(rtol=0.0), "rtol must be a finite number > 0, got 0.0"),
        (lambda: samplers.RK45(atol=-1.0), "atol must be a finite number > 0, got -1.0"),
        (lambda: samplers.DPMSolver12(rtol=math.nan), "rtol"),
        (lambda: samplers.DPMSolver23(max_steps=0), "max_steps must be an integer of at least 1, got 0"),
        (lambda: samplers.DPMSolverAdaptive(order=1), "order must be 2"),
        (lambda: samplers.DPMSolverAdaptive(first=0.0), "first"),
        (lambda: samplers.DPMSolverAdaptive(safety=1.0), "safety"),
        (lambda: samplers.DPMSolverAdaptive(growth=1.0), "growth must be > 1, got 1.0"),
        (lambda: samplers.ExplicitRungeKutta(pair="rk4"), "pair must be"),
        (lambda: langevin.sample(tokens, "rk45"), "velocity"),
        (lambda: langevin.sample(tokens, "dpm-23"), "adaptive DPM-Solver needs"),
        (
            lambda: langevin.sample(WORLD.denoiser(processes.VP()), "rk45", start=torch.zeros(1, 3), grid=[0.0, 0.5]),
            "t_min",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()


def test_a_start_at_zero():
    """x = 0 has no length to take a first step from (d_0 = 0 in Hairer's rule, which then begins with 1e-6)."""
    process = processes.EDM()
    denoiser = WORLD.denoiser(process)
    x, t, s = torch.zeros(1, 3, dtype=F64), torch.tensor([1.0], dtype=F64), torch.tensor([0.1], dtype=F64)
    rule = samplers.RK45(1e-6, 1e-8)
    first = rule.learn(denoiser, x, t)
    size = float(rule.size(denoiser, x, t, s, first))
    assert 1e-6 < size <= 1e-4  # at most a hundred times the beginning
    end = rule.step(State(x, at(1.0)), at(0.1), denoiser, None).x
    torch.testing.assert_close(end, flow_reference(denoiser, x, 1.0, 0.1), rtol=0, atol=1e-5)


def test_where_no_smaller_step_is_left():
    """The message names the time, of the sample that is stuck."""
    process = processes.VP()

    class Stuck(type(samplers.RK45())):
        def time(self, field, value):
            return torch.where(value > 0.5, value, 0.5)  # a variable of the step as coarse as this

        def size(self, field, x, t, s, first):
            return torch.full_like(t, 0.01)

    x = WORLD.sample(2, 3, process=process, t=0.5)
    times = torch.tensor([0.9, 0.5], dtype=F64)
    with pytest.raises(UserError, match=r"no smaller step left at t = 0\.5,"):
        Stuck(1e-2, 1e-2).cross(WORLD.denoiser(process), x, times, torch.full_like(times, 0.1))


def test_the_step_from_pure_noise_keeps_the_direction():
    """From t = 1 of a flow, where log-SNR is −∞, the way to ``t_max`` is one step of DDIM: σ_s/σ_t of the state stays,
    which η > 0 would shrink."""
    process = processes.RectifiedFlow()
    denoiser = WORLD.denoiser(process)
    x = WORLD.sample(2, 3, process=process, t=1.0)
    ours = samplers.DPMSolver23(1e-7, 1e-7).step(State(x, at(1.0)), at(0.05), denoiser, None).x
    first = samplers.DDIM().step(State(x, at(1.0)), at(process.t_max), denoiser, None).x
    torch.testing.assert_close(ours, flow_reference(denoiser, first, process.t_max, 0.05), rtol=0, atol=1e-4)
