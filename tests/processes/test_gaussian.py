"""x_t = α x_0 + σ ε against forty digits, dense Gaussian algebra, and the papers' own recursions.

It is one file, of more than 400 lines, so that a process stands in its one table once and meets every law.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import pytest
import torch

from langevin import Noise, UserError, worlds
from langevin.distributions import Dirac
from langevin.processes import (
    DDPM,
    EDM,
    VE,
    VP,
    Cosine,
    GammaNoise,
    Learned,
    RectifiedFlow,
    ScalarGaussian,
    SubVP,
    cosine_betas,
    linear_betas,
    require,
    scaled_linear_betas,
    zero_terminal_snr,
)

mp.mp.dps = 40
ULP = 2.0**-52
OWN = [0.3, 0.01, 0.2, 0.05, 0.5]
ZERO = zero_terminal_snr(linear_betas())


def vp_log_alpha(t):
    return -(mp.mpf(t) ** 2) * (20 - mp.mpf(0.1)) / 4 - mp.mpf(t) * mp.mpf(0.1) / 2


def vp(t):
    return mp.e ** vp_log_alpha(t), mp.sqrt(-mp.expm1(2 * vp_log_alpha(t)))


def sub_vp(t):
    return mp.e ** vp_log_alpha(t), -mp.expm1(2 * vp_log_alpha(t))


def ve(t):
    low, high = mp.mpf(0.01), mp.mpf(50)
    return mp.mpf(1), low * mp.sqrt((high / low) ** (2 * mp.mpf(t)) - 1)


def cosine(t):
    o = mp.mpf(0.008)
    alpha = mp.cos(mp.pi / 2 * (mp.mpf(t) + o) / (1 + o)) / mp.cos(mp.pi / 2 * o / (1 + o))
    return alpha, mp.sqrt(1 - alpha**2)


def table(betas):
    steps = [mp.log(1 - mp.mpf(b)) for b in betas]
    total = [mp.fsum(steps[:n]) for n in range(len(betas) + 1)]
    slopes = [steps[0], *(2 * a * b / (a + b) for a, b in itertools.pairwise(steps)), steps[-1]]

    def pair(t):
        place = mp.mpf(t) * len(betas)
        n = min(int(place), len(betas) - 1)
        u, v = place - n, 1 - (place - n)
        log = total[n] * (1 + 2 * u) * v**2 + total[n + 1] * (1 + 2 * v) * u**2  # Hermite's cubic
        log += slopes[n] * u * v**2 - slopes[n + 1] * v * u**2
        return mp.e ** (log / 2), mp.sqrt(-mp.expm1(log))

    return pair


LEVELS = (-13.3, -6.0, -5.0, -1.0, 5.0)


def learned(t):
    """Hermite's cubic through γ at five times; below t_min = 1e-3, σ²/α² proportional to t."""
    rises = [mp.mpf(b) - mp.mpf(a) for a, b in itertools.pairwise(LEVELS)]
    slopes = [rises[0], *(2 * a * b / (a + b) for a, b in itertools.pairwise(rises)), rises[-1]]
    place = max(mp.mpf(0), (mp.mpf(t) - mp.mpf(1e-3)) / (1 - mp.mpf(1e-3))) * len(rises)
    n = min(int(place), len(rises) - 1)
    u, v = place - n, 1 - (place - n)
    gamma = LEVELS[n] * (1 + 2 * u) * v**2 + LEVELS[n + 1] * (1 + 2 * v) * u**2
    gamma += slopes[n] * u * v**2 - slopes[n + 1] * v * u**2
    ratio = mp.e**gamma * min(mp.mpf(1), mp.mpf(t) / mp.mpf(1e-3))
    return 1 / mp.sqrt(1 + ratio), mp.sqrt(ratio / (1 + ratio))


