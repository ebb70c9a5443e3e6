"""Γ against closed forms, the belief it makes against the formulas of Analytic-DPM, and chains of few steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from langevin import Noise, UserError, guidance, processes, samplers, worlds
from langevin.denoisers import Calibration, analytic, calibrate, convert, dirac, unit, with_variance
from langevin.denoisers.optimal import intercept
from support import sliced_w2, thinned, w2_floor

PROCESSES = {
    "vp": processes.VP(),
    "edm": processes.EDM(),
    "flow": processes.RectifiedFlow(),
    "ddpm-cosine": processes.DDPM(processes.cosine_betas()),
}
WORLD = worlds.random_mixture(2, 4, rms=0.7, seed=2)
WIDE = worlds.random_mixture(64, 8, 16, rms=0.5, seed=7)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def table(gamma, log_snr=(-4.0, 0.0, 4.0), **more) -> Calibration:
    gamma = f64(gamma).expand(len(log_snr))
    return Calibration(f64(log_snr), gamma, torch.zeros_like(gamma), torch.zeros_like(gamma), **more)


@pytest.mark.parametrize("name", PROCESSES)
def test_gamma_of_normal_data(name):
    """N(m, s²I): Γ = σ²/(α²s² + σ²), at every noise, whatever the mean.

    Eight knots and four processes: 4.5 standard errors are exceeded by chance once in 4,600 runs.
    """
    process, std = PROCESSES[name], 0.6
    world = worlds.GaussianMixture(f64([1.0]), f64([[0.5, -2.0, 1.0]]), f64([std**2]))
    found = calibrate(world.denoiser(process), world.sample(3000, 1), times=8)
    exact = 1 / (1 + std**2 * torch.exp(found.log_snr))
    assert ((found.gamma - exact).abs() <= 4.5 * found.stderr).all()
    # C is known to a part in √(n D), to a factor: the error does not grow with σ²/α².
    assert (found.stderr * torch.exp(-found.log_snr) < 3 * std**2 / math.sqrt(3000)).all()


@pytest.mark.parametrize(
    ("world", "n", "name"), [*((WORLD, 4000, name) for name in PROCESSES), (WIDE, 300, "vp"), (WIDE, 300, "edm")]
)
def test_variance_is_the_mean_posterior_variance(world, n, name):
    """C = E tr Cov[x_0 | x_t] / D of the mixture, in closed form at fresh draws of x_t; both sides have their error."""
    denoiser = world.denoiser(PROCESSES[name])
    found = calibrate(denoiser, world.sample(n, 5), times=6)
    for k, log_snr in enumerate(found.log_snr):
        t = denoiser.process.time(log_snr)
        x_t = world.sample(300, 900 + k, process=denoiser.process, t=t)
        trace = denoiser(x_t, t).cov.diagonal(world.shape).mean(1)
        here = float(trace.mean())
        stderr = math.hypot(float(found.stderr[k] * torch.exp(-log_snr)), float(trace.std()) / math.sqrt(300))
        assert abs(float(torch.exp(-log_snr) * (1 - found.gamma[k])) - here) < 4.5 * stderr
        # The measured error of the true mean is the same number: a sum of squares over x_0's own spread.
        assert float(found.error[k]) == pytest.approx(here, rel=10 * math.sqrt(2 / n))


def test_gamma_is_the_plain_mean_up_to_its_variates():
    """With few variates of mean 0 taken out by least squares, the estimate is one of E|ε̂|²/D, and a better one."""
    process, n = PROCESSES["vp"], 4000
    denoiser, x0 = WORLD.denoiser(process), WORLD.sample(n, 5)
    found = calibrate(denoiser, x0, times=3)
    for k, log_snr in enumerate(found.log_snr):
        t = process.time(log_snr)
        eps = Noise(0, n, k + 1).normal((2,))
        x_t = process.alpha(t) * x0 + process.sigma(t) * eps
        squares = process.noise(x_t, denoiser(x_t, t), t).square().mean(1)
        plain, stderr = float(squares.mean()), float(squares.std()) / math.sqrt(n)
        assert abs(float(found.gamma[k]) - plain) < 4.5 * stderr
        assert float(found.stderr[k]) <= stderr * math.sqrt(n / (n - 4))  # the residual's degrees of freedom
        if k == 0:
            assert float(found.stderr[k]) < 1e-2 * stderr


def optimal_variance(bar, before, lam2, gamma):
    """σ*² of arXiv:2201.06503 eq. 6–8, of a step from ᾱ_t = ``bar`` to ᾱ_s = ``before``; Γ there is E|s|²/D."""
    score2 = gamma / (1 - bar)
    factor = torch.sqrt((1 - bar) * before / bar) - torch.sqrt(1 - before - lam2)
    return lam2 + factor**2 * (1 - (1 - bar) * score2)


@pytest.mark.parametrize("betas", [processes.linear_betas(), processes.cosine_betas()])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_published_variance(betas, eta):
    """``reverse`` has the paper's σ*² on a table, respaced or not, for Analytic-DDIM (0), -DPM (1) and between."""
    process, total = processes.DDPM(betas), len(betas)
    alpha_bar = torch.cumprod(1 - f64(betas), 0)
    x = f64([[0.4, -0.8]])
    for n, m in ((1000, 900), (600, 599), (500, 300), (20, 1)):
        bar, before = alpha_bar[n - 1], alpha_bar[m - 1]
        gamma = 0.3 + 0.6 * (n / total)
        log_snr = torch.log(bar / (1 - bar))
        found = table(gamma, [float(log_snr) - 1, float(log_snr), float(log_snr) + 1])
        beta_tilde = (1 - before) / (1 - bar) * (1 - bar / before)
        law = process.reverse(x, analytic(WORLD.denoiser(process), found)(x, n / total), n / total, m / total, eta)
        expected = optimal_variance(bar, before, eta**2 * beta_tilde, gamma)
        torch.testing.assert_close(law.cov.diagonal((2,)).expand(1, 2), expected.expand(1, 2), rtol=1e-10, atol=0)


