"""Chains at one noise level: their stationary laws on Gaussians in closed form, and on mixtures by their CDF."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from scipy.linalg import expm, solve_discrete_lyapunov

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Denoiser, Transform
from langevin.distributions import Dirac, Stream
from support import oracle

F64 = torch.float64
VE = processes.VE()
ONE = VE.time(torch.tensor(0.0, dtype=F64))  # σ = 1


def run(rule, denoiser, start, t=ONE, seed=1):
    return rule.step(samplers.State(start, t), t, denoiser, Noise(seed, len(start))).x


def hills():
    """Two unequal hills on a line, and their CDF at σ = 1."""
    world = worlds.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-3.0], [2.0]]), torch.tensor([0.2, 0.5]))
    spread = [math.sqrt(0.2 + 1), math.sqrt(0.5 + 1)]
    cdf = lambda x: 0.3 * stats.norm.cdf(x, -3, spread[0]) + 0.7 * stats.norm.cdf(x, 2, spread[1])
    return world, cdf


@pytest.mark.parametrize("matrix", [None, [[1.2, 0.5], [-0.4, 0.7]], [[0.3, 0.0], [0.9, 1.1]]])
def test_preconditioned_langevin(matrix):
    """On N(0, C) the chain is linear: its covariance Σ solves Σ = A Σ Aᵀ + a M Mᵀ with A = 1 − ½ a M Mᵀ C⁻¹.

    Σ → C as a → 0 for every M; at a = 0.4 we compare with Σ itself. After 120 steps A^120 is below 1e-3 in each of the
    cases (the slowest rate is 1 − 0.2·0.3²…), so that N chains are N draws and each entry is known to
    4 √((Σ_ii Σ_jj + Σ_ij²)/N).
    """
    n, c = 4000, torch.tensor([[0.5, 0.3], [0.3, 1.0]], dtype=F64)
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), c[None])
    m = torch.eye(2, dtype=F64) if matrix is None else torch.tensor(matrix, dtype=F64)
    kept = {} if matrix is None else {"filter": samplers.Matrix(m)}
    x = run(samplers.Langevin(120, 0.4, **kept), world.denoiser(VE), world.sample(n, 3, process=VE, t=ONE))
    noised = c + torch.eye(2, dtype=F64)
    a = torch.eye(2, dtype=F64) - 0.2 * m @ m.T @ torch.linalg.inv(noised)
    expected = torch.as_tensor(solve_discrete_lyapunov(a.numpy(), 0.4 * (m @ m.T).numpy()))
    scale = torch.sqrt((expected.diag()[:, None] * expected.diag() + expected**2) / n)
    assert ((torch.cov(x.T) - expected).abs() < 4.5 * scale).all()
    # and M = anything has the same limit: the Lyapunov equation at a small step
    tiny = torch.as_tensor(
        solve_discrete_lyapunov(
            (torch.eye(2) - 5e-4 * m @ m.T @ torch.linalg.inv(noised)).numpy(), 1e-3 * (m @ m.T).numpy()
        )
    )
    torch.testing.assert_close(tiny, noised, rtol=2e-3, atol=2e-3)


class Spectrum(Denoiser):
    """N(0, F⁻¹ diag(c) F) on images: the belief's mean is a filter of the state."""

    def __init__(self, process, c):
        self.process, self.c, self.shape = process, c, (2, *c.shape)

    def __call__(self, x_t, t):
        a, v = self.process.alpha(t), self.process.sigma2(t)
        return Dirac(samplers.Frequency(a * self.c / (a**2 * self.c + v))(x_t))


