"""Single-step solvers: their integrals, their formulas written out, a peer, their orders, evaluations and refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.samplers import State
from langevin.samplers.runge_kutta.dpm_solver import moments
from support import flow_reference, oracle, thinned

F64 = torch.float64
WORLD = worlds.random_mixture(3, components=4, rms=0.7, seed=1)
PROCESSES = (processes.VP(), processes.EDM(), processes.RectifiedFlow())


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=F64)


@pytest.mark.parametrize("z", [-60.0, -2.01, -1.99, -1e-6, 0.0, 1e-12, 0.3, 1.99, 2.01, 60.0])
def test_moments(z):
    """Against adaptive quadrature at 1e-13; the switch of the formula at |z| = 2 loses nothing."""
    from scipy.integrate import quad

    density = lambda x, k: x**k * math.exp(-z * (x - (z < 0)))
    total, *powers = (quad(density, 0, 1, (k,), epsabs=1e-15, epsrel=1e-13, limit=200)[0] for k in range(3))
    for ours, power in zip(moments(at(z)), powers):
        assert abs(float(ours) - power / total) < 1e-13


class Formula:
    """Lu et al.'s updates as they print them, in ε or x_0, on a process's own α, σ and λ = log α/σ."""

    def __init__(self, process, denoiser):
        self.q, self.denoiser = process, denoiser

    def eps(self, x, t):
        return (x - self.q.alpha(t) * self.denoiser(x, t).mean) / self.q.sigma(t)

    def lam(self, t):
        return torch.log(self.q.alpha(t) / self.q.sigma(t))

    def noise_2(self, x, t, s, r):
        q, h = self.q, self.lam(s) - self.lam(t)
        u = q.time(2 * (self.lam(t) + r * h))
        e0 = self.eps(x, t)
        y = q.alpha(u) / q.alpha(t) * x - q.sigma(u) * torch.expm1(r * h) * e0
        e1 = self.eps(y, u)
        z = q.alpha(s) / q.alpha(t) * x - q.sigma(s) * torch.expm1(h) * e0
        return z - q.sigma(s) / (2 * r) * torch.expm1(h) * (e1 - e0)

    def noise_3(self, x, t, s, r1=1 / 3, r2=2 / 3):
        q, h = self.q, self.lam(s) - self.lam(t)
        u, v = (q.time(2 * (self.lam(t) + r * h)) for r in (r1, r2))
        e0 = self.eps(x, t)
        d1 = self.eps(q.alpha(u) / q.alpha(t) * x - q.sigma(u) * torch.expm1(r1 * h) * e0, u) - e0
        y = q.alpha(v) / q.alpha(t) * x - q.sigma(v) * torch.expm1(r2 * h) * e0
        y = y - q.sigma(v) * r2 / r1 * (torch.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = self.eps(y, v) - e0
        z = q.alpha(s) / q.alpha(t) * x - q.sigma(s) * torch.expm1(h) * e0
        return z - q.sigma(s) / r2 * (torch.expm1(h) / h - 1) * d2

    def data_2(self, x, t, s, r):
        q, h = self.q, self.lam(s) - self.lam(t)
        u = q.time(2 * (self.lam(t) + r * h))
        m0 = self.denoiser(x, t).mean
        y = q.sigma(u) / q.sigma(t) * x - q.alpha(u) * torch.expm1(-r * h) * m0
        d = (1 - 1 / (2 * r)) * m0 + self.denoiser(y, u).mean / (2 * r)
        return q.sigma(s) / q.sigma(t) * x - q.alpha(s) * torch.expm1(-h) * d

    def data_3(self, x, t, s, r1=1 / 3, r2=2 / 3):
        q, h = self.q, self.lam(s) - self.lam(t)
        u, v = (q.time(2 * (self.lam(t) + r * h)) for r in (r1, r2))
        m0 = self.denoiser(x, t).mean
        y = q.sigma(u) / q.sigma(t) * x - q.alpha(u) * torch.expm1(-r1 * h) * m0
        d1 = self.denoiser(y, u).mean - m0
        y = q.sigma(v) / q.sigma(t) * x - q.alpha(v) * torch.expm1(-r2 * h) * m0
        y = y + q.alpha(v) * r2 / r1 * (torch.expm1(-r2 * h) / (r2 * h) + 1) * d1
        d2 = self.denoiser(y, v).mean - m0
        z = q.sigma(s) / q.sigma(t) * x - q.alpha(s) * torch.expm1(-h) * m0
        return z + q.alpha(s) / r2 * (torch.expm1(-h) / h + 1) * d2


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.3), (0.5, 0.49), (0.2, 0.7)])
def test_formulas_of_the_papers(process, t, s):
    """One step of each solver is the paper's, downwards, in a small step and upwards; rounding of 20 operations."""
    t, s = at(t), at(s)
    x = WORLD.sample(8, 3, process=process, t=t)
    denoiser = WORLD.denoiser(process)
    formula = Formula(process, denoiser)
    rows = [
        (samplers.DPMSolver(2), formula.noise_2(x, t, s, 0.5)),
        (samplers.DPMSolver(2, r1=0.3), formula.noise_2(x, t, s, 0.3)),
        (samplers.DPMSolver(3), formula.noise_3(x, t, s)),
        (samplers.DPMSolver(3, r1=0.5), formula.noise_3(x, t, s, r1=0.5)),
        (samplers.DPMSolverPP2S(), formula.data_2(x, t, s, 0.5)),
        (samplers.DPMSolverPP2S(0.8), formula.data_2(x, t, s, 0.8)),
        (samplers.DPMSolverPP3S(), formula.data_3(x, t, s)),
    ]
    for sampler, expected in rows:
        ours = sampler.step(State(x, t), s, denoiser, None).x
        # (expm1(h)/h − 1) of the formula cancels at small h: 1e-16/h² of ours, h ≥ 0.04
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11, msg=str(sampler))


