"""What samplers take of a belief, and a belief read in another process: against DDPM's own numbers and exact worlds."""

from __future__ import annotations

import itertools

import pytest
import torch

from langevin import Noise, UserError, processes, worlds
from langevin.denoisers import clamp, convert, dirac, gaussian, identity, independent, isotropic, unit
from langevin.distributions import Categorical, Dirac, FiniteSet, Normal

SCALAR = {
    "vp": processes.VP(),
    "sub-vp": processes.SubVP(),
    "ve": processes.VE(),
    "edm": processes.EDM(),
    "flow": processes.RectifiedFlow(),
    "cosine": processes.Cosine(),
    "ddpm": processes.DDPM(),
    "ddpm-own": processes.DDPM([0.3, 0.01, 0.2, 0.05, 0.5]),
}
WORLD = worlds.random_mixture(2, components=3, rms=0.6, seed=4)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("std", [0.3, 1.7])
def test_isotropic_is_the_posterior_of_isotropic_data(name, std):
    """On N(m, δ²I) it is the belief itself; with δ = 0 it has no variance, with δ = 1 that of ``unit``."""
    process, mean = SCALAR[name], f64([0.5, -0.2])
    world = worlds.GaussianMixture(f64([1.0]), mean[None], std**2 * torch.eye(2).double()[None])
    base, x = world.denoiser(process), f64([[0.4, -0.8], [2.0, 0.1]])
    variance = lambda law, t: law(x, t).cov.diagonal((2,)).expand(2, 2)
    for t in (0.2, 0.6, 0.999):
        torch.testing.assert_close(isotropic(base, std)(x, t).mean, base(x, t).mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            variance(isotropic(base, std), t), variance(gaussian(base), t), rtol=1e-9, atol=1e-12
        )
        assert not variance(isotropic(base, 0.0), t).any()
        assert torch.equal(variance(isotropic(base, 1.0), t), variance(unit(base), t))
    for bad in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"std must be a (finite )?number"):
            isotropic(base, bad)


