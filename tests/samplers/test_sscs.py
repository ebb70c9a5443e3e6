"""SSCS against matrix exponentials, its weak order without noise, its strong order on one Brownian motion."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.samplers.phase import _angle, _integral
from support import thinned

F64 = torch.float64
BACK = np.array([[0.0, -1.0], [1.0, -2.0]])  # A of the reverse equation, per unit of βτ
KICK = np.array([[0.0, 0.0], [0.0, 4.0]])


class Given:
    """Noise whose normals are given: ``parts[tag]`` ``(B, 2, D)`` for each part of the draw."""

    def __init__(self, parts):
        self.parts = parts

    def fold_in(self, tag):
        return Given(self.parts[tag])

    def normal(self, shape):
        return self.parts


def gaussian(mean=0.5, variance=0.25):
    return worlds.GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([[variance]]))


def step(process, denoiser, z, t, s, first, second):
    t, s = (torch.tensor(v, dtype=F64) for v in (t, s))
    return samplers.SSCS().step(samplers.State(z, t), s, denoiser, Given({1: first, 2: second})).x


def rows(*values):
    return torch.tensor(values, dtype=F64)[..., None]


@pytest.mark.parametrize(("t", "s"), [(0.6, 0.5), (0.9, 0.2)])
def test_the_integral_of_a_second_value(t, s):
    """∫ A(τ) dφ from t to s, φ = arctan σ/α, against adaptive quadrature over φ."""
    process = processes.PhaseSpace()
    at = lambda v: torch.tensor(v, dtype=F64)
    lift = lambda angle: process.bridge_coefficients(process.time(-2 * torch.log(torch.tan(at(angle)))), at(s), 0.0)[0]
    found = _integral(process, at(t), at(s))
    ends = [float(_angle(process, at(v))) for v in (t, s)]
    for j in range(2):
        wanted = quad(lambda angle, j=j: float(lift(angle)[j]), *ends, epsabs=1e-12, epsrel=1e-10)[0]
        assert float(found[j]) == pytest.approx(wanted, rel=1e-4)


def test_a_step_is_the_paper_s():
    """Half of A by the matrix exponential, dv = 4β h (∇_v log p + v) at the middle, half of A; noise of root (LLᵀ).

    Only the law of the noise is the paper's: its covariance is I − e^{Ay} e^{Aᵀy}, as N(0, I) is stationary.
    """
    process, world = processes.PhaseSpace(5.0, 0.1), worlds.random_mixture(1, components=3, seed=1)
    z, t, s = rows([0.3, -0.4], [1.0, 0.7]), 0.6, 0.44
    half = expm(BACK * 5.0 * (t - s) / 2)
    root = np.linalg.cholesky(np.eye(2) - half @ half.T)
    draws = [rows([0.1, 0.9], [-1.2, 0.3]), rows([0.5, -0.6], [0.8, 0.2])]
    # The mirrored frame of ``transition``: its root is mirrored too, and so are the signs of the second normal.
    mirror = np.diag([1.0, -1.0])
    noises = [torch.as_tensor(mirror @ np.linalg.cholesky(mirror @ root @ root.T @ mirror)) for _ in range(2)]
    move = lambda z, noise, n: torch.as_tensor(half) @ z + noise @ n
    middle = move(z, noises[0], draws[0])
    score = world.score(middle, process, (t + s) / 2)[:, 1]
    kicked = torch.stack((middle[:, 0], middle[:, 1] + 4 * 5.0 * (t - s) * (score + middle[:, 1])), 1)
    expected = move(kicked, noises[1], draws[1])
    got = step(process, world.denoiser(process), z, t, s, *draws)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def law(process, world, grid, mean, cov):
    """Mean and covariance after the grid, for normal data: every step is affine in state and normals."""
    zero = torch.zeros(1, 2, 1, dtype=F64)
    denoiser = world.denoiser(process)
    for t, s in itertools.pairwise(grid):
        units = torch.eye(6, dtype=F64).reshape(6, 6, 1)
        at = step(process, denoiser, zero, t, s, zero, zero)
        moved = step(process, denoiser, units[:, :2], t, s, units[:, 2:4], units[:, 4:])
        linear = (moved - at)[..., 0].T
        mean = at[0, :, 0] + linear[:, :2] @ mean
        cov = linear[:, :2] @ cov @ linear[:, :2].T + linear[:, 2:] @ linear[:, 2:].T
    return mean, cov


@pytest.mark.parametrize(("beta", "gamma"), thinned([(8.0, 0.04), (3.0, 1.0)], 2))
def test_weak_order_one(beta, gamma):
    """Mean and covariance of (x, v) at t = 0.05, from the exact law at 1, without Monte Carlo: the error halves.

    On N(½, ¼) every step is an affine map, so the law after n steps is a product of matrices; slope 1 within 0.1.
    """
    process, world = processes.PhaseSpace(beta, gamma), gaussian()

    def truth(t):
        k = process.gain(t)
        return 0.5 * k, 0.25 * k[:, None] * k + process.cov(t)

    errors = []
    for n in (40, 80, 160):
        mean, cov = law(process, world, np.linspace(1, 0.05, n + 1), *truth(1.0))
        known = truth(0.05)
        errors.append(float(torch.cat(((mean - known[0]), (cov - known[1]).flatten())).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(4)
    assert abs(slope - 1) < 0.1, (slope, errors)


def test_exact_where_the_score_drives_nothing():
    """For N(0, 1) data with γ = 1 the whole of phase space is at equilibrium: any step keeps N(0, I), to rounding."""
    process, world = processes.PhaseSpace(8.0, 1.0), gaussian(0.0, 1.0)
    mean, cov = law(process, world, [1.0, 0.7, 0.1, 0.05], torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    torch.testing.assert_close(mean, torch.zeros(2, dtype=F64), rtol=0, atol=1e-13)
    torch.testing.assert_close(cov, torch.eye(2, dtype=F64), rtol=0, atol=1e-13)


def test_strong_order_one():
    """On one Brownian motion the path's end differs from that of four times as many steps by O(h).

    The noise of half a coarse step is that of its fine steps, carried to its end by e^{Ay}; what is given to the
    sampler is that noise times the inverse of the root it will be multiplied by. Slope within 0.15 over two doublings,
    in mean over 200 paths of a mixture.
    """
    process, world, n = processes.PhaseSpace(), worlds.random_mixture(1, components=3, seed=1), 200
    start, finest = world.sample(n, 3, process=process, t=1.0), 256
    h = 0.9 / finest
    mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=F64))

    def root(steps):  # of half a step of so many finest ones, as the sampler multiplies it
        return mirror @ process.transition_root(torch.tensor(h * steps / 2, dtype=F64))

    fine = torch.stack([root(1) @ Noise(7, n, i).normal((2, 1)) for i in range(2 * finest)])

    def end(steps):
        count = finest // steps
        parts = fine
        size = 1.0
        while len(parts) > 2 * steps:  # a half step is its first half carried on, and its second
            parts = torch.as_tensor(expm(BACK * process.beta * h * size / 2)) @ parts[0::2] + parts[1::2]
            size *= 2
        normals = torch.linalg.inv(root(count)) @ parts
        z, grid = start, torch.linspace(1, 0.1, steps + 1, dtype=F64).tolist()
        for i, (t, s) in enumerate(itertools.pairwise(grid)):
            z = step(process, world.denoiser(process), z, t, s, normals[2 * i], normals[2 * i + 1])
        return z

    ends = [end(steps) for steps in (16, 32, 64, 256)]
    errors = [float((z - ends[-1]).flatten(1).norm(dim=1).mean()) for z in ends[:-1]]
    slope = math.log(errors[0] / errors[-1]) / math.log(4)
    # against 256 steps, not the limit: (1/16 − 1/256) / (1/64 − 1/256) is 5 where 4 is meant, a slope of 1.16
    assert abs(slope - math.log(5) / math.log(4)) < 0.15, (slope, errors)


def test_refusals():
    sscs, z = samplers.SSCS(), torch.zeros(1, 2, 2, dtype=F64)
    with pytest.raises(UserError, match="SSCS needs velocities to kick, which VP does not have"):
        langevin.sample(worlds.ring().denoiser(processes.VP()), sscs)
    denoiser = worlds.ring().denoiser(processes.PhaseSpace())
    with pytest.raises(UserError, match="grid must decrease for the reverse SDE"):
        list(langevin.trajectory(denoiser, sscs, grid=[0.1, 0.5], start=z))
