"""Denoising MCMC and boomerang, chains over data and noise level: exact laws on Gaussians and hills."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from support import log_prob_gap, oracle, sliced_w2, w2_floor

F64 = torch.float64
PROCESSES = {"vp": processes.VP(), "edm": processes.EDM(0.02, 5.0), "flow": processes.RectifiedFlow()}


def hills():
    return worlds.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [1.0]]), torch.tensor([0.05, 0.2]))


def cdf(y, a, v):
    """Of the hills at α = a, σ² = v."""
    parts = ((0.3, -2, 0.05), (0.7, 1, 0.2))
    return sum(w * stats.norm.cdf(y, a * m, math.sqrt(a**2 * c + v)) for w, m, c in parts)


@pytest.mark.parametrize("process", PROCESSES)
def test_joint_law_of_the_chain(process):
    """Every level equally often, and at each the law of x is p_t: 3,000 chains of 80 steps over 5 levels.

    Counts are binomial (5 sd); x at each level by KS against the mixture's CDF, p > 1e-4. The start, p_t of the top
    level, is far from the joint law: the chain has to bring it there.
    """
    q, world, n = PROCESSES[process], hills(), 3000
    top, bottom = q.log_snr(0.9), q.log_snr(0.05)
    times = q.time(torch.linspace(0, 1, 5, dtype=F64) * (bottom - top) + top)[:, None].expand(5, n)
    rule = samplers.DenoisingMCMC(chain=80, levels=5)
    x, t = rule._walk(world.sample(n, 1, process=q, t=times[0, 0]), times, world.denoiser(q), Noise(2, n))
    for time in times[:, 0]:
        here = t == time
        assert abs(int(here.sum()) - n / 5) < 5 * math.sqrt(n * 0.2 * 0.8)
        a, v = float(q.alpha(time)), float(q.sigma2(time))
        assert stats.kstest(x[here, 0].numpy(), cdf, args=(a, v)).pvalue > 1e-4


@pytest.mark.parametrize("process", ["vp", "edm"])
def test_denoising_mcmc_reaches_the_data(process):
    """With exact denoising steps the outcome has the law of the data, from a start that is another law altogether."""
    q, n = PROCESSES[process], 1000
    world = worlds.ring(5, 1.0, 0.25)
    rule = samplers.DenoisingMCMC(chain=60, levels=6, denoise=2, solver=samplers.Ancestral())
    start = torch.zeros(n, 2, dtype=F64)
    x = langevin.sample(world.denoiser(q), rule, start=start, grid=[q.t_max, 0.0], batch=n)
    assert sliced_w2(x, world.sample(n, 77)) < w2_floor(world, n, 16)
    assert log_prob_gap(world, x) < 4


def test_denoising_mcmc_with_a_posterior_asks_no_density():
    """A network and the level's posterior as a function, as in the paper: unadjusted, so steps are small here.

    The chain's stationary variance is too wide by ε/4 of a level's: 5 % of σ² at ε = 0.2, of which the data see
    less than the floor.
    """
    q, world, n = PROCESSES["edm"], worlds.ring(5, 1.0, 0.25), 1000
    network = oracle(world, q, "x0")
    posterior = lambda x, t: world.log_prob(x, q, t)
    rule = samplers.DenoisingMCMC(60, 6, 0.2, 6, samplers.Heun(), posterior)
    start = world.sample(n, 3, process=q, t=q.t_max)
    x = langevin.sample(network, rule, start=start, grid=[q.t_max, 0.0], batch=n)
    assert sliced_w2(x, world.sample(n, 77)) < w2_floor(world, n, 16)
    with pytest.raises(UserError, match="denoising MCMC without a posterior needs a denoiser with `log_density`"):
        langevin.sample(network, samplers.DenoisingMCMC(), n=2)


def test_a_step_of_the_chain_is_langevins_on_its_level():
    """x + a/2 ∇log p_t(x) + √a z with a = ε σ_t², on the noise that is given."""
    q, world, noise, eps = PROCESSES["edm"], worlds.ring(5, 1.0, 0.25), Noise(3, 4), 0.2
    denoiser, t = world.denoiser(q), torch.tensor(0.05, dtype=torch.float64)
    rule = samplers.DenoisingMCMC(6, 3, eps, 3, samplers.Heun(), lambda x, t: world.log_prob(x, q, t))
    x = world.sample(4, 1, process=q, t=t)
    a = eps * float(q.sigma(t)) ** 2
    expected = x + a / 2 * q.score(x, denoiser(x, t), t) + math.sqrt(a) * noise.normal((2,))
    torch.testing.assert_close(rule._langevin(x, t, denoiser, noise), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", [0.4, 1.0])
def test_the_chain_begins_at_the_time_of_its_state(start):
    """The first thing asked of the belief is the score of the start itself."""
    q, world = PROCESSES["edm"], worlds.ring(5, 1.0, 0.25)
    denoiser, x = world.denoiser(q), world.sample(4, 1, process=q, t=start)
    asked = []

    class Told(langevin.denoisers.Transform):
        def __call__(self, x_t, t):
            asked.append((x_t, torch.as_tensor(t).expand(len(x_t))))
            return self.base(x_t, t)

    rule = samplers.DenoisingMCMC(2, 3, posterior=lambda x, t: world.log_prob(x, q, t))
    rule.step(
        samplers.State(x, torch.tensor(start, dtype=F64)), torch.tensor(0.0, dtype=F64), Told(denoiser), Noise(0, 4)
    )
    assert torch.equal(asked[0][0], x)
    torch.testing.assert_close(asked[0][1], torch.full((4,), start, dtype=F64), rtol=1e-9, atol=0)


def test_denoising_mcmc_on_any_process_split_and_step():
    """The same samples for any split; several grid steps; any number of denoising steps."""
    for q in PROCESSES.values():
        denoiser = hills().denoiser(q)
        for rule in (samplers.DenoisingMCMC(3, 3), samplers.DenoisingMCMC(2, 2, denoise=1)):
            whole = langevin.sample(denoiser, rule, n=5, grid=[q.t_max, 0.4, 0.0])
            assert whole.isfinite().all()
            split = langevin.sample(denoiser, rule, n=5, grid=[q.t_max, 0.4, 0.0], batch=2)
            torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_local_marginal(process, time):
    """On N(m, c) the outcome for a given x_0 is normal: mean m + kα(x_0 − m), variance v + k²σ², where
    k = αc/(α²c + σ²) and v = cσ²/(α²c + σ²) are the gain and variance of the belief at the top. To 4.5 standard errors.
    """
    q, n, m, c, x0 = PROCESSES[process], 4000, 0.5, 0.3, -0.8
    world = worlds.GaussianMixture(torch.ones(1), torch.tensor([[m]]), torch.tensor([[c]]))
    x = samplers.boomerang(world.denoiser(q), torch.full((n, 1), x0, dtype=F64), time, steps=4)
    a, s2 = float(q.alpha(torch.tensor(time, dtype=F64))), float(q.sigma2(torch.tensor(time, dtype=F64)))
    k, v = a * c / (a**2 * c + s2), c * s2 / (a**2 * c + s2)
    mean, variance = m + k * a * (x0 - m), v + k**2 * s2
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 4.5 * math.sqrt(2 / n)


def test_data_stay_data():
    """From the data's own law to itself, at any height: sliced W2 within the floor."""
    world, n = worlds.ring(5, 1.0, 0.2), 1000
    for time in (0.2, 0.7):
        x = samplers.boomerang(world.denoiser(PROCESSES["vp"]), world.sample(n, 5), time, steps=3)
        assert sliced_w2(x, world.sample(n, 77)) < w2_floor(world, n, 16)