@pytest.mark.parametrize("betas", [processes.linear_betas(), processes.cosine_betas(), (0.3, 0.01, 0.2)])
def test_dirac_and_unit_are_ddpms_two_variances(betas):
    """``reverse`` at a step of the table: β̃_n from the mean alone, β_n from unit variance; both with DDPM's mean."""
    process, total = processes.DDPM(betas), len(betas)
    base = WORLD.denoiser(process)
    x = f64([[0.4, -0.8]])
    alpha_bar = torch.cumprod(1 - f64(betas), 0)
    for n in sorted({2, 3, total // 2 + 1, total}):
        t, s, beta = f64(n / total), f64((n - 1) / total), f64(betas[n - 1])
        now, before = alpha_bar[n - 1], alpha_bar[n - 2]
        x0 = base(x, t).mean
        mean = (torch.sqrt(before) * beta * x0 + torch.sqrt(1 - beta) * (1 - before) * x) / (1 - now)
        for pick, variance in ((dirac, beta * (1 - before) / (1 - now)), (unit, beta)):
            law = process.reverse(x, pick(base)(x, t), t, s)
            torch.testing.assert_close(law.mean, mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(law.cov.diagonal((2,)).expand(1, 2), variance.expand(1, 2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SCALAR)
def test_unit_is_the_transition_of_unit_data(name):
    """The posterior of N(0, I): exact for such data at any stride, so for VP 1 − ᾱ_t/ᾱ_s, at a time a sample."""
    process = SCALAR[name]
    world = worlds.GaussianMixture(f64([1.0]), f64([[0.0, 0.0]]), torch.eye(2).double()[None])
    t, s = f64([0.3, 0.9]), f64([0.2, 0.1])
    x = f64([[0.4, -0.8], [1.0, 0.2]])
    law = process.reverse(x, unit(world.denoiser(process))(x, t), t, s)
    exact = process.reverse(x, world.denoiser(process)(x, t), t, s)
    torch.testing.assert_close(law.mean, exact.mean, rtol=1e-10, atol=1e-12)
    diagonal = torch.diagonal(exact.cov.dense((2,)), dim1=1, dim2=2)
    torch.testing.assert_close(law.cov.diagonal((2,)).expand(2, 2), diagonal, rtol=1e-10, atol=0)
    if name == "vp":
        ratio = (process.alpha(t) / process.alpha(s)) ** 2
        torch.testing.assert_close(law.cov.diagonal((2,)), (1 - ratio)[:, None], rtol=1e-10, atol=0)


def test_unit_of_images():
    process = SCALAR["vp"]
    world = worlds.Empirical(torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double())
    belief = unit(world.denoiser(process))(torch.zeros(4, 1, 2, 2).double(), f64([0.1, 0.2, 0.3, 0.9]))
    assert belief.cov.variance.shape == (4, 1, 1, 1)
    assert unit(world.denoiser(process))(torch.zeros(4, 1, 2, 2).double(), 0.5).cov.variance.shape == (1, 1, 1, 1)


def test_gaussian_keeps_two_moments():
    """The optimal-variance step: mean and covariance of the belief, and of reverse; exact for Gaussian data."""
    process, x = SCALAR["vp"], WORLD.sample(3, 1, process=SCALAR["vp"], t=0.5)
    base = WORLD.denoiser(process)
    belief, kept = base(x, 0.5), gaussian(base)(x, 0.5)
    assert isinstance(kept, Normal)
    torch.testing.assert_close(kept.mean, belief.mean, rtol=0, atol=0)
    torch.testing.assert_close(kept.cov.dense((2,)), belief.cov.dense((2,)), rtol=0, atol=0)
    one, two = (process.reverse(x, b, 0.5, 0.2) for b in (belief, kept))
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(one.cov.dense((2,)), two.cov.dense((2,)), rtol=1e-12, atol=1e-14)


def test_gaussian_of_a_finite_set_of_images():
    process = SCALAR["vp"]
    world = worlds.Empirical(torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double())
    x = torch.zeros(2, 1, 2, 2).double()
    law = process.reverse(x, gaussian(world.denoiser(process))(x, 0.6), 0.6, 0.3)
    assert law.sample(Noise(0, 2)).shape == x.shape


def test_whole_is_the_denoiser():
    base = WORLD.denoiser(SCALAR["vp"])
    assert identity(base) is base


def test_what_passes_through():
    """Conditions, rows, process and shape of the base are the transform's own."""
    process = SCALAR["vp"]
    base = WORLD.denoiser(process)
    x = WORLD.sample(3, 1, process=process, t=0.5)
    for pick in (dirac, gaussian, unit, clamp, lambda d: convert(d, SCALAR["edm"])):
        made = pick(base)
        assert made.conditions() == ("label",)
        assert made.shape == (2,)
        assert made.dtype == torch.float64
        assert made.device == torch.device("cpu")
        bound = made.given(label=[0, 1, 2])
        expected = pick(base.given(label=[0, 1, 2]))
        torch.testing.assert_close(bound(x, 0.5).mean, expected(x, 0.5).mean, rtol=0, atol=0)
        part = bound.rows(slice(1, 3))(x[1:], 0.5).mean
        torch.testing.assert_close(part, expected(x, 0.5).mean[1:], rtol=0, atol=1e-14)
        with pytest.raises(UserError, match="Did you mean 'label'"):
            made.given(labels=1)


def test_clamp():
    base = WORLD.denoiser(SCALAR["vp"])
    x = f64([[30.0, 0.1]])
    belief = clamp(base, -0.5, 0.4)(x, 0.05)
    assert isinstance(belief, Dirac)
    assert torch.equal(belief.mean, base(x, 0.05).mean.clamp(-0.5, 0.4))
    assert float(belief.mean.max()) <= 0.4


@pytest.mark.parametrize(("own", "other"), list(itertools.product(SCALAR, SCALAR)))
def test_converted_belief_is_that_of_the_other_process(own, other):
    """Every pair at equal log-SNR: what a network trained in one process believes is what one of the other would.

    Wherever the log-SNR of the state is in reach of the own process, at a time a sample.
    """
    source, target = SCALAR[own], SCALAR[other]
    low = max(float(source.log_snr(source.t_max)), float(target.log_snr(target.t_max)))
    high = min(float(source.log_snr(source.t_min)), float(target.log_snr(target.t_min)))
    t = target.time(torch.linspace(low + 0.1, high - 0.1, 5, dtype=torch.float64))
    x = WORLD.sample(5, 1, process=target, t=t)
    converted = convert(WORLD.denoiser(source), target)
    assert converted.process == target
    got, known = converted(x, t), WORLD.denoiser(target)(x, t)
    torch.testing.assert_close(got.mean, known.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.cov.dense((2,)), known.cov.dense((2,)), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("own", SCALAR)
@pytest.mark.parametrize("other", SCALAR)
def test_converted_belief_is_finite_at_both_ends(own, other):
    """Outside the reach of the own process its end is asked; at t = 0 the state is the datum."""
    source, target = SCALAR[own], SCALAR[other]
    converted = convert(WORLD.denoiser(source), target)
    x = WORLD.sample(2, 1, process=target, t=1.0)
    assert converted(x, 1.0).mean.isfinite().all()
    assert float(converted(x, 1.0).mean.abs().max()) < 10
    clean = WORLD.sample(2, 1)
    torch.testing.assert_close(converted(clean, 0.0).mean, clean, rtol=0, atol=1e-12)


def test_convert_to_itself_is_nothing():
    base = WORLD.denoiser(SCALAR["vp"])
    assert convert(base, processes.VP()) is base


def test_independent():
    """Of a joint table the marginals of the positions; the shape of what the chain's closed reverse takes."""
    process = processes.Uniform(2)
    world = worlds.TokenTable(torch.tensor([[0.4, 0.1], [0.1, 0.4]]))
    x = torch.tensor([[0, 0], [0, 1], [1, 1]])
    joint, alone = world.denoiser(process)(x, 0.5), independent(world.denoiser(process))(x, 0.5)
    assert isinstance(joint, FiniteSet)
    assert isinstance(alone, Categorical)
    table = joint.log_weights.exp().reshape(3, 2, 2)
    torch.testing.assert_close(alone.probs[:, 0], table.sum(2), rtol=0, atol=1e-15)
    torch.testing.assert_close(alone.probs[:, 1], table.sum(1), rtol=0, atol=1e-15)
    again = independent(independent(world.denoiser(process)))
    assert torch.equal(again(x, 0.5).probs, alone.probs)


REFUSED = [
    (lambda: clamp(WORLD.denoiser(SCALAR["vp"]), 1.0, 1.0), "low must be below high, got 1.0 and 1.0"),
    (lambda: convert(WORLD.denoiser(processes.PhaseSpace()), SCALAR["vp"]), "convert needs a process with"),
    (lambda: convert(WORLD.denoiser(SCALAR["vp"]), processes.Absorbing(3)), "convert needs a process with `observe`"),
    (lambda: unit(WORLD.denoiser(processes.PhaseSpace())), "variance β needs a process with"),
    (lambda: independent(WORLD.denoiser(SCALAR["vp"])), "independent needs a chain on tokens, got VP"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