PROCESSES: dict[str, tuple[ScalarGaussian, object]] = {
    "vp": (VP(), vp),
    "sub-vp": (SubVP(), sub_vp),
    "ve": (VE(), ve),
    "edm": (EDM(), lambda t: (mp.mpf(1), 80 * mp.mpf(t))),
    "flow": (RectifiedFlow(), lambda t: (1 - mp.mpf(t), mp.mpf(t))),
    "cosine": (Cosine(), cosine),
    "ddpm": (DDPM(), table(linear_betas())),
    "ddpm-cosine": (DDPM(cosine_betas()), table(cosine_betas())),
    "learned": (Learned(LEVELS), learned),
    "ddpm-own": (DDPM(OWN), table(OWN)),
}
EACH = pytest.mark.parametrize("name", PROCESSES)
TIMES = (1e-12, 1e-7, 1e-4, 0.01, 0.2, 0.5, 0.77, 0.98, 1.0)
PAIRS = [(s, t) for i, s in enumerate(TIMES) for t in TIMES[i + 1 :]] + [(0.0, 0.3), (0.0, 1.0), (0.5, 0.5 + 1e-6)]
ETAS = (0.0, 0.4, 1.0)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def exact(name, t):
    alpha, sigma = PROCESSES[name][1](t)
    return alpha, sigma


def close(got, known, relative, absolute=0.0):
    """|got − known| in forty digits."""
    error = abs(mp.mpf(float(got)) - known)
    assert error <= relative * abs(known) + absolute, (float(got), mp.nstr(known, 20), mp.nstr(error, 3))


@EACH
def test_alpha_and_sigma(name):
    """To a few ulp at every time, near 0 too: no 1 − α². cos near its zero at t = 1 has an absolute error instead."""
    process = PROCESSES[name][0]
    for t in TIMES:
        alpha, sigma = exact(name, t)
        close(process.alpha(f64(t)), alpha, 200 * ULP, absolute=4 * ULP if name == "cosine" else 0.0)
        close(process.sigma(f64(t)), sigma, 200 * ULP)


@EACH
def test_ends(name):
    """0 is data: α(0) = 1 and σ(0) = 0 to the bit; every power is finite from t_min to t_max."""
    process = PROCESSES[name][0]
    assert float(process.alpha(f64(0.0))) == 1
    assert float(process.sigma(f64(0.0))) == 0
    assert float(process.log_snr(0.0)) == math.inf
    assert 0 < process.t_min < process.t_max <= 1
    x, belief = torch.ones(1, 2, dtype=torch.float64), Dirac(torch.zeros(1, 2, dtype=torch.float64))
    for t in (process.t_min, process.t_max):
        for value in (process.log_snr(t), process.drift(t), process.diffusion2(t)):
            assert value.isfinite()
        for value in (process.score(x, belief, t), process.velocity(x, belief, t), process.noise(x, belief, t)):
            assert value.isfinite().all()
    # a look at the prior: the marginal of centred data at t = 1 has at least half its variance
    prior = process.prior((2,))
    assert prior.sample(Noise(0, 3)).shape == (3, 2)
    assert float(prior.cov.variance) >= 0.99 * float(process.sigma(f64(1.0))) ** 2


@EACH
def test_log_snr_and_its_inverse(name):
    """Strictly decreasing; ``time`` inverts it as far as an ulp of log-SNR goes; outside its range it gives an end."""
    process = PROCESSES[name][0]
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = process.log_snr(t)
    assert (log_snr[1:] < log_snr[:-1]).all()
    inner = t[1:-1]
    slope = (log_snr[2:] - log_snr[:-2]).abs() / (t[2:] - t[:-2])
    error = (process.time(log_snr[1:-1]) - inner).abs()
    assert (error <= 16 * ULP * (log_snr[1:-1].abs() + 1) / slope + 4 * ULP).all()
    high, low = float(process.log_snr(1e-9)), float(process.log_snr(process.t_max))
    wanted = torch.linspace(low, high, 999, dtype=torch.float64)[1:-1]
    back = process.log_snr(process.time(wanted))
    # an error of t of one ulp or of the bisection's 2⁻⁶⁴ is λ' times that in λ
    inverse = process.time(wanted)
    error = process.rate(process.log_snr, inverse).abs() * (4 * ULP * inverse + 2.0**-63)
    assert ((back - wanted).abs() <= 16 * ULP * (wanted.abs() + 1) + error).all()
    assert process.time(f64([math.inf, 1e6])).tolist() == [0.0, pytest.approx(0.0, abs=1e-19)]
    assert float(process.time(-math.inf)) == 1.0
    assert process.time(torch.zeros(2, 3)).shape == (2, 3)