def classical(scheme, slope, y, a, b):
    """The textbook methods for dy/dr = slope(y, r)."""
    h = b - a
    k1 = slope(y, a)
    if scheme == "midpoint":
        return y + h * slope(y + h / 2 * k1, a + h / 2)
    if scheme == "heun":
        return y + h / 2 * (k1 + slope(y + h * k1, b))
    k2 = slope(y + h / 2 * k1, a + h / 2)
    if scheme == "kutta3":
        return y + h / 6 * (k1 + 4 * k2 + slope(y - h * k1 + 2 * h * k2, b))
    k3 = slope(y + h / 2 * k2, a + h / 2)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, b))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("scheme", ["midpoint", "heun", "kutta3", "rk4"])
def test_rho_methods_are_classical_in_rho(process, scheme):
    """DEIS ρRK: dy/dρ = ε̂ with y = x/α, ρ = σ/α, by the textbook method. Inverting ρ(t) costs 1e-13."""
    t, s = at(0.8), at(0.2)
    x = WORLD.sample(8, 3, process=process, t=t)
    denoiser = WORLD.denoiser(process)
    ratio = lambda u: process.sigma(u) / process.alpha(u)

    def slope(y, rho):
        u = process.time(-2 * torch.log(rho))
        return process.noise(process.alpha(u) * y, denoiser(process.alpha(u) * y, u), u)

    expected = process.alpha(s) * classical(scheme, slope, x / process.alpha(t), ratio(t), ratio(s))
    ours = samplers.Tableau(scheme).step(State(x, t), s, denoiser, None).x
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_rho_heun_is_edms():
    """On EDM's process Heun in ρ is Heun's method in σ, which is the existing sampler's: the same numbers."""
    process = processes.EDM()
    start = WORLD.sample(16, 1, process=process, t=1.0)
    grid = samplers.grids.karras(process, 9)
    one, two = (
        langevin.sample(WORLD.denoiser(process), rule, start=start, grid=grid)
        for rule in (samplers.RhoHeun(), samplers.Heun())
    )
    # σ up to 80 before the last steps: 1e-16 · 80 · 9 steps
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sde", ["dpmsolver", "dpmsolver++"])
def test_second_order_beside_a_peer(sde):
    """diffusers' single-step scheduler of order 2, on its own float64 sigmas with the midpoints in log-SNR.

    The peer keeps λ of sigmas given in float64 (set below), so only the inverse of log-SNR (1e-12, times 157 at most)
    differs.
    """
    diffusers = pytest.importorskip("diffusers")
    process, steps = processes.DDPM(), 6
    times = process.time(torch.linspace(-8, 8, 2 * steps + 1, dtype=F64))
    peer = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type=sde, solver_order=2, lower_order_final=True, final_sigmas_type="sigma_min"
    )
    peer.set_timesteps(2 * steps)
    peer.sigmas = process.sigma(times) / process.alpha(times)
    peer.order_list = [1, 2] * steps
    start = WORLD.sample(16, 1, process=process, t=times[0])
    denoiser, x = WORLD.denoiser(process), start
    for i, t in enumerate(peer.timesteps):
        eps = process.noise(x, denoiser(x, times[i]), times[i])
        x = peer.step(eps, t, x).prev_sample
    rule = samplers.DPMSolver(2) if sde == "dpmsolver" else samplers.DPMSolverPP2S()
    *_, last = langevin.trajectory(denoiser, rule, grid=times[::2], start=start)
    torch.testing.assert_close(last.x, x, rtol=1e-9, atol=1e-9)


