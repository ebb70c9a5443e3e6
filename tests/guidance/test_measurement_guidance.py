"""Guidance by a measurement against closed forms: beliefs on normal data, and the laws that samplers make of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import dawsn

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.denoisers import dirac
from langevin.distributions import Dirac
from langevin.guidance import dps, moment_matching, pigdm
from langevin.operators import Inpaint, Matrix, Measurement, PoissonNoise, compressed_sensing, measure
from support import log_prob_gap, sliced_w2, thinned, w2_floor

DIM = 6
WORLD = worlds.random_mixture(DIM, components=1, rms=0.7, seed=1)
MASK = torch.tensor([1.0, 0, 1, 1, 0, 0])
OPERATORS = {
    "inpaint": Inpaint(MASK),
    "random": compressed_sensing((DIM,), 3, seed=2),
    "more rows than data": compressed_sensing((DIM,), 9, seed=3),
    "same row twice": Matrix(torch.eye(DIM, dtype=torch.float64)[[0, 0, 2]]),
}


class Unknown(Matrix):
    """A matrix that does not know its singular values: what needs none goes by conjugate gradients."""

    def svd(self, shape):
        return None


def states(count=5, seed=0):
    return Noise(seed, count).normal((DIM,))


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("std", [0.0, 0.02, 0.5])
def test_moment_matching_is_exact_on_normal_data(operator, std):
    """Mean and covariance of p(x_0 | x_t, y) on every kind of process, by the belief's covariance and by its Jacobian.

    To 1e-8: the condition of A C Aᵀ + s² I is below 1e7 here, and its solution is used once.
    """
    m = measure(operator, WORLD.sample(1, 5), std, seed=1)
    for process in (processes.VP(), processes.EDM(), processes.RectifiedFlow()):
        denoiser = WORLD.denoiser(process)
        truth = WORLD.posterior(operator, m.y, std).denoiser(process)
        for t in (0.1, 0.5, 0.9):
            exact = truth(states(), t)
            whole = moment_matching(denoiser, m)(states(), t)
            assert (whole.mean - exact.mean).abs().max() < 1e-8
            assert (whole.cov.dense((DIM,)) - exact.cov.dense((DIM,))).abs().max() < 1e-8
            point = moment_matching(dirac(denoiser), m, iterations=40)(states(), t)
            assert isinstance(point, Dirac)
            assert (point.mean - exact.mean).abs().max() < 1e-6


def test_few_iterations_are_few_gradients():
    """Conjugate gradients with one iteration are not the solution yet; with as many as numbers measured they are."""
    m = measure(OPERATORS["random"], WORLD.sample(1, 5), 0.1)
    denoiser = dirac(WORLD.denoiser(processes.VP()))
    exact = WORLD.posterior(m.operator, m.y, 0.1).denoiser(processes.VP())(states(), 0.5).mean
    error = lambda k: float((moment_matching(denoiser, m, iterations=k)(states(), 0.5).mean - exact).abs().max())
    assert error(1) > 1e-3
    assert error(3) < 1e-10


@pytest.mark.parametrize("operator", [OPERATORS["inpaint"], OPERATORS["random"]], ids=["inpaint", "random"])
@pytest.mark.parametrize("std", thinned([0.05, 0.0, 0.5], 3))
def test_moment_matching_samples_the_posterior(operator, std):
    """Ancestral sampling of the whole belief is exact in four steps: W2 at the floor of 1000 samples."""
    m = measure(operator, WORLD.sample(1, 5), std, seed=1)
    truth = WORLD.posterior(operator, m.y, std)
    x = langevin.sample(moment_matching(WORLD.denoiser(processes.VP()), m), samplers.Ancestral(), n=1000, steps=4)
    assert sliced_w2(x, truth.sample(1000, 9)) < w2_floor(truth, 1000)
    if std:
        assert log_prob_gap(truth, x) < 4.5


def test_pigdm_is_exact_on_isotropic_data():
    """Its belief of one variance is true of N(m, δ²I), in mean and covariance; with the paper's r² only for δ = 1."""
    for std in (0.0, 0.3):
        for delta in (0.4, 1.0):
            world = worlds.GaussianMixture(
                torch.ones(1), torch.full((1, DIM), 0.2), torch.tensor([delta**2], dtype=torch.float64)
            )
            denoiser = world.denoiser(processes.VP())
            m = measure(OPERATORS["random"], world.sample(1, 2), std)
            exact = world.posterior(m.operator, m.y, std).denoiser(processes.VP())(states(), 0.6)
            for given in (delta, None):
                found = pigdm(denoiser, m, sigma_data=given)(states(), 0.6)
                assert (found.mean - exact.mean).abs().max() < 1e-10
                assert (found.cov.dense((DIM,)) - exact.cov.dense((DIM,))).abs().max() < 1e-10
            published = pigdm(denoiser, m)(states(), 0.6).mean
            assert ((published - exact.mean).abs().max() < 1e-10) == (delta == 1.0)


