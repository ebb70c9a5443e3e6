"""Explicit, denoising, sliced and implicit score matching: one minimum, the exact score of a mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin import objectives, processes, worlds
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser, Transform
from langevin.distributions import Dirac, Distribution, Noise
from langevin.objectives.matching import PROBES
from langevin.processes import ScalarGaussian, expand
from support import thinned

WORLD = worlds.ring(3, 1.0, 0.3)
TRUTH = {"name": "ring", "components": 3, "radius": 1.0, "std": 0.3}
MODEL_TYPES: dict[str, dict[str, Any]] = {
    "explicit": {"name": "explicit", "world": TRUTH},
    "denoising": {"name": "dsm"},
    "implicit": {"name": "implicit"},
    "sliced": {"name": "sliced"},
    "sliced-gaussian": {"name": "sliced", "probe": "gaussian", "projections": 2},
    "sliced-vr": {"name": "sliced-vr"},
    "sliced-vr-gaussian": {"name": "sliced-vr", "probe": "gaussian"},
}


def at(t: float, **config: Any) -> objectives.Objective:
    return objectives.create_objective({**config, "times": {"name": "uniform", "low": t, "high": t}})


@dataclass(frozen=True, eq=False)
class Linear(Denoiser):
    """σ·s = φ(x)·θ at one time, with K smooth features: every score matching loss is a quadratic function of θ."""

    theta: Tensor  # (2 K,) or one a sample (B, 2 K)
    process: ScalarGaussian
    shape: tuple[int, ...] = (2,)

    @staticmethod
    def features(x: Tensor) -> Tensor:
        axis = torch.linspace(-1.5, 1.5, 4, dtype=x.dtype)
        centres = torch.cartesian_prod(axis, axis)
        bumps = torch.exp(-2 * ((x[:, None] - centres) ** 2).sum(-1))
        return torch.cat((bumps, x, torch.ones_like(x[:, :1])), 1)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        features = self.features(x_t)
        theta = self.theta.reshape(-1, features.shape[1], 2)
        scaled = torch.einsum("bk,bkd->bd", features, theta.expand(len(x_t), -1, -1))
        alpha, sigma = expand(self.process.alpha(t), x_t), expand(self.process.sigma(t), x_t)
        return Dirac((x_t + sigma * scaled) / alpha)


@pytest.mark.parametrize("kind", thinned(MODEL_TYPES, 2))
@pytest.mark.parametrize(
    ("process", "t"), thinned([(processes.VP(), 0.2), (processes.VE(0.05, 5.0), 0.45)], 2), ids=["vp", "ve"]
)
def test_one_minimum(kind: str, process: ScalarGaussian, t: float) -> None:
    r"""With features linear in θ every kind has the same minimiser as the exact score's projection, within its noise.

    θ* solves E[φφᵀ] θ = E[φ σ∇log p_t], taken over 100,000 draws of the exact score. A loss quadratic in θ with
    gradients g_i of its samples and Hessian H has its minimum at θ̂ with
    :math:`\sqrt n(\hat θ - θ^*) → N(0, H^{-1} \mathrm{Cov}(g) H^{-1})`: the normalised square is χ² with K degrees, of
    mean K and standard deviation √(2K); five of those are allowed, and a twentieth for the finite reference.
    """
    n, count = 5000, 38
    objective = at(t, **MODEL_TYPES[kind])
    x0 = WORLD.sample(n, 11)

    def gradients(theta: Tensor) -> Tensor:
        each = theta.expand(n, -1).clone().requires_grad_()
        loss = objective(Linear(each, process), x0, None, Noise(3, n))
        return torch.autograd.grad(loss.sum(), each)[0]

    zero = torch.zeros(count, dtype=torch.float64)
    g0 = gradients(zero).mean(0)
    hessian = torch.stack([gradients(unit).mean(0) - g0 for unit in torch.eye(count, dtype=torch.float64)])
    found = -torch.linalg.solve(hessian, g0)
    many = WORLD.sample(100_000, 12, process=process, t=t)
    exact = float(process.sigma(torch.tensor(t, dtype=torch.float64))) * WORLD.score(many, process, t)
    phi = Linear.features(many)
    best = torch.linalg.lstsq(phi, exact).solution.reshape(-1)
    spread = torch.cov(gradients(found).T) / n
    off = hessian @ (found - best)
    square = float(off @ torch.linalg.solve(spread, off))
    assert square < 1.05 * (count + 5 * math.sqrt(2 * count)), square
    # And it is the score: beyond the misfit of the features there is that noise alone, of mean tr(M H⁻¹ Cov H⁻¹) and at
    # most √2 times as large a standard deviation.
    size = exact.square().sum(1).mean()
    misfit = (phi @ best.reshape(-1, 2) - exact).square().sum(1).mean() / size
    mine = (phi @ found.reshape(-1, 2) - exact).square().sum(1).mean() / size
    moment = torch.kron(phi.T @ phi / len(phi), torch.eye(2, dtype=torch.float64))
    inverse = torch.linalg.inv(hessian)
    noise = torch.trace(moment @ inverse @ spread @ inverse) / size
    assert misfit < 0.05
    assert mine < misfit + (1 + 5 * math.sqrt(2)) * noise


class Wavy(nn.Module):
    """Any smooth network."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 8, dtype=torch.float64)
        self.outer = nn.Linear(8, 2, dtype=torch.float64)

    def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
        return self.outer(torch.tanh(2 * self.inner(torch.cat((x, time[:, None].to(x)), 1))))