def test_bounds():
    """Theorem 2: λ² ≤ σ*², the bound of Γ = 0, and that of data in [a, b], each put through ``reverse``."""
    process = PROCESSES["vp"]
    t, s, x = f64(0.6), f64(0.3), f64([[0.4, -0.8]])
    bar, before = process.alpha(t) ** 2, process.alpha(s) ** 2
    lam2 = process.bridge_coefficients(t, s)[2]
    law = lambda gamma, **more: process.reverse(x, analytic(WORLD.denoiser(process), table(gamma, **more))(x, t), t, s)
    variance = lambda made: made.cov.diagonal((2,)).reshape(-1)[0]
    torch.testing.assert_close(variance(law(1.3)), lam2)
    upper = optimal_variance(bar, before, lam2, f64(0.0))
    torch.testing.assert_close(variance(law(-0.2)), upper)
    ranged = lam2 + (torch.sqrt(before) - torch.sqrt((1 - before - lam2) * bar / (1 - bar))) ** 2 * 0.75**2
    assert ranged < upper
    torch.testing.assert_close(variance(law(-0.2, low=-0.5, high=1.0)), ranged)


def test_the_error_of_an_intercept_is_that_of_least_squares():
    """s/√M with s² the residuals over M − k − 1 degrees of freedom, as NumPy finds them."""
    draw = torch.Generator().manual_seed(0)
    known = torch.randn(12, 3, generator=draw, dtype=torch.float64)
    values = 2 + known @ torch.ones(3).double() + torch.randn(12, generator=draw, dtype=torch.float64)
    mean, error = intercept(values, known)
    design = np.column_stack((np.ones(12), known.numpy()))
    weights, residual, *_ = np.linalg.lstsq(design, values.numpy(), rcond=None)
    assert float(mean) == pytest.approx(weights[0], rel=1e-12)
    assert float(error) == pytest.approx(math.sqrt(residual[0] / (12 - 4) / 12), rel=1e-12)


def test_progress_counts_draws_up_to_all_of_them():
    seen = []
    tell = lambda *at: seen.append(at)
    calibrate(WORLD.denoiser(PROCESSES["vp"]), WORLD.sample(16, 1), times=3, n=16, batch=5, progress=tell)
    assert seen == sorted(seen)
    assert seen[-1] == (64, 64)
    assert seen[0] == (5, 64)


def test_the_range_of_the_data_is_kept_with_the_estimate():
    found = calibrate(WORLD.denoiser(PROCESSES["vp"]), WORLD.sample(16, 1), times=3, n=16, low=-2.0, high=3.0)
    assert (found.low, found.high) == (-2.0, 3.0)


def test_dirac_limit():
    """Γ = 1 leaves nothing to know: DDPM with β̃, and at η = 0 DDIM, step for step."""
    denoiser, found = WORLD.denoiser(PROCESSES["vp"]), table(1.0)
    for eta, rule in ((1.0, samplers.DDPM()), (0.0, samplers.DDIM())):
        known = samplers.sample(denoiser, rule, n=5, steps=4)
        got = samplers.sample(found(denoiser), samplers.Ancestral(eta=eta), n=5, steps=4)
        torch.testing.assert_close(got, known, rtol=1e-12, atol=1e-12)