def fall_error(name, s, t):
    """(λ_t − λ_s, the error of the difference of two rounded log-SNRs); a difference that is infinite is exact."""
    if s == 0.0 or (t == 1.0 and name in ("flow", "cosine")):
        return -mp.inf, 0.0
    a, b = (2 * mp.log(x / y) for x, y in (exact(name, t), exact(name, s)))
    return a - b, 8 * ULP * float(abs(a) + abs(b) + 2)


@EACH
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_transition_and_bridge(name, s, t):
    """Against dense Gaussian algebra in forty digits: q(x_t | x_s), and q(x_s | x_t, x_0) by Bayes' rule."""
    process = PROCESSES[name][0]
    (alpha_s, sigma_s), (alpha_t, sigma_t) = exact(name, s), exact(name, t)
    r = alpha_t / alpha_s
    added = sigma_t**2 - r**2 * sigma_s**2  # x_t = r x_s + N(0, added): what is left of σ_t²
    tiny = 10 * ULP if name == "cosine" else 0.0  # α(1) of a float64 cosine is 6e-17, not 0
    fall, error = fall_error(name, s, t)
    relative = 400 * ULP + error / float(min(1, -fall))
    one = torch.ones(1, 1, dtype=torch.float64)
    law = process.transition(one, s, t)
    close(law.mean, r, 400 * ULP, absolute=tiny)
    close(law.cov.variance, added, relative, absolute=tiny)
    # joint of (x_s, x_t) given x_0: covariance [[σ_s², r σ_s²], [r σ_s², σ_t²]]
    gain = r * sigma_s**2 / sigma_t**2
    a, b, v = process.bridge_coefficients(s=s, t=t)
    close(a, alpha_s - gain * alpha_t, 0, absolute=8 * ULP + (error + 400 * ULP) * float(gain * alpha_t))
    close(b, gain, error + 400 * ULP, absolute=tiny)
    close(v, sigma_s**2 - gain * r * sigma_s**2, relative, absolute=tiny)
    law = process.bridge(3 * one, 2 * one, t, s)
    assert float(law.mean) == pytest.approx(float(2 * a + 3 * b), rel=1e-15)
    assert float(law.cov.variance) == float(v)


@EACH
@pytest.mark.parametrize("eta", ETAS)
def test_every_bridge_keeps_the_marginal(name, eta):
    """∫ q_η(x_s | x_t, x_0) q(x_t | x_0) dx_t = q(x_s | x_0): a + b α_t = α_s and b² σ_t² + v = σ_s², for every η."""
    process = PROCESSES[name][0]
    for s, t in PAIRS:
        a, b, v = process.bridge_coefficients(t, s, eta)
        assert float(v) >= 0
        alpha, sigma2 = float(process.alpha(f64(s))), float(process.sigma(f64(s))) ** 2
        assert float(a + b * process.alpha(f64(t))) == pytest.approx(alpha, rel=1e-14)
        assert float(b**2 * process.sigma(f64(t)) ** 2 + v) == pytest.approx(sigma2, rel=1e-13, abs=1e-300)
        assert float(v) == 0 or eta > 0