def test_frequency_filter():
    """Symmetric; square is twice the filter; each wave is multiplied by its gain; real; gains of a set are its own."""
    height, width = 6, 5
    gain = samplers.Frequency.radial(height, width, low=2.0, high=0.5, radius=0.3)
    x, y = Noise(1, 3).normal((2, height, width)), Noise(2, 3).normal((2, height, width))
    torch.testing.assert_close((gain(x) * y).sum(), (x * gain(y)).sum())
    torch.testing.assert_close(gain.square(x), gain(gain(x)))
    rows, columns = torch.meshgrid(*(torch.arange(v, dtype=F64) for v in (height, width)), indexing="ij")
    for ky, kx in ((0, 0), (1, 0), (0, 2), (2, 1), (3, 2)):
        wave = torch.cos(2 * math.pi * (ky * rows / height + kx * columns / width)).expand(1, 1, -1, -1)
        inside = (ky / height) ** 2 + (kx / width) ** 2 <= 0.09
        torch.testing.assert_close(gain(wave), (2.0 if inside else 0.5) * wave, rtol=0, atol=1e-12)
    images = samplers.Frequency(gain.gain)(Noise(3, 4000).normal((1, height, width)))
    found = samplers.Frequency.of(images).gain[0]
    # |F|² of one image is exponential (χ²₂/2; χ²₁ where it is real): a mean of 4,000 has a relative sd ≤ √(2/4000)
    expected = gain.gain / torch.sqrt((gain.gain**2).mean())
    assert ((found / expected) ** 2 - 1).abs().max() < 5 * math.sqrt(2 / 4000)


def test_frequency_preconditioner_keeps_the_spectrum():
    """Image by image: each frequency is an AR(1) with power c/(1 − a R²/4c), c the noised power, a the step.

    At a = 0.3 and R ≤ 1.5 that is c up to a few per cent, for every R. Powers of n·C = 1,200 images of each of 48
    frequencies: a relative sd of at most √(2/1200), 5 of them are passed by all with probability 1 − 3e-5.
    """
    height, width, n, step = 8, 6, 600, 0.3
    fy, fx = torch.fft.fftfreq(height, dtype=F64)[:, None], torch.fft.fftfreq(width, dtype=F64)
    c = 4 / (0.3 + 20 * (fy**2 + fx**2))
    gain = samplers.Frequency.radial(height, width, low=1.5, high=0.8, radius=0.3)
    rule = samplers.PreconditionedLangevin(gain, steps=250, step_size=step)
    start = samplers.Frequency(torch.sqrt(c + 1))(Noise(9, n).normal((2, height, width)))
    x = run(rule, Spectrum(VE, c), start)
    power = torch.fft.fft2(x, norm="ortho").abs().square().mean((0, 1))
    expected = (c + 1) / (1 - step * gain.gain**2 / (4 * (c + 1)))
    assert (power / expected - 1).abs().max() < 5 * math.sqrt(2 / (2 * n))


def test_snr_rule():
    """Algorithm 4 of arXiv:2011.13456 for one sample: ε = 2 (r ‖z‖/‖g‖)², x + ε g + √(2ε) z; each sample by itself."""
    world, r = worlds.ring(), 0.16
    x, noise = world.sample(3, 2, process=VE, t=ONE), Noise(1, 3)
    rule = samplers.Langevin(2, snr=r)
    got = rule.step(samplers.State(x, ONE), ONE, world.denoiser(VE), noise).x
    for i in range(2):
        z, g = noise.fold_in(i).normal((2,)), world.score(x, VE, ONE)
        eps = 2 * (r * z.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True)) ** 2
        x = x + eps * g + torch.sqrt(2 * eps) * z
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [processes.VP(), processes.RectifiedFlow()], ids=str)
def test_a_chain_at_another_level_starts_from_the_scaled_state(process):
    """Going from t to s multiplies x by α_s/α_t and adds nothing: the chain is that of a state which stood at s."""
    world, rule = worlds.ring(), samplers.Langevin(3)
    t, s = (torch.tensor(v, dtype=F64) for v in (0.7, 0.4))
    x, noise = world.sample(4, 2, process=process, t=t), Noise(0, 4)
    went = rule.step(samplers.State(x, t), s, world.denoiser(process), noise).x
    stood = rule.step(samplers.State(x * process.alpha(s) / process.alpha(t), s), s, world.denoiser(process), noise).x
    torch.testing.assert_close(went, stood, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [samplers.Langevin(2), samplers.MALA(2), samplers.MomentumLangevin(2)], ids=repr)
def test_at_clean_data_a_chain_ends_in_the_mean_or_stays(rule):
    """To t = 0, where the score has no scale, a step is the posterior mean; from there it has nothing to do."""
    world, zero = worlds.ring(), torch.tensor(0.0, dtype=F64)
    x, denoiser = world.sample(4, 2, process=VE, t=ONE), world.denoiser(VE)
    arrived = rule.step(samplers.State(x, ONE), zero, denoiser, Noise(0, 4))
    torch.testing.assert_close(arrived.x, denoiser(x, ONE).mean)
    assert rule.step(samplers.State(x, zero), zero, denoiser, Noise(0, 4)).x is x