def test_nearer_the_lower():
    """Distances from where it started grow with the height; at a height near t_min the sample is all but the same."""
    world = worlds.ring()
    x0 = world.sample(200, 5)
    distance = [
        float((samplers.boomerang(world.denoiser(PROCESSES["vp"]), x0, t) - x0).norm(dim=1).mean())
        for t in (0.002, 0.1, 0.9)
    ]
    assert distance[0] < 0.05 < distance[1] < distance[2]


@pytest.mark.parametrize("end", [0.0, 0.2])
def test_boomerang_comes_down_in_so_many_steps(end):
    """Asked at times uniform in log-SNR from the top to the end; to clean data, to t_min and from there."""
    q, world, asked = PROCESSES["vp"], worlds.ring(), []

    class Told(langevin.denoisers.Transform):
        def __call__(self, x_t, t):
            asked.append(float(t))
            return self.base(x_t, t)

    start = samplers.State(world.sample(2, 1, process=q, t=0.2), torch.tensor(0.2, dtype=F64))
    rule = samplers.Boomerang(0.6, steps=4)
    made = rule.step(start, torch.tensor(end, dtype=F64), Told(world.denoiser(q)), Noise(0, 2))
    ends = q.log_snr(torch.tensor([0.6, end or q.t_min], dtype=F64))
    count = 5 if end else 4
    expected = q.time(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=F64))[:4]
    torch.testing.assert_close(torch.tensor(asked, dtype=F64), expected, rtol=1e-9, atol=0)
    assert float(made.t) == end