@EACH
def test_bridge_upwards_at_eta_zero(name):
    """At η = 0 the bridge also runs towards noise, and there and back is the identity, to the prior itself."""
    process = PROCESSES[name][0]
    x = f64([[0.3, -1.0]])
    x0 = f64([[0.5, 0.2]])
    for s, t in ((1e-4, 0.2), (0.2, 0.98), (0.5, 1.0)):
        up = process.bridge(x, x0, s, t, 0.0).mean
        back = process.bridge(up, x0, t, s, 0.0).mean
        torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)


@EACH
def test_marginal_by_transitions(name):
    """Chapman–Kolmogorov through the laws themselves, with a time a sample and as many samples as coordinates."""
    process = PROCESSES[name][0]
    x0 = f64([[0.5, -1.0, 2.0], [1.0, 0.1, 0.0], [-0.3, 0.4, 3.0]])
    r, s, t = f64([0.0, 1e-4, 0.3]), f64([1e-3, 0.2, 0.5]), f64([0.9, 0.4, 0.98])
    first = process.marginal(x0, r)
    for a, b in ((r, s), (s, t), (r, t)):
        start = process.marginal(x0, a)
        step = process.transition(start.mean, a, b)
        scale = (process.alpha(b) / process.alpha(a)).reshape(3, 1)
        end = process.marginal(x0, b)
        torch.testing.assert_close(step.mean, end.mean, rtol=1e-13, atol=1e-14)
        total = scale**2 * start.cov.diagonal((3,)) + step.cov.diagonal((3,))
        torch.testing.assert_close(total, end.cov.diagonal((3,)), rtol=1e-12, atol=0)
    assert first.mean[0].tolist() == x0[0].tolist()


