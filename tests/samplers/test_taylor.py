"""Quasi-Taylor: true on a single point, Euler at order 1, DDIM in the limit."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.samplers import State
from langevin.samplers.linear.taylor import polynomial
from support import thinned

F64 = torch.float64
PROCESSES = [processes.VP(), processes.SubVP(), processes.VE(), processes.Cosine(), processes.DDPM()]


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=F64)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("process", thinned(PROCESSES[:4], 2), ids=lambda p: type(p).__name__)
def test_order_on_a_single_point(process, order):
    """With one data point the derivatives are the true ones: x_s = α_s a + σ_s ε, reached with order p (± 0.1)."""
    point = torch.tensor([[0.4, -1.1]], dtype=F64)
    denoiser = worlds.Empirical(point).denoiser(process)
    noise = torch.tensor([[1.3, 0.2]], dtype=F64)
    t, s = at(0.7), at(0.3)
    start, exact = (process.alpha(u) * point + process.sigma(u) * noise for u in (t, s))
    errors = []
    for n in (32, 64, 128):
        grid = torch.linspace(0.7, 0.3, n + 1, dtype=F64)
        *_, last = langevin.trajectory(denoiser, samplers.QuasiTaylor(order), grid=grid, start=start)
        errors.append(float((last.x - exact).norm()))
    assert abs(math.log2(errors[0] / errors[-1]) / 2 - order) < 0.15, errors


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_order_one_is_euler_and_the_limit_is_ddim(process):
    """p = 1 is Euler on the probability flow; the distance to DDIM's step falls like h^{p+1}."""
    world = worlds.random_mixture(3, components=3, rms=0.7, seed=1)
    t = at(0.5105)
    x, denoiser = world.sample(8, 1, process=process, t=t), world.denoiser(process)
    taylor = lambda p, s: samplers.QuasiTaylor(p).step(State(x, t), s, denoiser, None).x
    euler = samplers.Euler().step(State(x, t), at(0.3), denoiser, None).x
    torch.testing.assert_close(taylor(1, at(0.3)), euler, rtol=1e-11, atol=1e-11)
    if isinstance(process, processes.DDPM):
        return  # between knots only, where the table is one cubic
    for p in (1, 2, 3):
        gaps = []
        for h in (0.02, 0.01):
            plain = samplers.DDIM().step(State(x, t), t - h, denoiser, None).x
            gaps.append(float((taylor(p, t - h) - plain).norm()))
        assert abs(math.log2(gaps[0] / gaps[1]) - (p + 1)) < 0.15, (p, gaps)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("process", PROCESSES[:4], ids=lambda p: type(p).__name__)
def test_moments_of_a_step_with_noise(process, order, eta):
    """On a single point a step is Gaussian: mean and variance err by h^{p+1} (± 0.2 at h = 1/100 and 1/200).

    The exact ones, in ρ = σ/α: κ = (σ_s/σ_t)(ρ_s/ρ_t)^{η²} and σ_s² (1 − (ρ_s/ρ_t)^{2η²}).
    """
    denoiser = worlds.Empirical(torch.tensor([[0.4]], dtype=F64)).denoiser(process)
    t, start, n = at(0.62), torch.tensor([[1.1]], dtype=F64), 2
    gaps = []
    for h in (0.01, 0.005):
        s = t - h
        row = samplers.QuasiTaylor(order, eta).coefficients(process, (float(t),), float(s))
        ratio = torch.exp((process.log_snr(t) - process.log_snr(s)) / 2)
        kept = process.sigma(s) / process.sigma(t) * ratio ** (eta**2)
        mean = process.alpha(s) * 0.4 + kept * (start - process.alpha(t) * 0.4)
        variance = process.sigma2(s) * (1 - ratio ** (2 * eta**2))
        made = row.scale * start + row.weights[0] * denoiser(start, t).mean
        gaps.append((float((made - mean).abs()), abs(row.std**2 - float(variance))))
    for one, other in zip(*gaps):
        assert abs(math.log2(one / other) - (order + 1)) < 0.2, gaps
    both = [
        sampler.step(State(start.expand(n, 1), t), t - 0.01, denoiser, Noise(3, n)).x
        for sampler in (samplers.QuasiTaylor(1, eta), samplers.EulerMaruyama(eta))
    ]
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)


def test_polynomial():
    """Of e^{3t} and of a constant, against the closed form; gradients pass through a time that has one."""
    t, s = torch.tensor([0.2, 0.5], dtype=F64), torch.tensor([0.4, 0.1], dtype=F64)
    z = 3 * (s - t)
    made = polynomial(lambda u: torch.exp(3 * u), t, s, 3)
    torch.testing.assert_close(made, torch.exp(3 * t) * (1 + z + z**2 / 2 + z**3 / 6), rtol=1e-14, atol=0)
    torch.testing.assert_close(polynomial(torch.ones_like, t, s, 3), torch.ones(2, dtype=F64))
    u = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(polynomial(lambda v: v**3, u, s, 1).sum(), u)
    torch.testing.assert_close(slope, 6 * t * (s - t))


def test_refusals():
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    for call, message in (
        (lambda: samplers.QuasiTaylor(4), "order must be 1, 2 or 3, got 4"),
        (lambda: samplers.QuasiTaylor(0), "order must be 1, 2 or 3, got 0"),
        (lambda: samplers.QuasiTaylor(3, 1.0), "order must be 1 or 2 with eta > 0, got 3"),
        (lambda: samplers.QuasiTaylor(2, -1.0), "eta must be a finite number >= 0, got -1.0"),
        (lambda: langevin.sample(tokens, "quasi-taylor"), "quasi-Taylor needs"),
    ):
        with pytest.raises(UserError, match=message):
            call()