def test_boomerang_of_one_datum_comes_back_to_it():
    """Its last step is to clean data itself, where the belief of a single point is that point."""
    point = worlds.Empirical(torch.tensor([[0.3, -0.2]], dtype=F64))
    x = samplers.boomerang(point.denoiser(PROCESSES["vp"]), torch.tensor([[0.3, -0.2]], dtype=F64), 0.5, steps=3)
    torch.testing.assert_close(x, torch.tensor([[0.3, -0.2]], dtype=F64), rtol=0, atol=1e-12)


def test_boomerang_as_a_corrector():
    """After DDIM in three steps, whose law is off, going up and back twice brings it to the truth's floor."""
    world, n, q = worlds.ring(5, 1.0, 0.2), 1000, PROCESSES["vp"]
    grid = samplers.grids.log_snr(q, 3)
    start = world.sample(n, 5, process=q, t=q.t_max)
    there, floor = world.sample(n, 77), w2_floor(world, n, 16)
    rough = langevin.sample(world.denoiser(q), samplers.DDIM(), start=start, grid=grid, batch=n)
    both = samplers.DDIM().then(samplers.Boomerang(0.6, 3).repeat(2))
    mended = langevin.sample(world.denoiser(q), both, start=start, grid=grid, batch=n)
    assert sliced_w2(rough, there) > 1.5 * floor
    assert sliced_w2(mended, there) < 1.2 * floor


def test_boomerang_below_its_height_only_comes_down():
    """A state above u is brought down by the sampler; one that stands at s above u stays."""
    world, q = worlds.ring(), PROCESSES["vp"]
    x, t = world.sample(4, 5, process=q, t=0.8), torch.tensor(0.8, dtype=F64)
    rule = samplers.Boomerang(0.3, 1)
    state = rule.step(samplers.State(x, t), t, world.denoiser(q), Noise(0, 4))
    assert torch.equal(state.x, x)
    down = rule.step(samplers.State(x, t), torch.tensor(0.5, dtype=F64), world.denoiser(q), Noise(0, 4))
    plain = samplers.Ancestral().step(
        samplers.State(x, t), torch.tensor(0.5, dtype=F64), world.denoiser(q), Noise(0, 4).fold_in(1)
    )
    torch.testing.assert_close(down.x, plain.x)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: samplers.Boomerang(0.0), "time must lie in"),
        (lambda: samplers.Boomerang(0.5, 0), "steps must be an integer"),
        (lambda: samplers.DenoisingMCMC(chain=0), "steps must be an integer"),
        (lambda: samplers.DenoisingMCMC(levels=1), "levels must be an integer"),
        (lambda: samplers.DenoisingMCMC(step_size=0.0), "step_size must be > 0"),
        (lambda: samplers.DenoisingMCMC(denoise=0), "denoise must be an integer"),
        (
            lambda: samplers.boomerang(hills().denoiser(PROCESSES["vp"]), torch.zeros(3, 1), noise=Noise(0, 2)),
            "noise is for 2 samples, but x has 3",
        ),
    ],
)
def test_refuses(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_denoising_mcmc_ends_at_clean_data():
    """Down to s = 0 the last step of DDIM, from ``t_min``, returns the belief's mean there."""
    for q in PROCESSES.values():
        denoiser, t = hills().denoiser(q), torch.tensor(0.6, dtype=F64)
        x = hills().sample(5, 1, process=q, t=t)
        zero = torch.zeros((), dtype=F64)
        end = samplers.DenoisingMCMC(2, 3).step(samplers.State(x, t), zero, denoiser, Noise(0, 5))
        torch.testing.assert_close(end.x, end.belief.mean, rtol=0, atol=1e-12)
