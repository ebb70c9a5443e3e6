"""The loop and its defaults: other processes, combinators, inversion, gradients, refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser, Transform, independent
from langevin.distributions import Dirac
from langevin.guidance import classifier_free
from support import OracleNetwork, oracle, sliced_w2, thinned, w2_floor

F64 = torch.float64


def table() -> worlds.TokenTable:
    """Three correlated tokens of three classes."""
    return worlds.TokenTable(0.05 + Noise(4, 1).uniform((3, 3, 3))[0] ** 4)


def chain() -> processes.FiniteChain:
    """A table that keeps a token until t with probability 1 − t and otherwise sends it through a lopsided matrix."""
    mix = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]], dtype=F64)
    replaced = 1 / torch.arange(64, 0, -1, dtype=F64).reshape(64, 1, 1)
    return processes.FiniteChain((1 - replaced) * torch.eye(3, dtype=F64) + replaced * mix)


def total_variation(world: worlds.TokenTable, x: torch.Tensor) -> float:
    return float((world.count(x) - world.probs).abs().sum() / 2)


def tv_floor(world: worlds.TokenTable, n: int) -> float:
    """E TV ≤ ½ Σ √(p(1−p)/n) for n exact draws; its standard deviation is at most ½/√n (bounded differences)."""
    p = world.probs
    return float(0.5 * torch.sqrt(p * (1 - p) / n).sum() + 4 * 0.5 / math.sqrt(n))


CHAINS = {"absorbing": processes.Absorbing(3), "uniform": processes.Uniform(3), "chain": chain()}


@pytest.mark.parametrize("name", CHAINS)
def test_joint_belief_on_tokens_is_exact_in_any_number_of_steps(name):
    world, n = table(), 4000
    start = world.sample(n, 3, process=CHAINS[name], t=1.0)
    for grid in ([1.0, 0.0], [1.0, 0.5, 0.25, 0.0]):
        x = langevin.sample(world.denoiser(CHAINS[name]), start=start, grid=grid, batch=n)
        assert total_variation(world, x) < tv_floor(world, n), grid


@pytest.mark.parametrize("name", thinned(CHAINS, 3))
def test_independent_positions_converge(name):
    """With each position on its own the error falls like 1/steps: 32 steps are far better than 2, near the floor."""
    world, n = table(), 4000
    denoiser = independent(world.denoiser(CHAINS[name]))
    start = world.sample(n, 3, process=CHAINS[name], t=1.0)
    few, many = (
        total_variation(world, langevin.sample(denoiser, start=start, steps=steps, batch=n)) for steps in (2, 32)
    )
    assert few > 2 * tv_floor(world, n)
    assert many < tv_floor(world, n) + 1.5 * few * 2 / 32


def test_phase_space_is_exact_in_any_number_of_steps():
    world, n = worlds.random_mixture(2, components=4, rms=0.7, seed=2), 2000
    process = processes.PhaseSpace()
    for steps in (1, 5):
        start = world.sample(n, 1, process=process, t=1.0)
        assert start.shape == (n, 2, 2)
        x = langevin.sample(world.denoiser(process), samplers.Ancestral(), start=start, steps=steps)
        assert x.shape == (n, 2)
        assert sliced_w2(x, world.sample(n, 77)) < w2_floor(world, n)


@pytest.mark.slow
def test_phase_space_flow_has_order_two():
    """Heun on the probability flow of (x, v) against a 1e-12 reference: slope 2 ± 0.25."""
    from support import flow_reference

    world, process = worlds.random_mixture(2, components=3, rms=0.7, seed=2), processes.PhaseSpace()
    start = world.sample(8, 1, process=process, t=0.9)
    reference = flow_reference(world.denoiser(process), start, 0.9, 0.1)
    errors = []
    for n in (64, 128, 256):
        grid = torch.linspace(0.9, 0.1, n + 1, dtype=F64)
        *_, last = langevin.trajectory(world.denoiser(process), samplers.Heun(), grid=grid, start=start)
        errors.append(float((last.x - reference).abs().median()))
    assert abs(math.log2(errors[0] / errors[-1]) / 2 - 2) < 0.25


@pytest.mark.parametrize("theta", [0.05, 0.5])
def test_gamma_noise_is_exact_in_any_number_of_steps(theta):
    """Points −1, 0.2 and 1.5 with their weights, through skewed noise and back: frequencies within 4.5 binomial sd."""
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    points = torch.tensor([[-1.0], [0.2], [1.5]], dtype=F64)
    world, n = worlds.Empirical(points, weights), 4000
    process = processes.GammaNoise(theta=theta)
    for steps in (1, 4):
        start = world.sample(n, 3, process=process, t=1.0)
        x = langevin.sample(world.denoiser(process), start=start, steps=steps)
        nearest = (x - points[:, 0]).abs().argmin(1)
        share = torch.bincount(nearest, minlength=3) / n
        assert ((share - weights).abs() < 4.5 * torch.sqrt(weights * (1 - weights) / n)).all()
        torch.testing.assert_close(x, points[nearest], rtol=0, atol=1e-9)


def test_langevin_has_its_own_stationary_law():
    """On N(0, C) each coordinate of the chain x ← x + a/2·(−x/c) + √a z is an AR(1) with variance c/(1 − a/4c).

    Run 400 steps of a/c = 0.4: correlation 0.8 a step, so the start is forgotten and N chains are N independent draws,
    whose variance is known to ±4·√(2/N).
    """
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[0.5, 2.0]]))
    process, n = processes.VE(), 4000
    t = process.time(torch.tensor(0.0, dtype=F64))  # σ = 1
    c = torch.tensor([0.5, 2.0], dtype=F64) + 1
    start = 3 + torch.zeros(n, 2, dtype=F64)
    rule = samplers.Langevin(steps=400, step_size=0.6)
    state = rule.step(samplers.State(start, t), t, world.denoiser(process), Noise(1, n))
    expected = c / (1 - 0.6 / (4 * c))
    assert ((state.x.var(0) / expected - 1).abs() < 4 * math.sqrt(2 / n)).all()
    assert (state.x.mean(0).abs() < 4 * torch.sqrt(expected / n)).all()


def test_annealed_langevin_reaches_the_mixture():
    """Alone, over 30 levels with 15 steps of ε = 0.2 each, it comes to the mixture (final denoise at σ = σ_min)."""
    world, n = worlds.ring(5, 1.0, 0.2), 1500
    process = processes.VE(sigma_min=0.02, sigma_max=5.0)
    start = world.sample(n, 1, process=process, t=1.0)
    grid = samplers.grids.log_snr(process, 30)
    x = langevin.sample(world.denoiser(process), samplers.Langevin(15, 0.2), start=start, grid=grid, batch=n)
    # Stationary laws of each level are too wide by ε/4 = 5 % of σ_s²: 1e-5 in units of the data at the end.
    assert sliced_w2(x, world.sample(n, 77)) < w2_floor(world, n)


def test_combinators():
    """`then` is two steps, `repeat` many; memories stay apart; every part draws noise of its own."""
    world, process = worlds.ring(), processes.VP()
    denoiser, n = world.denoiser(process), 64
    grid = samplers.grids.karras(process, 6)
    both = samplers.DPMSolverPP().then(samplers.Langevin(1, 0.05)).then(samplers.Langevin(1, 0.05))
    x = langevin.sample(denoiser, both, n=n, grid=grid)
    assert x.isfinite().all()
    plain = langevin.sample(denoiser, samplers.DDIM(), n=n, grid=grid)
    idle = langevin.sample(denoiser, samplers.DDIM().then(samplers.Langevin(1, 1e-12)), n=n, grid=grid)
    torch.testing.assert_close(idle, plain, rtol=0, atol=1e-4)
    seen = []

    class Draws(samplers.Sampler):
        def step(self, state, s, denoiser, noise):
            seen.append(float(noise.normal((1,))[0]))
            return state.move(state.x, s)

    langevin.sample(denoiser, Draws().repeat(3).then(Draws()), n=1, steps=2)
    assert len(seen) == len(set(seen)) == 8


def test_ddim_inverts():
    """Up and down again comes back to the start, to the first order of the solver: error halves with the steps."""
    world, process = worlds.random_mixture(4, components=3, rms=0.7, seed=3), processes.VP()
    x0 = world.sample(32, 5)
    denoiser, gaps = world.denoiser(process), []
    for n in (100, 200):
        down = process.time(torch.linspace(-6, 6, n + 1, dtype=F64))
        *_, top = langevin.trajectory(denoiser, samplers.DDIM(), grid=down.flip(0), start=x0)
        *_, back = langevin.trajectory(denoiser, samplers.DDIM(), grid=down, start=top.x)
        gaps.append(float((back.x - x0).abs().median()))
    assert gaps[1] < 0.65 * gaps[0]
    assert gaps[1] < 0.02


def test_gradients_flow_through_the_loop():
    """`trajectory` does not switch gradients off; `sample` does."""
    world, process = worlds.ring(), processes.VP()
    start = world.sample(4, process=process, t=0.5).requires_grad_()
    *_, last = langevin.trajectory(world.denoiser(process), samplers.DDIM(), grid=[0.5, 0.2, 0.0], start=start)
    (gradient,) = torch.autograd.grad(last.x.sum(), start)
    assert gradient.abs().sum() > 0
    assert not langevin.sample(world.denoiser(process), start=start, grid=[0.5, 0.0]).requires_grad


def test_labels_stay_with_their_samples():
    """A label a sample, cut with the batch: each sample lands on its own component."""
    world = worlds.ring(8, 1.0, 0.02)
    label = torch.arange(37) % 8
    for process in (processes.EDM(), processes.VP()):
        x = langevin.sample(world.denoiser(process).given(label=label), n=37, steps=8, batch=5)
        nearest = (x[:, None] - world.means).norm(dim=-1).argmin(1)
        assert (nearest == label).all()


def test_guided_steps_ask_once_and_count_twice():
    """Classifier-free guidance is one batched call a step, and two evaluations in the count."""
    world, process = worlds.ring(), processes.EDM()
    denoiser = oracle(world, process, "edm")
    langevin.sample(classifier_free(denoiser, label=2, guidance_scale=2.0), n=4, steps=5)
    network = denoiser.network
    assert isinstance(network, OracleNetwork)
    assert network.calls == 5
    assert denoiser.counter.calls == 10


def test_stable_defaults():
    """What is picked when nothing is named."""
    assert samplers.default_sampler(processes.VP()) == samplers.GaussianRemainder()
    assert isinstance(samplers.default_sampler(processes.Absorbing(3)), samplers.Ancestral)
    assert samplers.default_sampler(processes.PhaseSpace()) == samplers.PhaseProjected()
    world = worlds.ring()
    x = langevin.sample(world.denoiser(processes.EDM()), n=64)
    assert x.shape == (64, 2)
    assert world.log_prob(x).median() > world.log_prob(world.sample(2000)).quantile(0.01)


def test_refusals():
    """Each names the argument, what came, and what is accepted."""
    world = worlds.ring()
    gaussian, tokens = world.denoiser(processes.VP()), table().denoiser(processes.Absorbing(3))
    cases = [
        (lambda: langevin.sample(gaussian, "dpmpp2m"), "Did you mean 'dpmpp-2m'"),
        (lambda: langevin.sample(gaussian, grid="karas"), "Did you mean 'karras'"),
        (lambda: langevin.sample(gaussian, steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: langevin.sample(gaussian, n=0), "n must be"),
        (lambda: langevin.sample(gaussian, batch=0), "batch must be"),
        (lambda: langevin.sample(gaussian, seed=-1), "seed must be"),
        (lambda: langevin.sample(gaussian, steps=3, grid=[1.0, 0.0]), "contradicts"),
        (lambda: langevin.sample(gaussian, n=3, start=torch.zeros(2, 2)), "agree"),
        (
            lambda: langevin.sample(gaussian, start=torch.zeros(2, 2), grid=[0.5, 0.8], sampler=samplers.DDIM(1.0)),
            "eta",
        ),
        (lambda: langevin.sample(gaussian, start=torch.zeros(2, 2), grid=[0.0, 0.8], sampler=samplers.DDIM()), "t_min"),
        (lambda: langevin.sample(gaussian, samplers.EulerMaruyama(), grid=[0.2, 0.5]), "decrease"),
        (lambda: langevin.sample(tokens, samplers.DDIM()), "DDIM needs"),
        (lambda: langevin.sample(tokens, samplers.Euler()), "velocity"),
        (lambda: langevin.sample(tokens, grid="karras"), "karras"),
        (lambda: samplers.DDIM(eta=1.5), "or be 'hat', got 1.5"),
        (lambda: samplers.DPMSolverPP(order=5), "order must be 1, 2, 3 or 4, got 5"),
        (lambda: samplers.Langevin(steps=0), "steps must be"),
        (lambda: samplers.Langevin(step_size=3.0), "step_size"),
        (lambda: samplers.create_sampler("ddim", sigma=1), "ddim"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    flow = world.denoiser(processes.RectifiedFlow())
    with pytest.raises(UserError, match="infinite at t = 1"):
        langevin.sample(flow, samplers.EulerMaruyama(), grid=[1.0, 0.5, 0.0])


def test_grid_must_fall_to_draw():
    """Without a start there is only one way; with one, a grid may go up (encoding)."""
    denoiser = worlds.ring().denoiser(processes.VP())
    with pytest.raises(ValueError, match=r"grid must decrease strictly to draw data; grid\[2\] = 0.6 follows"):
        langevin.sample(denoiser, n=2, grid=[1.0, 0.5, 0.6, 0.0])
    up = langevin.sample(denoiser, samplers.DDIM(), start=torch.zeros(2, 2), grid=[0.1, 0.5])
    assert up.shape == (2, 2)


def test_state_takes_the_dtype_of_the_network():
    """float32 for a float32 network or a smaller one, float64 for an exact world; a start of any dtype is taken."""
    start = torch.zeros(2, 2, dtype=torch.float64)
    exact = worlds.ring().denoiser(processes.VP())
    *_, last = langevin.trajectory(exact, samplers.DDIM(), grid=[0.5, 0.1], start=start.float())
    assert last.x.dtype == torch.float64
    for dtype, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (F64, F64)):
        network = langevin.nn.create_network(langevin.nn.default((2,))).to(dtype)
        denoiser = NetworkDenoiser(network, processes.VP(), AffineParameterization("v"), (2,))
        for sampler in (samplers.DDIM(), samplers.UniPC(2), samplers.Heun(), samplers.Ancestral()):
            *_, last = langevin.trajectory(denoiser, sampler, grid=[0.5, 0.3, 0.1], start=start)
            assert last.x.dtype == expected


def test_steps_that_would_change_nothing():
    """Solvers that choose their own steps take no number of them."""
    denoiser = worlds.ring().denoiser(processes.VP())
    for sampler in ("dpm-23", "rk45", "dpm-fast"):
        with pytest.raises(UserError, match="steps must be left out"):
            langevin.sample(denoiser, sampler, n=2, steps=12)
    assert langevin.sample(denoiser, "dpm-fast", n=2).shape == (2, 2)


def test_a_plan_is_the_request_it_was_made_of():
    """To the bit; it says its steps, and what contradicts it is refused."""
    denoiser = worlds.ring().denoiser(processes.VP())
    for asked, steps in ((None, 4), ("heun", 4), ("dpm-23", None)):
        plan = samplers.resolve(denoiser, asked, steps=steps)
        assert torch.equal(langevin.sample(denoiser, plan, n=2), langevin.sample(denoiser, asked, n=2, steps=steps))
        assert (plan.steps, plan.learned, plan.stages) == (steps or 1, False, (plan,))
    assert samplers.resolve(denoiser, samplers.DDIM(), grid=[1.0, 0.5, 0.0]).steps == 2
    own = samplers.resolve(denoiser, samplers.GaussianRemainder(), steps=4)
    assert own.sampler.frame is not None  # of this model's data, which the times depend on
    assert torch.equal(own.grid, own.sampler.default_grid(denoiser.process, 4))
    for more in ({"steps": 4}, {"grid": "karras"}, {"tolerance": 0.1}):
        with pytest.raises(UserError, match="plan"):
            langevin.sample(denoiser, plan, **more)
    up = samplers.resolve(denoiser, samplers.DDIM(), grid=[0.1, 0.5], upwards=True)
    with pytest.raises(UserError, match="grid must decrease strictly to draw data"):
        langevin.sample(denoiser, up)
    assert langevin.sample(denoiser, up, start=torch.zeros(2, 2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"n": 10**12},
            r"1000000000000 samples of shape \(2,\) would take .* TiB of memory, at most .* are accepted here",
        ),
        ({"steps": 10**11}, r"a grid of 100000000000 steps would take .* TiB of memory, at most .* are accepted here"),
        ({"steps": 10**11, "grid": "uniform"}, r"a grid of 100000000000 steps would take"),
    ],
)
def test_more_than_memory_holds_is_refused_with_both_numbers(asked, said):
    """Without this the first tensor of that size is asked of the system, which says no, or ends the process."""
    with pytest.raises(UserError, match=said):
        langevin.sample(worlds.ring().denoiser(processes.VP()), **asked)


def test_samples_that_are_not_finite_are_not_handed_out():
    """One of them among others, whatever the sum of the others; what is finite passes, even where its sum is not."""
    denoiser = worlds.ring().denoiser(processes.EDM())

    @dataclass(frozen=True, eq=False)
    class Broken(Transform):
        value: float = math.nan

        def __call__(self, x_t, t):
            mean = self.base(x_t, t).mean
            mean[1] = self.value
            return Dirac(mean)

    for value in (math.nan, math.inf):
        with pytest.raises(UserError, match="1 of 4 samples are not finite, 1 first"):
            langevin.sample(Broken(denoiser, value), samplers.DDIM(), n=4, steps=2)
    assert langevin.sample(Broken(denoiser, 1e308), samplers.DDIM(), n=4, steps=1)[1].isfinite().all()


@pytest.mark.parametrize(
    ("written", "meant"), [("dpm++", "dpmpp-2m"), ("dpmpp_2m_sde", "dpmpp-2m-sde"), ("DDIM", "ddim"), ("eulr", "euler")]
)
def test_names_from_elsewhere_are_understood(written, meant):
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        langevin.sample(worlds.ring().denoiser(processes.VP()), written, n=2, steps=2)