def test_between_knots():
    """Exact at knots; between them a cubic in λ of a smooth ratio; beyond them the ratio of the last knot."""
    found = calibrate(WORLD.denoiser(PROCESSES["edm"]), WORLD.sample(1000, 5), times=12)
    torch.testing.assert_close(found.at(found.log_snr), found.variance, rtol=1e-12, atol=0)
    exact = lambda log_snr: 1 / (1 / 0.3 + torch.exp(log_snr))  # of normal data with variance 0.3
    knots = torch.linspace(-8, 12, 32, dtype=torch.float64)
    known = table(1 - torch.exp(knots) * exact(knots), tuple(knots.tolist()))
    fine = torch.linspace(-12, 16, 301, dtype=torch.float64)
    inside = (fine >= -8) & (fine <= 12)
    # The ratio 0.3 (1 + e^λ)/(1 + 0.3 e^λ) has fourth derivatives below ½: the interpolant is within h⁴/384 · ½ for
    # h = 20/31, and as monotone slopes are of second order, within a percent all the same.
    torch.testing.assert_close(known.at(fine)[inside], exact(fine)[inside], rtol=1e-2, atol=0)
    torch.testing.assert_close(known.at(fine)[~inside], exact(fine)[~inside], rtol=1e-2, atol=0)
    clean = float(known.at(f64(math.inf)))
    assert clean == 0


def test_at_a_time_a_sample_and_for_images():
    process = PROCESSES["vp"]
    world = worlds.Empirical(torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double())
    made = analytic(world.denoiser(process), table(0.5))
    t = f64([0.1, 0.2, 0.3, 0.9])
    belief = made(torch.zeros(4, 1, 2, 2).double(), t)
    assert belief.cov.variance.shape == (4, 1, 1, 1)
    torch.testing.assert_close(belief.cov.variance[2, 0, 0, 0], made.calibration.at(process.log_snr(t[2])))
    assert made(torch.zeros(4, 1, 2, 2).double(), 0.5).cov.variance.shape == (1, 1, 1, 1)


def test_another_process_has_the_same_variance():
    """C is a function of log-SNR: calibrated on one process, used on another."""
    found = calibrate(WORLD.denoiser(PROCESSES["vp"]), WORLD.sample(500, 5), times=10)
    target = PROCESSES["edm"]
    moved = found(convert(WORLD.denoiser(PROCESSES["vp"]), target))
    t = target.time(1.0)
    x = WORLD.sample(3, 1, process=target, t=t)
    torch.testing.assert_close(moved(x, t).cov.variance.reshape(()), found.at(f64(1.0)), rtol=1e-9, atol=0)


def test_does_not_depend_on_the_batch():
    denoiser, x0 = WORLD.denoiser(PROCESSES["vp"]), WORLD.sample(100, 5)
    label = torch.arange(100) % 4
    one, two, other = (
        calibrate(denoiser, x0, {"label": label}, times=3, batch=b, seed=s) for b, s in ((100, 0), (7, 0), (7, 1))
    )
    torch.testing.assert_close(one.gamma, two.gamma, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(one.gamma, other.gamma, rtol=1e-4)


def test_labels_are_bound():
    """With labels less is left to know; at high noise, the spread of the components alone."""
    denoiser, (x0, label) = WORLD.denoiser(PROCESSES["vp"]), WORLD.sample(2000, 5, with_labels=True)
    known, blind = (calibrate(denoiser, x0, v, times=4) for v in ({"label": label}, None))
    within = float((WORLD.log_weights.exp()[:, None] * WORLD.values).sum() / 2)
    assert float(known.variance[0]) == pytest.approx(within, rel=0.15)  # 3.3/√n = 7 % an error
    assert (known.variance[:2] < 0.8 * blind.variance[:2]).all()


def terms(denoiser, pick, steps, n):
    """Σ KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) over the steps of a chain down to t_min, of each sample, in nats.

    With isotropic variances v of the bridge and v + a²C of the reverse step, and a(x_0 − x̂_0) between their means. The
    draws are the same for every belief.
    """
    process, size = denoiser.process, denoiser.shape[0]
    grid = samplers.default_grid(process, steps)
    x0, total = denoiser.world.sample(n, 31), torch.zeros(n, dtype=torch.float64)
    for k, (t, s) in enumerate(itertools.pairwise(grid[:-1])):
        x_t = process.marginal(x0, t).sample(Noise(8, n, k))
        belief = pick(denoiser)(x_t, t)
        a, _, v = process.bridge_coefficients(t, s)
        wide = v + a**2 * belief.cov.diagonal(denoiser.shape).reshape(-1)[0]
        apart = a**2 * (belief.mean - x0).square().sum(1)
        total += 0.5 * (size * (v / wide - 1 + torch.log(wide / v)) + apart / wide)
    return total


@pytest.mark.parametrize("world", [WORLD, worlds.ring(8, 1.0, 0.1), WIDE], ids=["2-D", "ring", "64-D"])
@pytest.mark.parametrize("name", ["vp", "edm"])
def test_few_steps_are_nearer_to_the_truth(world, name):
    """KL between the paths of data and those of the chain, which bounds that of the data: below β̃ and β, at each count.

    A sample's terms are compared with its own, so the mean difference is known to its standard error.
    """
    denoiser, n = world.denoiser(PROCESSES[name]), 1000 if world.shape == (2,) else 100
    found = calibrate(denoiser, world.sample(n, 5))
    for steps in (5, 10, 25):
        ours = terms(denoiser, found, steps, n)
        for other in (dirac, unit):
            gain = terms(denoiser, other, steps, n) - ours
            assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain)), (steps, other)