class Shrunk(Transform):
    """A belief that is wrong beside a density that is right."""

    def __call__(self, x_t, t):
        return Dirac(0.6 * self.base(x_t, t).mean - 0.2)

    def log_density(self, x_t, t):
        return self.base.log_density(x_t, t)


@pytest.mark.parametrize("wrong", [False, True])
def test_mala_is_exact(wrong):
    """4,000 chains on two hills, of steps so large that Langevin without the test is far off: KS against the true CDF.

    Chains that start in the truth stay in it; those that start in a point between the hills get there in 150 steps. A
    wrong score costs speed, not truth. The p-value is below 1e-4 once in ten thousand seeds.
    """
    world, cdf = hills()
    denoiser = Shrunk(world.denoiser(VE)) if wrong else world.denoiser(VE)
    start = world.sample(4000, 3, process=VE, t=ONE)
    far = torch.zeros_like(start)
    for begin, steps in ((start, 10), (far, 150)):
        x = run(samplers.MALA(steps, 1.8), denoiser, begin)
        assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-4
    x = run(samplers.Langevin(10, 1.8), denoiser, start)
    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue < 1e-4


def test_a_step_of_mala_is_langevins_or_none():
    """x + a/2 ∇log p + √a z with a = ε σ_s², where it is taken."""
    world, noise = worlds.ring(5, 1.0, 0.25), Noise(3, 50)
    q, s, eps = processes.EDM(0.02, 5.0), torch.tensor(0.05, dtype=torch.float64), 4.0
    denoiser, x = world.denoiser(q), world.sample(50, 1, process=q, t=s)
    z = noise.fold_in(Stream.LANGEVIN).normal((2,))
    a = eps * float(q.sigma2(s))
    proposed = x + a / 2 * q.score(x, denoiser(x, s), s) + math.sqrt(a) * z
    moved = samplers.MALA(1, eps).step(samplers.State(x, s), s, denoiser, noise).x
    taken = (moved != x).all(1)
    assert 5 < int(taken.sum()) < 50
    torch.testing.assert_close(moved[taken], proposed[taken], rtol=1e-12, atol=1e-12)
    assert torch.equal(moved[~taken], x[~taken])


def test_mala_needs_a_density():
    world = worlds.ring()
    with pytest.raises(UserError, match="needs a denoiser with `log_density`, which NetworkDenoiser does not"):
        langevin.sample(oracle(world, VE, "x0"), samplers.MALA(), n=2)