ORDERS = [
    (samplers.DPMSolver(1), 1),
    (samplers.DPMSolver(2, r1=0.7, rule="exact"), 2),
    (samplers.DPMSolver(3, r1=0.5, r2=0.9, rule="exact"), 3),
    (samplers.DPMSolver(3, "x0", rule="exact"), 3),
    (samplers.DPMSolverPP2S(), 2),
    (samplers.DPMSolverPP3S(), 3),
    (samplers.RhoMidpoint(), 2),
    (samplers.RhoHeun(), 2),
    (samplers.RhoKutta3(), 3),
    (samplers.DPMSolverFast(), 2),
]


def slope(rule, process, counts):
    ends = process.time(torch.tensor([-4.0, 4.0], dtype=F64))
    start = WORLD.sample(16, 1, process=process, t=ends[0])
    denoiser = WORLD.denoiser(process)
    reference = flow_reference(denoiser, start, float(ends[0]), float(ends[1]))
    errors = []
    for n in counts:
        grid = process.time(torch.linspace(-4, 4, n + 1, dtype=F64))
        *_, last = langevin.trajectory(denoiser, rule, grid=grid, start=start)
        errors.append(float((last.x - reference).abs().median()))
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


@pytest.mark.parametrize(("rule", "order"), thinned(ORDERS, 6), ids=str)
def test_orders_of_other_settings(rule, order):
    """Slopes within 0.25 for nodes of one's own; without the second node's factor (0.9, 0.5) has slope 2."""
    assert abs(slope(rule, processes.VP(), (40, 80, 160)) - order) < 0.25


@pytest.mark.slow
def test_order_of_prk():
    """Pseudo Runge–Kutta of order 4 has order 2, and 4 where σ/α is linear in time, as EDM's."""
    assert abs(slope(samplers.PRK(), processes.VP(), (64, 128, 256)) - 2) < 0.25
    assert abs(slope(samplers.PRK(), processes.EDM(), (64, 128, 256)) - 4) < 0.25