@pytest.mark.parametrize("steps", thinned([5, 10, 25], 3))
def test_few_steps_have_a_better_law(steps):
    """Sliced W2 to the 2-D mixture: below β's by more than sets of 10,000 of the truth differ, itself below β̃'s."""
    denoiser, n = WORLD.denoiser(PROCESSES["edm"]), 10_000
    found, truth = calibrate(denoiser, WORLD.sample(2000, 5)), WORLD.sample(n, 77)
    small, large, ours = (
        sliced_w2(samplers.sample(pick(denoiser), samplers.Ancestral(), n=n, steps=steps, batch=n), truth)
        for pick in (dirac, unit, found)
    )
    if steps < 25:  # at 25 the floor is as large as what is left
        assert ours + w2_floor(WORLD, n, pairs=8) < large
    assert ours < large < small


def test_names():
    """What was learned is found through labels, guidance and another process; a name it has not is refused."""
    process = PROCESSES["vp"]

    class Learned(type(WORLD.denoiser(process))):
        learned_variances = {"analytic": table(0.5)}  # noqa: RUF012

    model = Learned(WORLD, process)
    x = WORLD.sample(3, 1, process=process, t=0.5)
    guided = guidance.classifier_free(model, label=1, guidance_scale=2.0)
    for denoiser in (model, guided, model.given(label=2), convert(model, PROCESSES["edm"])):
        made = with_variance(denoiser, "analytic")
        torch.testing.assert_close(made(x, 0.5).mean, denoiser(x, 0.5).mean)
        expected = table(0.5).at(denoiser.process.log_snr(0.5))
        torch.testing.assert_close(made(x, 0.5).cov.variance.reshape(()), expected)
    assert float(with_variance(model, "small")(x, 0.5).cov.diagonal((2,)).max()) == 0
    torch.testing.assert_close(with_variance(model, "large")(x, 0.5).cov.variance, unit(model)(x, 0.5).cov.variance)
    with pytest.raises(UserError, match=r"unknown variance 'npr'.*analytic, large, small.*langevin calibrate"):
        with_variance(model, "npr")


def test_residual():
    """The measured error in the place of C, within the same bounds."""
    found = replace(table(0.9), error=f64([3.0, 0.2, 1e-3]), low=-1.0, high=1.0)
    torch.testing.assert_close(found.residual().variance, f64([1.0, 0.2, 1e-3]))


DENOISER = WORLD.denoiser(PROCESSES["vp"])
REFUSED = [
    (lambda: calibrate(DENOISER, WORLD.sample(20), times=1), "times must be an integer of at least 2, got 1"),
    (lambda: calibrate(DENOISER, WORLD.sample(20), n=15), "n must be an integer of at least 16, got 15"),
    (lambda: calibrate(DENOISER, WORLD.sample(20), batch=0), "batch must be an integer of at least 1, got 0"),
    (lambda: calibrate(DENOISER, torch.zeros(20, 3)), r"x0 must have shape \(N, 2\), got \(20, 3\)"),
    (lambda: calibrate(DENOISER, torch.full((20, 2), math.nan)), "x0 must be finite"),
    (lambda: calibrate(DENOISER, WORLD.sample(20), torch.zeros(3)), "condition must be a mapping"),
    (lambda: calibrate(DENOISER, WORLD.sample(20), {"label": torch.zeros(3)}), r"label must have shape \(20,\) first"),
    (lambda: calibrate(WORLD.denoiser(processes.PhaseSpace()), WORLD.sample(20)), "calibrate needs a process with"),
    (lambda: analytic(WORLD.denoiser(processes.PhaseSpace()), table(0.5)), "variance 'analytic' needs a process"),
    (lambda: table(math.nan), "gamma must be finite numbers"),
    (lambda: table(0.5, (1.0, 1.0)), "log_snr must hold two or more increasing numbers"),
    (lambda: table(0.5, low=1.0, high=1.0), "low must be below high, or both None, got 1.0 and 1.0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