@EACH
def test_time_stays_with_its_sample(name):
    """Every answer for a batch of times is that of each sample alone: vectors with B == W, images, one time for all."""
    process = PROCESSES[name][0]
    t, s = f64([0.3, 0.6, 0.97]), f64([0.1, 0.05, 0.5])
    for shape in ((3,), (3, 3), (1, 3, 3)):
        x, x0 = (torch.randn(3, *shape, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
        belief = Dirac(x0)
        answers = (
            lambda x, x0, t, s: process.marginal(x0, t).mean,
            lambda x, x0, t, s: process.transition(x, s, t).mean,
            lambda x, x0, t, s: process.transition(x, s, t).log_prob(x0),
            lambda x, x0, t, s: process.bridge(x, x0, t, s).mean,
            lambda x, x0, t, s: process.bridge(x, x0, t, s).log_prob(x0),
            lambda x, x0, t, s: process.reverse(x, Dirac(x0), t, s).log_prob(x),
            lambda x, x0, t, s: process.score(x, Dirac(x0), t),
            lambda x, x0, t, s: process.velocity(x, Dirac(x0), t),
            lambda x, x0, t, s: process.noise(x, Dirac(x0), t),
            lambda x, x0, t, s: process.observe(x, t).y,
        )
        for answer in answers:
            together = answer(x, x0, t, s)
            for i in range(3):
                alone = answer(x[i : i + 1], x0[i : i + 1], t[i], s[i])
                torch.testing.assert_close(together[i], alone[0], rtol=1e-13, atol=1e-13)
        assert process.marginal(x0, 0.5).cov.variance.shape == (1,) * (1 + len(shape))
        assert belief.mean is x0


@EACH
def test_drift_and_diffusion_integrate(name):
    """∫ f dt = log α and ∫ g²/α² dt = σ²/α², by Gauss–Legendre between the kinks of a table (20 points: 1e-12)."""
    process = PROCESSES[name][0]
    nodes, weights = (f64(v) for v in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(0, 1, (process.steps if isinstance(process, DDPM) else 400) + 1, dtype=torch.float64)
    if isinstance(process, Learned):  # its knots stand at equal distances from t_min to 1
        edges = 1e-3 + (1 - 1e-3) * edges
    edges = edges[(edges >= 1e-3) & (edges < 0.99)]
    middle, half = (edges[1:] + edges[:-1])[:, None] / 2, (edges[1:] - edges[:-1])[:, None] / 2
    t = middle + half * nodes
    drift, diffusion = process.drift(t.reshape(-1)).reshape(t.shape), process.diffusion2(t.reshape(-1)).reshape(t.shape)
    log_alpha, noise = torch.log(process.alpha(edges)), (process.sigma(edges) / process.alpha(edges)) ** 2
    assert float((half * weights * drift).sum()) == pytest.approx(float(log_alpha[-1] - log_alpha[0]), rel=1e-11)
    inside = (half * weights * diffusion / process.alpha(t) ** 2).sum()
    assert float(inside) == pytest.approx(float(noise[-1] - noise[0]), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "known"),
    [("vp", 0.1), ("sub-vp", 0.0), ("ve", 2 * 1e-4 * math.log(5000)), ("edm", 0.0), ("flow", 0.0), ("ddpm", None)],
)
def test_diffusion_at_clean_data(name, known):
    """g²(0) is finite: β(0), 0, σ_min² log(σ_max/σ_min)², 0, 0, and N times −log(1 − β_1)."""
    known = -1000 * math.log1p(-1e-4) if known is None else known
    assert float(PROCESSES[name][0].diffusion2(0.0)) == pytest.approx(known, rel=1e-12, abs=1e-15)


@EACH
def test_score_and_velocity_of_a_world(name):
    """Score = ∇ log p_t by automatic differentiation; velocity = f x − ½ g² score (arXiv:2011.13456 eq. 13)."""
    process = PROCESSES[name][0]
    world = worlds.random_mixture(3, components=3, seed=1)
    t = f64([process.t_min, 0.3, min(process.t_max, 0.98)])
    x = world.sample(3, process=process, t=t).requires_grad_()
    (gradient,) = torch.autograd.grad(world.log_prob(x, process, t).sum(), x)
    x = x.detach()
    belief = world.denoiser(process)(x, t)
    score = process.score(x, belief, t)
    # both subtract α x̂_0 from x: at t_min of VE and EDM that leaves 1e-16 · |x|/σ² of the score
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-9)
    drift, diffusion = process.drift(t)[:, None], process.diffusion2(t)[:, None]
    flow = drift * x - diffusion / 2 * score
    torch.testing.assert_close(process.velocity(x, belief, t), flow, rtol=1e-9, atol=1e-9)


@EACH
def test_velocity_transports_the_density(name):
    """The continuity equation at a point: ∂_t log p = −div v − v·∇ log p, by differentiation of the exact world."""
    process = PROCESSES[name][0]
    world = worlds.random_mixture(2, components=3, seed=2)
    t, x = f64(0.4321), f64([[0.3, -0.2]])
    rate = process.rate(lambda u: world.log_prob(x, process, u), t)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: process.velocity(y, world.denoiser(process)(y, t), t)[0], x, create_graph=False
    )[:, 0]
    belief = world.denoiser(process)(x, t)
    velocity, score = process.velocity(x, belief, t), process.score(x, belief, t)
    expected = -jacobian.trace() - (velocity * score).sum()
    assert float(rate) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), scaled_linear_betas(), tuple(OWN)])