@pytest.mark.parametrize("std", [0.0, 0.1])
def test_pigdm_without_singular_values(std):
    """The same by iterations, and through the gradients of what follows it."""
    known = OPERATORS["random"]
    m = measure(known, WORLD.sample(1, 5), std)
    denoiser = WORLD.denoiser(processes.VP())
    blind = Measurement(Unknown(known.values), m.y, std)
    for guided in (pigdm(denoiser, m), pigdm(dirac(denoiser), m)):
        other = pigdm(guided.base, blind)
        assert (guided(states(), 0.4).mean - other(states(), 0.4).mean).abs().max() < 1e-5
        x = states().requires_grad_()
        one = torch.autograd.grad(guided(x, 0.4).mean.square().sum(), x)[0]
        two = torch.autograd.grad(other(x, 0.4).mean.square().sum(), x)[0]
        assert (one - two).abs().max() < 1e-4 * one.abs().max()


@pytest.mark.parametrize("make", [dps, pigdm], ids=["dps", "pigdm"])
def test_the_covariance_is_the_derivative_of_the_mean(make):
    """C' = σ²/α ∂x̂_0'/∂x_t, which on normal data is what the belief keeps; to 1e-9 of its size."""
    m = measure(OPERATORS["random"], WORLD.sample(1, 5), 0.3)
    process, t = processes.VP(), torch.tensor(0.5, dtype=torch.float64)
    guided = make(WORLD.denoiser(process), m)
    jacobian = torch.autograd.functional.jacobian(lambda v: guided(v[None], t).mean[0], states()[0])
    expected = process.sigma2(t) / process.alpha(t) * jacobian
    assert (guided(states()[:1], t).cov.dense((DIM,))[0] - expected).abs().max() < 1e-9 * expected.abs().max()


def test_dps_has_two_norms_under_two_names():
    """x̂_0' by hand, with the Jacobian of normal data: −σ²/(2s²α)∇|r|² and −σ²/α ∇|r|."""
    m = measure(OPERATORS["random"], WORLD.sample(1, 5), 0.3)
    process, t, x = processes.VP(), torch.tensor(0.5, dtype=torch.float64), states()
    belief = WORLD.denoiser(process)(x, t)
    strength, a = float(process.sigma2(t) / process.alpha(t)), m.operator.values
    jacobian = belief.cov.dense((DIM,)) / strength
    residual = m.y - belief.mean @ a.mT
    pull = (jacobian @ (residual @ a)[..., None])[..., 0]
    squared = belief.mean + 0.7 * strength * pull / 0.3**2
    unsquared = belief.mean + 0.7 * strength * pull / residual.norm(dim=1, keepdim=True)
    found = lambda norm: dps(WORLD.denoiser(process), m, scale=0.7, norm=norm)(x, t).mean
    assert (found("squared") - squared).abs().max() < 1e-10
    assert (found("unsquared") - unsquared).abs().max() < 1e-10


# --- What law a fine grid makes of these beliefs on normal data -----------------------------------------------------
#
# Of N(0, c²) the number h·x was measured with noise s. With ρ = α/σ, z = x_t/σ and C = c²/(1 + ρ²c²), the belief is
# x̂_0' = ρCz + Ckh(y − hρCz) where k is 1/s² for DPS, 1/(r²h² + s²) for ΠGDM with r² = δ²/(1 + δ²ρ²), and 1/(Ch² + s²)
# in truth. The flow is dz/dρ = x̂_0' from z ~ N(0, 1) at ρ = 0; with noise and w = ρz, τ = ρ², it is dw = x̂_0' dτ + dB.
# The sample is z/ρ = w/τ at the end.


def gains(h, c, s, delta):
    """k(ρ) of each guidance."""
    return {
        "dps": lambda rho: 1 / s**2 + 0 * rho,
        "pigdm": lambda rho: 1 / (delta**2 / (1 + delta**2 * rho**2) * h**2 + s**2),
        "exact": lambda rho: 1 / (c**2 / (1 + rho**2 * c**2) * h**2 + s**2),
    }