def wavy(process: ScalarGaussian, prediction: str = "eps") -> NetworkDenoiser:
    torch.manual_seed(0)
    return NetworkDenoiser(Wavy(), process, AffineParameterization(prediction, sigma_data=0.7), (2,))


@pytest.mark.parametrize("kind", ["implicit", "sliced", "sliced-gaussian", "sliced-vr", "sliced-vr-gaussian"])
@pytest.mark.parametrize("weight", ["dsm", "simple", "x0"])
@pytest.mark.parametrize("prediction", ["eps", "edm"])
def test_equals_denoising_up_to_its_constant(kind: str, weight: str, prediction: str) -> None:
    """E[dsm] − E[this] is 1 at λ = σ², and E[w σ²/α²] for any weight w, for any network and over all times at once.

    The same noise for both: the mean of the difference has a standard error, of which five are allowed.
    """
    process, n = processes.VP(), 40_000
    times = {"name": "uniform", "low": 0.1}
    denoiser = wavy(process, prediction)
    x0, noise = WORLD.sample(n, 5), Noise(7, n)
    plain = objectives.create_objective({"name": weight, "times": times})
    matching = objectives.create_objective({**MODEL_TYPES[kind], "weight": weight, "times": times})
    with torch.no_grad():
        t = plain.times.quantile(process, plain.times.uniform(noise))  # type: ignore[attr-defined]
        constant = plain._weight(denoiser, t) * (process.sigma(t) / process.alpha(t)) ** 2  # type: ignore[attr-defined]
        gap = plain(denoiser, x0, None, noise) - matching(denoiser, x0, None, noise) - constant
    assert not gap.requires_grad
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(n)
    if weight == "dsm":
        assert torch.allclose(constant, torch.ones_like(constant))
        assert float(gap.std()) / math.sqrt(n) < 0.05  # enough power to see a wrong factor


def test_variances_are_in_the_papers_order() -> None:
    """One projection is noisier than four, and those than the variance-reduced form; the trace has none of it."""
    process, n = processes.VP(), 4000
    denoiser, x0, noise = wavy(process), WORLD.sample(n, 5), Noise(7, n)

    def loss(**config: Any) -> Tensor:
        with torch.no_grad():
            return at(0.3, **config)(denoiser, x0, None, noise)

    exact = loss(name="implicit")
    noise_of = lambda **config: float((loss(**config) - exact).square().mean())
    one, four = noise_of(name="sliced"), noise_of(name="sliced", projections=4)
    assert four == pytest.approx(one / 4, rel=0.2)  # a mean of four independent terms; 4,000 of them know it to 5 %
    assert noise_of(name="sliced-vr") < one / 2
    assert noise_of(name="sliced-vr", projections=64) < noise_of(name="sliced-vr") / 32