def test_a_table_is_the_papers_recursion(betas):
    """At knots: ᾱ_n, β_n, β̃_n and the two coefficients of the posterior mean (arXiv:2006.11239 eq. 4, 7)."""
    process, total = DDPM(betas), len(betas)
    alpha_bar = [mp.mpf(1)]
    for n, beta in enumerate(betas, 1):
        alpha_bar.append(alpha_bar[-1] * (1 - mp.mpf(beta)))
        if n not in (1, 2, 3, total // 2, total - 1, total):
            continue
        t, s = n / total, (n - 1) / total
        assert int(process.knot(t)) == n
        close(process.alpha(f64(t)) ** 2, alpha_bar[n], 1e-12)
        one = torch.ones(1, 1, dtype=torch.float64)
        step = process.transition(one, s, t)
        close(step.cov.variance, mp.mpf(beta), 1e-10)
        close(step.mean, mp.sqrt(1 - mp.mpf(beta)), 1e-13)
        a, b, v = process.bridge_coefficients(t, s)
        close(v, (1 - alpha_bar[n - 1]) / (1 - alpha_bar[n]) * mp.mpf(beta), 1e-10)
        close(a, mp.sqrt(alpha_bar[n - 1]) * mp.mpf(beta) / (1 - alpha_bar[n]), 1e-10)
        close(b, mp.sqrt(1 - mp.mpf(beta)) * (1 - alpha_bar[n - 1]) / (1 - alpha_bar[n]), 1e-10)


def test_rates_carry_a_graph_only_for_times_that_do():
    """A velocity outside no_grad has no graph of its own, which a loop would keep; dα/dt has a derivative in t."""
    process = VP()
    x = torch.ones(1, 2, dtype=torch.float64)
    assert not process.velocity(x, Dirac(x), 0.3).requires_grad
    assert not process.diffusion2(f64([0.3])).requires_grad
    t = f64([0.3, 0.6]).requires_grad_()
    (second,) = torch.autograd.grad(process.rate(process.log_alpha, t).sum(), t)
    torch.testing.assert_close(second, f64([-9.95, -9.95]), rtol=1e-12, atol=0)
    with torch.no_grad():
        assert process.rate(process.alpha, t).shape == (2,)
    assert process.rate(EDM().alpha, f64([0.3])).tolist() == [0.0]


def test_the_tables():
    """The published ends of the three tables, and the cosine's own formula with its ceiling."""
    linear, scaled, cos = linear_betas(), scaled_linear_betas(), cosine_betas()
    assert (linear[0], linear[-1], len(linear)) == (1e-4, 0.02, 1000)
    assert linear[1] - linear[0] == pytest.approx(0.0199 / 999)
    assert (scaled[0], scaled[-1]) == (pytest.approx(0.00085), pytest.approx(0.012))
    assert math.sqrt(scaled[1]) - math.sqrt(scaled[0]) == pytest.approx((0.012**0.5 - 0.00085**0.5) / 999)
    assert cos[-1] == 0.999
    for n in (1, 2, 500, 999):
        f = lambda k: mp.cos((mp.mpf(k) / 1000 + mp.mpf(0.008)) / (1 + mp.mpf(0.008)) * mp.pi / 2) ** 2
        close(cos[n - 1], 1 - f(n) / f(n - 1), 1e-11)


def test_zero_terminal_snr():
    """√ᾱ of the moved table is a·√ᾱ_n + b with the first value kept and the last 1e-8 (2305.08891 alg. 1).

    A knot's log ᾱ' is a sum of logarithms of 1 − β, each of which 1 − β rounds by half an ulp over itself: at the last
    knot, where 1 − β is 1e-16/ᾱ'_(N−1), that is 2⁻⁵³/6e-10 ≈ 2e-7; elsewhere N · 2⁻⁵³ over the least 1 − β, 1e-12.
    """
    betas = scaled_linear_betas()
    root, product = [], mp.mpf(1)
    for beta in betas:
        product *= 1 - mp.mpf(beta)
        root.append(mp.sqrt(product))
    first, last = root[0], root[-1]
    process = DDPM(zero_terminal_snr(betas))
    for n in (1, 2, 500, 998, 999):
        found = float(process.alpha(f64([n / 1000]))[0])
        close(found, (root[n - 1] - last) * first / (first - last), 1e-11)
    assert float(process.alpha(f64([1.0]))[0]) == pytest.approx(1e-8, rel=1e-6)
    assert (process.t_max, DDPM().t_max) == (0.999, 1.0)
    with pytest.raises(UserError, match="betas must be two or more"):
        zero_terminal_snr((0.5,))


def test_knots_of_a_table():
    process = DDPM(OWN)
    assert process.knot(f64([0.0, 0.2, 0.6, 1.0])).tolist() == [0, 1, 3, 5]
    with pytest.raises(UserError, match=r"t must be a knot n/5 of the table, got 0.3"):
        process.knot(0.3)
    assert process.t_min == 0.2


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), tuple(OWN), (0.3,), (1e-6, 0.999), ZERO])
def test_between_knots_a_table_is_smooth_and_monotone(betas):
    """log α falls everywhere, and its rate has one value at a knot: a flow read there stands an ulp of t."""
    process = DDPM(betas)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    assert (torch.diff(process.log_alpha(t)) < 0).all()
    assert (process.rate(process.log_alpha, t) < 0).all()
    knots = torch.arange(1, len(betas), dtype=torch.float64) / len(betas)
    before, after = (process.rate(process.log_alpha, knots * (1 + e)) for e in (-1e-12, 1e-12))
    torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-9)