def law(h, c, s, y, k, *, noisy, ends):
    """Mean and variance of the sample, by an eighth-order integration of the scalar equations to 1e-10."""

    def coefficients(rho):
        big = c**2 / (1 + rho**2 * c**2)
        pull = big * k(rho) * h
        return big * (1 - pull * h), pull * y

    def flow(log_rho, v):
        rho = np.exp(log_rho)
        p, q = coefficients(rho)
        z = v.reshape(2, -1)
        return (rho * np.stack((rho * p * z[0] + q, rho * p * z[1]))).reshape(-1)

    def sde(log_tau, v):
        tau = np.exp(log_tau)
        p, q = coefficients(np.sqrt(tau))
        w = v.reshape(2, -1)
        return (tau * np.stack((p * w[0] + q, 2 * p * w[1] + 1))).reshape(-1)

    size = np.zeros_like(c)
    span = np.log(ends) * (2 if noisy else 1)
    # A state of pure noise at ρ has z ~ N(0, 1), that is w ~ N(0, τ).
    start = np.stack((size, size + (ends[0] ** 2 if noisy else 1.0))).reshape(-1)
    v = solve_ivp(sde if noisy else flow, span, start, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1].reshape(2, -1)
    mean = v[0] / (ends[1] ** 2 if noisy else ends[1])
    variance = v[1] / ends[1] ** 4 if noisy else (v[1] / ends[1]) ** 2
    return mean, variance


H, C, S, Y = np.array([1.0, 0.5, 1.5, 1.0]), np.array([0.8, 0.5, 0.3, 1.4]), 0.6, np.array([0.5, -0.3, 0.4, 1.0])


def test_the_law_of_dps_has_an_elementary_form():
    """With b = h²c²/s²: variance c²e^{−b} without noise and c²(1 − e^{−2b})/2b with it; Dawson's integral in the mean.

    The truth is c²/(1 + b) and c²hy/(s² + h²c²), which the exact gain gives. Ends at ρ = 1e−10 and 1e6: to 1e-8.
    """
    b, ends = H**2 * C**2 / S**2, (1e-10, 1e6)
    kind = lambda name, noisy: law(H, C, S, Y, gains(H, C, S, 1.0)[name], noisy=noisy, ends=ends)
    mean, variance = kind("dps", False)
    assert np.abs(variance - C**2 * np.exp(-b)).max() < 1e-8
    assert np.abs(mean - C**2 * H * Y / S**2 * dawsn(np.sqrt(b / 2)) / np.sqrt(b / 2)).max() < 1e-8
    mean, variance = kind("dps", True)
    assert np.abs(variance - C**2 * (1 - np.exp(-2 * b)) / (2 * b)).max() < 1e-8
    assert np.abs(mean - Y / H * (1 - np.exp(-b))).max() < 1e-8
    for noisy in (False, True):
        mean, variance = kind("exact", noisy)
        assert np.abs(variance - C**2 / (1 + b)).max() < 1e-8
        assert np.abs(mean - C**2 * H * Y / (S**2 + H**2 * C**2)).max() < 1e-8


def normal_problem():
    """The directions of the formulas as one world with one operator."""
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.as_tensor(C**2)[None])
    m = Measurement(Matrix(torch.diag(torch.as_tensor(H))), torch.as_tensor(H * 0 + Y)[None], S)
    return world, m


