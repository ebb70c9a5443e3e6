"""The maximum-likelihood SDE solver: the paper's update written out, and what it is exact for."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Denoiser, calibrate, dirac
from langevin.distributions import Dirac
from langevin.samplers import State

VP = processes.VP()


def published(x: torch.Tensor, x0: torch.Tensor, t: float, s: float, left: float, z: torch.Tensor) -> torch.Tensor:
    """Eq. 10, 12 and theorem 1 of arXiv:2109.13821, with ``left`` for E tr Var[x_0 | x_t] / D."""
    integral = lambda a, b: VP.beta_min * (b - a) + 0.5 * (VP.beta_max - VP.beta_min) * (b**2 - a**2)
    gamma = lambda a, b: math.exp(-0.5 * integral(a, b))
    h, beta = t - s, VP.beta_min + (VP.beta_max - VP.beta_min) * t
    mu = gamma(s, t) * (1 - gamma(0, s) ** 2) / (1 - gamma(0, t) ** 2)
    nu = gamma(0, s) * (1 - gamma(s, t) ** 2) / (1 - gamma(0, t) ** 2)
    sigma2 = (1 - gamma(0, s) ** 2) * (1 - gamma(s, t) ** 2) / (1 - gamma(0, t) ** 2)
    kappa = nu * (1 - gamma(0, t) ** 2) / (gamma(0, t) * beta * h) - 1
    omega = (mu - 1) / (beta * h) + (1 + kappa) / (1 - gamma(0, t) ** 2) - 0.5
    score = (gamma(0, t) * x0 - x) / (1 - gamma(0, t) ** 2)
    return x + beta * h * ((0.5 + omega) * x + (1 + kappa) * score) + math.sqrt(sigma2 + nu**2 * left) * z


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.7), (0.5, 0.1), (0.3, 0.299)])
@pytest.mark.parametrize("std", [0.0, 0.4, 1.0])
def test_published_update(t: float, s: float, std: float) -> None:
    """The same noise, the same state: to the rounding of κ* and ω*, differences of numbers of size 1/(β h)."""
    world = worlds.random_mixture(3, components=3, rms=0.6, seed=1)
    denoiser, noise = world.denoiser(VP), Noise(4, 5)
    x = world.sample(5, 2, process=VP, t=t)
    now, then = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
    got = samplers.MaximumLikelihoodSDE(std).step(State(x, now), then, denoiser, noise).x
    ratio = float(VP.sigma2(now) / VP.alpha(now) ** 2)
    left = std**2 * ratio / (std**2 + ratio)
    expected = published(x, denoiser(x, now).mean, t, s, left, noise.normal((3,)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_theorem_is_ancestral_sampling_from_a_calibrated_model() -> None:
    world = worlds.random_mixture(3, components=3, rms=0.6, seed=1)
    denoiser, noise = world.denoiser(VP), Noise(4, 5)
    found = calibrate(denoiser, world.sample(200), times=4)
    t, s = torch.tensor([0.5, 0.2], dtype=torch.float64)
    x = world.sample(5, 2, process=VP, t=t)
    got = samplers.Ancestral().step(State(x, t), s, found(denoiser), noise).x
    left = float(found.at(VP.log_snr(t)))
    assert left > 0.01
    torch.testing.assert_close(
        got, published(x, denoiser(x, t).mean, 0.5, 0.2, left, noise.normal((3,))), rtol=0, atol=1e-10
    )


def test_exact_at_any_length_for_isotropic_normal_data() -> None:
    """One reverse step from the moments of the data is the true one; β̃ is not."""
    world = worlds.GaussianMixture(torch.ones(1), torch.tensor([[0.3, -0.2]]), torch.tensor([0.16]))
    denoiser, x = world.denoiser(VP), torch.tensor([[0.4, -1.0]]).double()
    exact = VP.reverse(x, denoiser(x, 0.8), 0.8, 0.1)
    step = samplers.MaximumLikelihoodSDE()
    law = VP.reverse(x, step.belief(denoiser)(x, 0.8), 0.8, 0.1)
    torch.testing.assert_close(law.mean, exact.mean, rtol=1e-12, atol=1e-12)
    exact_variance = torch.diagonal(exact.cov.dense((2,)), dim1=1, dim2=2)
    torch.testing.assert_close(law.cov.diagonal((2,)).expand(1, 2), exact_variance, rtol=1e-12, atol=0)
    small = VP.reverse(x, dirac(denoiser)(x, 0.8), 0.8, 0.1).cov.diagonal((2,))
    assert float(small.max()) < 0.7 * float(exact_variance.min())


def test_refusals() -> None:
    with pytest.raises(UserError, match="std must be a finite number >= 0, got -1"):
        samplers.MaximumLikelihoodSDE(-1)

    class Unknown(Denoiser):
        process, shape = VP, (2,)

        def __call__(self, x_t, t):
            return Dirac(x_t)

    with pytest.raises(UserError, match="std must be given to 'ml-sde'"):
        samplers.sample(Unknown(), samplers.MaximumLikelihoodSDE(), n=2)