def test_ve_keeps_the_papers_ends():
    """σ(t_min) = σ_min, and σ(1) is σ_max less than σ_min²/2σ_max, as its docstring says."""
    process = VE(0.02, 30.0)
    assert float(process.sigma(f64(process.t_min))) == pytest.approx(0.02, rel=1e-14)
    assert 0 < 30 - float(process.sigma(f64(1.0))) <= 0.02**2 / 60 * (1 + 1e-4)
    assert float(EDM(0.01, 20.0).sigma(f64(EDM(0.01, 20.0).t_min))) == pytest.approx(0.01, rel=1e-15)


def test_float32_states_stay_float32():
    """Coefficients are float64 arithmetic and take the dtype of the state."""
    x = torch.ones(2, 3)
    for process, _ in PROCESSES.values():
        assert process.marginal(x, 0.3).sample(Noise(0, 2)).dtype == torch.float32
        assert process.bridge(x, x, 0.3, 0.1).sample(Noise(0, 2)).dtype == torch.float32
        assert process.reverse(x, Dirac(x), 0.3, 0.1).mean.dtype == torch.float32
        assert process.velocity(x, Dirac(x), 0.3).dtype == torch.float32


def test_a_sample_that_stands_still():
    """s = t is the identity wherever it is, at data and at noise too: chains on joint times keep some samples."""
    x = f64([[0.5, -1.0], [2.0, 0.1], [0.3, 0.3]])
    t = f64([0.0, 0.5, 1.0])
    for process, _ in PROCESSES.values():
        for law in (
            process.transition(x, t, t),
            process.bridge(x, x + 1, t, t),
            process.bridge(x, x + 1, t, t, 0.0),
            process.reverse(x, Dirac(x + 1), t, t),
        ):
            torch.testing.assert_close(law.mean, x, rtol=0, atol=1e-14)
            assert torch.equal(law.sample(Noise(0, 3)), law.mean)