@pytest.mark.parametrize("process", [VE, processes.VP(), processes.RectifiedFlow()], ids=str)
def test_log_density_is_that_of_the_score(process):
    """∇ log p_t by autograd is the score of the belief; given a label it is that of its components."""
    world, t = worlds.random_mixture(3, components=4, seed=2), torch.tensor(0.4, dtype=F64)
    for denoiser in (world.denoiser(process), world.denoiser(process).given(label=2)):
        x = world.sample(5, 1, process=process, t=t).requires_grad_()
        (slope,) = torch.autograd.grad(denoiser.log_density(x, t).sum(), x)
        x = x.detach()
        torch.testing.assert_close(slope, process.score(x, denoiser(x, t), t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(world.denoiser(process).log_density(x, t), world.log_prob(x, process, t))


@pytest.mark.parametrize("step", [0.5, 1.5])
@pytest.mark.parametrize("friction", [0.5, 3.0])
def test_momentum_langevin_is_exact_on_gaussians(step, friction):
    """BAOAB has the exact variance of x at any stable step; Langevin of the same reach, ε = h², is 1/(1 − h²/4c) wide.

    Positions forget at a rate of at least min(γ, 1/γ)/c per unit of time, so 200 steps of h ≥ 0.5 are N fresh draws.
    """
    n, c = 4000, torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    world = worlds.GaussianMixture(torch.ones(1), torch.tensor([[0.3, 0.0, -1.0]]), torch.diag(c)[None])
    rule = samplers.MomentumLangevin(200, step, friction)
    x = run(rule, world.denoiser(VE), torch.zeros(n, 3, dtype=F64))
    assert ((x.var(0) / (c + 1) - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
    assert ((x.mean(0) - world.mean).abs() < 4.5 * torch.sqrt((c + 1) / n)).all()


class Quiet(Noise):
    """No noise: what is left of a chain is its mean."""

    def fold_in(self, word):
        return self

    def normal(self, shape):
        return torch.zeros(len(self), *shape, dtype=F64)


@pytest.mark.parametrize("friction", [0.4, 2.0])
def test_momentum_langevin_moves_as_its_equation_says(friction):
    """On N(0, c) the means of x and v go as dx = σ v dt, dv = (σ score − γ v) dt say: by the exponential of a matrix.

    σ = 2 here, so that the units of γ and of the score count. BAOAB is of order 2: over T = 2 the error falls to a
    quarter with half the step, to within the next term, a tenth at h ≤ 0.1.
    """
    sigma, c, end = 2.0, 1.5, 2.0
    t = VE.time(torch.tensor(-2 * math.log(sigma), dtype=F64))
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1,), c))
    x, v = torch.tensor([[1.0], [-0.3]], dtype=F64), torch.tensor([[0.7], [1.1]], dtype=F64)
    slopes = torch.tensor([[0.0, sigma], [-sigma / (c + sigma**2), -friction]], dtype=F64)
    truth = torch.cat((x, v), 1) @ torch.as_tensor(expm(end * slopes.numpy())).T
    errors = []
    for h in (0.1, 0.05):
        rule = samplers.MomentumLangevin(round(end / h), h, friction)
        state = rule.step(samplers.State(x, t, v), t, world.denoiser(VE), Quiet(0, 2))
        errors.append(float((torch.cat((state.x, state.memory), 1) - truth).abs().max()))
    assert errors[0] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_momentum_langevin_beats_langevin_on_hills():
    """KS at a reach of h = 1.3 on two hills, chains started in the truth: BAOAB passes, Langevin with ε = h² fails."""
    world, cdf = hills()
    start = world.sample(4000, 3, process=VE, t=ONE)
    x = run(samplers.MomentumLangevin(30, 1.3), world.denoiser(VE), start)
    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-4
    x = run(samplers.Langevin(30, 1.3**2), world.denoiser(VE), start)
    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue < 1e-4


def test_momentum_is_kept_and_evaluations_counted():
    """The velocity goes from level to level, and a step of the chain asks once beside the first."""
    asked = []

    class Seen(Transform):
        def __call__(self, x_t, t):
            asked.append(float(t))
            return self.base(x_t, t)

    denoiser = Seen(worlds.ring().denoiser(VE))
    start = torch.zeros(3, 2, dtype=F64)
    rule, noise = samplers.MomentumLangevin(3, 0.4), Noise(0, 3)
    first = rule.step(samplers.State(start, ONE), ONE, denoiser, noise)
    assert len(asked) == 4
    assert first.memory.shape == start.shape
    second = rule.step(first, ONE / 2, denoiser, noise)
    fresh = rule.step(samplers.State(first.x, ONE), ONE / 2, denoiser, noise)
    assert not torch.allclose(second.x, fresh.x)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: samplers.Langevin(snr=0.0), "snr must be > 0"),
        (lambda: samplers.Langevin(steps=0), "steps must be an integer"),
        (lambda: samplers.MALA(step_size=0.0), "step_size must be > 0"),
        (lambda: samplers.MALA(0), "steps must be an integer"),
        (lambda: samplers.MomentumLangevin(step_size=2.0), r"step_size must lie in \(0, 2\)"),
        (lambda: samplers.MomentumLangevin(friction=0.0), "friction must be > 0"),
        (lambda: samplers.MomentumLangevin(0), "steps must be an integer"),
    ],
)
def test_refuses_settings(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_refuses_a_filter_of_another_size():
    world = worlds.ring()
    for wrong in (samplers.Matrix(torch.eye(3)), samplers.Frequency(torch.ones(4, 4))):
        with pytest.raises(UserError, match="must"):
            run(samplers.Langevin(filter=wrong), world.denoiser(VE), torch.zeros(2, 2, dtype=F64))