def test_gradients_reach_the_network_and_validation_has_none() -> None:
    process = processes.VP()
    denoiser, x0, noise = wavy(process), WORLD.sample(64, 5), Noise(7, 64)
    for config in MODEL_TYPES.values():
        objective = at(0.3, **config)
        loss = objective(denoiser, x0, None, noise)
        assert loss.dtype == torch.float64
        assert loss.shape == (64,)
        loss.mean().backward()
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in denoiser.network.parameters())
        denoiser.network.zero_grad()
        with torch.no_grad():
            held = objective.for_validation()(denoiser, x0, None, noise)
        torch.testing.assert_close(held, loss.detach())
        rows = torch.tensor([30, 2, 9])
        part = objective(denoiser, x0[rows], None, noise.rows(rows)).detach()
        torch.testing.assert_close(part, held[rows], rtol=1e-10, atol=1e-10)


def test_explicit_is_zero_at_the_truth() -> None:
    """Every other kind keeps the variance of its target; here there is none."""
    process, x0, noise = processes.VP(), WORLD.sample(64, 5), Noise(7, 64)
    assert float(at(0.3, **MODEL_TYPES["explicit"])(WORLD.denoiser(process), x0, None, noise).max()) < 1e-20
    assert float(at(0.3, name="dsm")(WORLD.denoiser(process), x0, None, noise).mean()) > 0.01


def test_explicit_is_the_mean_square_of_a_coordinate() -> None:
    """A belief that is δ off in every coordinate loses δ² at the weight of x̂_0, whatever the dimension."""

    class Off(Transform):
        def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
            return Dirac(self.base(x_t, t).mean + 0.25)

    process, x0, noise = processes.VP(), WORLD.sample(8, 5), Noise(7, 8)
    loss = at(0.3, **MODEL_TYPES["explicit"], weight="x0")(Off(WORLD.denoiser(process)), x0, None, noise)
    torch.testing.assert_close(loss, torch.full((8,), 0.0625, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("law", PROBES)
def test_probes_have_no_mean_and_unit_covariance(law: str) -> None:
    """E[v] = 0 and E[vvᵀ] = I of 40,000 draws, to 5 standard errors (the largest, of v_i², is √2 of a normal law)."""
    v = PROBES[law](Noise(1, 40_000), (3,))
    assert v.mean(0).abs().max() < 5 / 200
    assert (v.T @ v / len(v) - torch.eye(3, dtype=v.dtype)).abs().max() < 5 * math.sqrt(2) / 200


def test_levels() -> None:
    """Each of L geometric levels as often, at the times where σ/α is theirs."""
    law = objectives.Levels(5.0, 0.05, 9)
    process = processes.VE(0.05, 6.0)
    u = (torch.arange(900, dtype=torch.float64) + 0.5) / 900
    t = law.quantile(process, u)
    found, counts = process.sigma(t).unique(return_counts=True)
    torch.testing.assert_close(found, 0.05 * 100 ** (torch.arange(9, dtype=torch.float64) / 8), rtol=1e-9, atol=0)
    assert counts.tolist() == [100] * 9


def test_what_cannot_be_asked_is_refused() -> None:
    large = replace(wavy(processes.VP()), shape=(300,))
    with pytest.raises(UserError, match="256 coordinates at most, got 300; use 'sliced-vr'"):
        objectives.create_objective("implicit").check(large)
    with pytest.raises(UserError, match=r"world must be of shape \(300,\)"):
        at(0.3, **MODEL_TYPES["explicit"]).check(large)
    with pytest.raises(UserError, match="cannot be written"):
        objectives.ExplicitScoreMatching(world=WORLD).to_dict()