REFUSED = [
    (lambda: VP(0.0), "beta_min, beta_max must satisfy"),
    (lambda: VP(20.0, 0.1), "beta_min, beta_max must satisfy"),
    (lambda: VP(0.1, math.inf), "beta_min, beta_max must satisfy"),
    (lambda: VP(math.nan), "beta_min, beta_max must satisfy"),
    (lambda: SubVP(-1.0), "beta_min, beta_max must satisfy"),
    (lambda: VE(0.0), "sigma_min, sigma_max must satisfy"),
    (lambda: VE(2.0, 1.0), "sigma_min, sigma_max must satisfy"),
    (lambda: EDM(0.002, math.inf), "sigma_min, sigma_max must satisfy"),
    (lambda: EDM(0.002, 1e308), r"must satisfy 1e-12 <= sigma_min < sigma_max <= 1e\+12, got 0.002, 1e\+308"),
    (lambda: EDM(1e-300), "sigma_min, sigma_max must satisfy"),
    (lambda: VE(1e-300, 1e300), "sigma_min, sigma_max must satisfy"),
    (lambda: VE(1e-12, math.nan), "sigma_min, sigma_max must satisfy"),
    (lambda: VE(1.0, 1.4), r"must satisfy 1e-12 <= sigma_min and 1.41 sigma_min < sigma_max"),
    (lambda: Cosine(-0.1), "offset must lie in"),
    (lambda: Cosine(math.nan), "offset must lie in"),
    (lambda: DDPM([]), "betas must be one or more numbers in"),
    (lambda: DDPM([0.1, 1.0]), "betas must be one or more numbers in"),
    (lambda: DDPM([0.1, math.nan]), "betas must be one or more numbers in"),
    (lambda: VP().marginal(torch.ones(1, 1), 1.5), r"t must be a time in \[0, 1\] .* got 1.5"),
    (lambda: VP().marginal(torch.ones(1, 1), -0.1), r"t must be a time in \[0, 1\]"),
    (lambda: VP().log_snr(math.nan), r"t must be a time in \[0, 1\]"),
    (lambda: VP().bridge(torch.ones(1, 1), torch.ones(1, 1), 0.5, 0.1, 1.1), r"eta must lie in \[0, 1\], got 1.1"),
    (lambda: VP().marginal(torch.ones(3, 2), torch.rand(2)), r"t must have shape \(\) or \(3,\) .* got \(2,\)"),
    (lambda: VP().marginal(torch.ones(3, 2), torch.rand(3, 1)), r"t must have shape \(\) or \(3,\)"),
    (lambda: require(GammaNoise(), ScalarGaussian, "DDIM"), "DDIM needs a process with .*alpha.* GammaNoise does not"),
]


@pytest.mark.parametrize("process", [EDM(1e-12, 1e12), EDM(1.0, 1e12), VE(1e-12, 1e12), VE(1.0, 1.42)], ids=repr)
def test_the_widest_range_of_noise_is_numbers(process: ScalarGaussian) -> None:
    """Times, log-SNRs and their inverse, and states in float32 with their squares."""
    assert 0 < process.t_min < 1
    t = torch.tensor([process.t_min, 0.5, 1.0], dtype=torch.float64)
    log_snr = process.log_snr(t)
    assert torch.isfinite(log_snr).all()
    torch.testing.assert_close(process.time(log_snr), t, rtol=1e-12, atol=0)
    state = process.marginal(torch.zeros(3, 4), t).sample(Noise(0, 3)).float()
    assert torch.isfinite(state.square()).all()
    assert (state[:, :].square() > 0).all()


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


@EACH
def test_prior_is_the_law_of_the_end(name):
    """Mean 0 and variance σ²(1); where data fade, it may be that of the limit, N(0, I): σ² ≥ (1 − α²)² > 1 − 2α²."""
    process = PROCESSES[name][0]
    prior, alpha2 = process.prior((3,)), float(process.alpha(f64(1.0))) ** 2
    variance, sigma2 = prior.cov.diagonal((3,)), float(process.sigma(f64(1.0))) ** 2
    assert not prior.mean.any()
    assert float((variance - sigma2).abs().max()) <= (2 * alpha2 if alpha2 < 0.5 else 0.0) + 1e-9 * sigma2


@dataclass(frozen=True)
class Bisected(RectifiedFlow):
    """A process that inverts its log-SNR as those do that have no closed form."""

    time = ScalarGaussian.time


def test_the_time_of_a_level_is_not_beyond_it() -> None:
    """Of the two neighbours between which a level lies the bisection takes the one that is not noisier."""
    process = Bisected()
    wanted = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    assert (process.log_snr(process.time(wanted)) >= wanted).all()
    assert process.time(-math.inf) == 1