@pytest.mark.parametrize("name", ["dps", "pigdm", "pigdm-0.5"])
@pytest.mark.parametrize("process", [processes.EDM(), processes.VP()], ids=["edm", "vp"])
def test_samplers_make_that_law(name, process):
    """Mean and variance of what samplers make of DPS's and ΠGDM's beliefs, without a random number, to 1e-3.

    The maps are affine in each direction, so two starts tell them. The flow is solved by a third-order method (its
    error at 400 steps is below 1e-5); noisy steps are first-order, and two grids are extrapolated to the limit.
    """
    world, m = normal_problem()
    denoiser, delta = world.denoiser(process), 0.5 if name.endswith("0.5") else 1.0
    guided = dps(denoiser, m) if name == "dps" else pigdm(denoiser, m, sigma_data=delta)
    one = torch.ones((), dtype=torch.float64)
    ends = tuple(float(torch.exp(process.log_snr(t) / 2)) for t in (process.t_max, process.t_min))
    gain = gains(H, C, S, delta)[name.split("-")[0]]

    # The last step goes from t_min to 0 by the belief there, which changes nothing to 1e-5.
    mean, variance = law(H, C, S, Y, gain, noisy=False, ends=ends)
    start = torch.stack((torch.zeros(4), torch.ones(4))).double() * process.sigma(one * process.t_max)
    x = langevin.sample(
        guided, samplers.DPMSolverPP3M(), grid=samplers.grids.log_snr(process, 400), start=start, batch=2
    )
    assert np.abs(x[0].numpy() - mean).max() < 1e-3
    assert np.abs((x[1] - x[0]).numpy() ** 2 - variance).max() < 1e-3

    def ancestral(steps):
        t = samplers.grids.log_snr(process, steps)
        now, after = t[:-1], t[1:]
        ask = lambda value: process.reverse(
            torch.full((steps, 4), value).double(),
            Dirac(guided(torch.full((steps, 4), value).double(), now).mean),
            now,
            after,
        )
        zero, unit = ask(0.0), ask(1.0)
        m, v = torch.zeros(4).double(), torch.full((4,), float(process.sigma(now[0]) ** 2)).double()
        for i in range(steps):
            slope = unit.mean[i] - zero.mean[i]
            m, v = slope * m + zero.mean[i], slope**2 * v + zero.cov.diagonal((4,)).expand(steps, 4)[i]
        return m.numpy(), v.numpy()

    mean, variance = law(H, C, S, Y, gain, noisy=True, ends=ends)
    coarse, fine = ancestral(1000), ancestral(2000)
    assert np.abs(2 * fine[0] - coarse[0] - mean).max() < 1e-3
    assert np.abs(2 * fine[1] - coarse[1] - variance).max() < 1e-3
    exact = law(H, C, S, Y, gains(H, C, S, 1.0)["exact"], noisy=True, ends=ends)
    assert np.abs(exact[1] - variance).max() > 1e-2  # what is matched is a bias, not the truth


def test_any_noise_and_any_operator_that_is_differentiable():
    """DPS takes Poisson noise; its gradient is that of the likelihood of the mean."""
    m = measure(OPERATORS["inpaint"], WORLD.sample(1, 5).abs(), PoissonNoise(20.0, 2.0))
    assert dps(WORLD.denoiser(processes.VP()), m)(states(), 0.5).mean.isfinite().all()


def test_one_measurement_a_sample():
    """A batch with measurements of its own gives each sample what it gets alone."""
    m = measure(OPERATORS["random"], WORLD.sample(5, 5), 0.2)
    for make in (dps, pigdm, moment_matching):
        guided = make(WORLD.denoiser(processes.VP()), m)
        together = guided(states(), 0.5).mean
        for i in range(5):
            alone = guided.rows(slice(i, i + 1))(states()[i : i + 1], 0.5).mean
            assert (alone - together[i]).abs().max() < 1e-12
        with pytest.raises(ValueError, match="y must hold one measurement or one a sample"):
            guided(states(4), 0.5)


def test_refusals():
    """What cannot be met names the argument."""
    denoiser = WORLD.denoiser(processes.VP())
    m = measure(OPERATORS["random"], WORLD.sample(1, 5), 0.1)
    exactly = Measurement(m.operator, m.y, 0.0)
    poisson = Measurement(m.operator, m.y.abs(), PoissonNoise(1.0))
    for make in (dps, pigdm, moment_matching):
        with pytest.raises(ValueError, match="measurement must be"):
            make(denoiser, m.y)
        with pytest.raises(ValueError, match="denoiser must be"):
            make(WORLD, m)
        with pytest.raises(ValueError, match="y must be measurements"):
            make(denoiser, Measurement(m.operator, m.y[:, :2], 0.1))
    with pytest.raises(ValueError, match="std must be > 0 for norm='squared'"):
        dps(denoiser, exactly)
    with pytest.raises(ValueError, match="norm must be"):
        dps(denoiser, m, norm="l2")
    with pytest.raises(ValueError, match="scale must be a finite"):
        dps(denoiser, m, scale=math.nan)
    with pytest.raises(ValueError, match="sigma_data must be > 0"):
        pigdm(denoiser, m, sigma_data=0.0)
    with pytest.raises(ValueError, match="iterations must be"):
        moment_matching(denoiser, m, iterations=0)
    for make in (pigdm, moment_matching):
        with pytest.raises(ValueError, match="noise must be Gaussian"):
            make(denoiser, poisson)