@pytest.mark.parametrize("rule", [samplers.DPMSolver(3), samplers.DPMSolverPP3S(), samplers.RhoRK4()], ids=str)
def test_tiny_steps(rule):
    """A step of 1e-9 moves x by its velocity: the weights do not lose digits as h → 0.

    The exact move is h·v + O(h²); coefficients near 1 are rounded to 1e-16, so the move is right to 1e-6 of itself.
    """
    process, t = processes.VP(), at(0.5)
    x = WORLD.sample(8, 1, process=process, t=t)
    denoiser = WORLD.denoiser(process)
    moved = rule.step(State(x, t), t - 1e-9, denoiser, None).x - x
    expected = -1e-9 * process.velocity(x, denoiser(x, t), t)
    assert (moved - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("rule", [samplers.DPMSolver(3), samplers.DPMSolverPP2S(), samplers.PRK()], ids=str)
def test_times_of_their_own(rule):
    """Samples at t = 1 of no signal, inside, into clean data and standing still take one step together as alone."""
    process = processes.RectifiedFlow()
    t = torch.tensor([1.0, 0.8, 0.3, 0.5], dtype=F64)
    s = torch.tensor([0.9, 0.4, 0.0, 0.5], dtype=F64)
    x, denoiser = WORLD.sample(4, 1, process=process, t=0.5), WORLD.denoiser(process)
    together = rule.step(State(x, t), s, denoiser, None).x
    assert together.isfinite().all()
    for i in range(4):
        alone = rule.step(State(x[i : i + 1], t[i]), s[i], denoiser, None).x
        torch.testing.assert_close(together[i], alone[0], rtol=1e-11, atol=1e-12)
    plain = samplers.DDIM()
    for i in (0, 2):
        alone = plain.step(State(x[i : i + 1], t[i]), s[i], denoiser, None).x
        torch.testing.assert_close(together[i], alone[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(together[3], x[3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [samplers.DPMSolver(3), samplers.RhoRK4(), samplers.PRK()], ids=str)
def test_where_the_signal_is_rounding(rule):
    """The cosine's α(1) is 6e-17, not 0: a first step divided by it was noise. It is DDIM's, as where α = 0."""
    process = processes.Cosine()
    x, denoiser = WORLD.sample(4, 1, process=process, t=1.0), WORLD.denoiser(process)
    ours, expected = (r.step(State(x, at(1.0)), at(0.7), denoiser, None).x for r in (rule, samplers.DDIM()))
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def test_a_plan_changes_nothing():
    """Coefficients made once for a grid are those of each step; off the grid the plan is the sampler."""
    process = processes.VP()
    denoiser, grid = WORLD.denoiser(process), samplers.grids.karras(process, 5)
    x = WORLD.sample(8, 1, process=process, t=1.0)
    for rule in (samplers.DPMSolver(3), samplers.RhoHeun(), samplers.PRK()):
        settled = rule.plan(process, grid)
        state = planned = State(x, grid[0])
        for s in grid[1:]:
            state, planned = rule.step(state, s, denoiser, None), settled.step(planned, s, denoiser, None)
        assert state.x.equal(planned.x)
        other = settled.step(State(x, at(0.9)), at(0.5), denoiser, None).x
        assert other.equal(rule.step(State(x, at(0.9)), at(0.5), denoiser, None).x)
        # A time for each sample is never looked up.
        own = torch.full((8,), 0.9, dtype=F64)
        for t, s in ((own, at(0.5)), (at(0.9), own - 0.4), (own, own - 0.4)):
            assert settled.step(State(x, t), s, denoiser, None).x.allclose(other, rtol=1e-12, atol=1e-12)


def test_a_step_tells_the_belief_at_its_start():
    process, denoiser = processes.VP(), WORLD.denoiser(processes.VP())
    x = WORLD.sample(4, 1, process=process, t=0.9)
    for rule in (samplers.DPMSolver(3), samplers.Heun(), samplers.RhoRK4()):
        told = rule.step(State(x, at(0.9)), at(0.5), denoiser, None).belief
        torch.testing.assert_close(told.mean, denoiser(x, at(0.9)).mean, rtol=1e-12, atol=0)


def test_evaluations_are_the_order():
    """A step of order p asks p times, the last one once."""
    process = processes.VP()
    for rule, each in ((samplers.DPMSolver(1), 1), (samplers.DPMSolver(2), 2), (samplers.DPMSolverPP3S(), 3)):
        denoiser = oracle(WORLD, process, "eps")
        langevin.sample(denoiser, rule, n=2, steps=5)
        assert denoiser.counter.calls == 4 * each + 1


def test_gradients_flow():
    """Through states, though the plan's coefficients are numbers."""
    process = processes.VP()
    x = WORLD.sample(4, 1, process=process, t=0.5).requires_grad_()
    *_, last = langevin.trajectory(WORLD.denoiser(process), samplers.DPMSolver(3), grid=[0.5, 0.2, 0.0], start=x)
    (gradient,) = torch.autograd.grad(last.x.sum(), x)
    assert gradient.abs().sum() > 0


def test_a_float32_state_stays_float32():
    """Coefficients are float64 numbers; they do not promote the state."""
    process = processes.VP()
    net = NetworkDenoiser(
        oracle(WORLD, process, "eps", torch.float32).network, process, AffineParameterization("eps"), (3,)
    )
    x = WORLD.sample(4, 1, process=process, t=0.5).float()
    assert samplers.DPMSolver(2).step(State(x, at(0.5)), at(0.2), net, None).x.dtype == torch.float32


def test_refusals():
    """Each names the argument, what came, and what is accepted."""
    cases = [
        (lambda: samplers.DPMSolver(4), "order must be 1, 2 or 3, got 4"),
        (lambda: samplers.DPMSolver(0), "order must be"),
        (lambda: samplers.DPMSolver(2, prediction="v"), "prediction must be one of 'x0', 'eps', got 'v'"),
        (lambda: samplers.DPMSolver(2, r1=0.0), "r1 must lie"),
        (lambda: samplers.DPMSolver(2, r1=1.5), "r1 must lie"),
        (lambda: samplers.DPMSolver(3, r1=0.7), "r2 must lie"),
        (lambda: samplers.DPMSolver(3, r2=0.9), "r2 must be 2/3 by the paper's weights"),
        (lambda: samplers.DPMSolver(3, r1=2 / 3, r2=1.0, rule="exact"), "r1 must not be 2/3"),
        (lambda: samplers.DPMSolver(2, rule="other"), "rule must be"),
        (lambda: samplers.Tableau("euler"), "scheme must be one of"),
        (lambda: samplers.Tableau("heun", variable="s"), "variable must be"),
        (lambda: samplers.DPMSolverFast(0), "evaluations must be an integer of at least 1, got 0"),
        (lambda: samplers.DPMSolverFast(5, "v"), "prediction must be"),
    ]
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    gaussian = WORLD.denoiser(processes.VP())
    for rule in (samplers.DPMSolver(), samplers.RhoHeun(), samplers.DPMSolverFast()):
        cases.append((lambda rule=rule: langevin.sample(tokens, rule), "log_snr"))
    cases.append(
        (lambda: langevin.sample(gaussian, samplers.DPMSolver(2), start=torch.zeros(1, 3), grid=[0.0, 0.5]), "t_min")
    )
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()


def test_pairs_of_equal_times():
    """A corrector's place: a step from s to s leaves a state where it is."""
    process = processes.VP()
    x = WORLD.sample(4, 1, process=process, t=0.5)
    for rule, t in itertools.product((samplers.DPMSolver(3), samplers.RhoRK4()), (0.5, 0.0)):
        torch.testing.assert_close(rule.step(State(x, at(t)), at(t), WORLD.denoiser(process), None).x, x)


@pytest.mark.parametrize(("process", "atol"), [(processes.RectifiedFlow(), 1e-12), (processes.VE(1e-2, 1e11), 1e-4)])
@pytest.mark.parametrize("rule", [samplers.DPMSolver(2), samplers.DPMSolver(3, "x0")], ids=str)
def test_samples_without_signal_beside_others(rule, process, atol):
    """From noise without signal one sample takes the plain step while its neighbour does not: each as it would alone.

    In VE the data's share is 1 beside a σ of 1e11, and 0.6 beside one of 4e10 after the step, where float64 holds 1e-5.
    """
    denoiser = WORLD.denoiser(process)
    t, s = torch.tensor([1.0, 0.8], dtype=F64), torch.tensor([0.97, 0.3], dtype=F64)
    x = WORLD.sample(2, 1, process=process, t=at(0.9))
    both = rule.step(State(x, t), s, denoiser, None).x
    for i in range(2):
        alone = rule.step(State(x[i : i + 1], t[i]), s[i], denoiser, None).x
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0.0, atol=atol)


def test_samples_of_one_batch_with_and_without_an_end_at_infinity():
    """A step to data or from pure noise is DDIM's; in one batch with others each is what it is alone."""
    process = processes.RectifiedFlow()
    world = worlds.random_mixture(3, components=4, rms=0.7, seed=1)
    denoiser = world.denoiser(process)
    t, s = torch.tensor([0.4, 0.4, 1.0], dtype=torch.float64), torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64)
    x = world.sample(3, 3, process=process, t=t)
    for rule in (samplers.DPMSolver(2), samplers.DPMSolver(3, "x0"), samplers.RhoRK4()):
        together = rule.step(samplers.State(x, t), s, denoiser, None).x
        for i in range(3):
            alone = rule.step(samplers.State(x[i : i + 1], t[i]), s[i], denoiser, None).x
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-10, atol=1e-12)
