"""Likelihood weighting: its law of t, the variance that law takes away, and the bound it estimates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from langevin import objectives, processes, worlds
from langevin._errors import UserError
from langevin.denoisers import Transform
from langevin.distributions import Dirac, Noise
from langevin.likelihood import continuous_bound
from langevin.objectives import LikelihoodImportance, Uniform

GRID = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
WORLD = worlds.random_mixture(2, components=4, rms=0.7, seed=2)
ALL = [processes.VP(), processes.SubVP(), processes.VE(0.05, 20.0), processes.RectifiedFlow(), processes.Cosine()]


@pytest.mark.parametrize("process", ALL, ids=lambda p: type(p).__name__)
def test_density_is_the_weight(process: processes.ScalarGaussian) -> None:
    """du/dt = g²/σ² up to a constant, by central differences of the quantile against ``diffusion2``."""
    law = LikelihoodImportance()
    law.check(process)
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    h = 1e-5
    slope = (law.quantile(process, u + h) - law.quantile(process, u - h)) / (2 * h)
    t = law.quantile(process, u)
    product = slope * process.diffusion2(t) / process.sigma(t) ** 2
    # Differences err by h²·t‴/6, and by bisection's 1e-16/h: both below 1e-8 of the slope on these processes.
    torch.testing.assert_close(product, product.mean().expand_as(product), rtol=1e-6, atol=0)
    # The ratio is the density of uniform times over that of the draw, for any stretch.
    torch.testing.assert_close(law.ratio(process, u), slope / (process.t_max - process.t_min), rtol=1e-6, atol=0)


def test_expectation_is_that_of_uniform_times() -> None:
    process, law = processes.VP(), LikelihoodImportance(0.01, 0.9)
    for f in (torch.ones_like, torch.sqrt, lambda t: torch.sin(9 * t)):
        weighted = (law.ratio(process, GRID) * f(law.quantile(process, GRID))).mean()
        plain = f(Uniform(0.01, 0.9).quantile(process, GRID)).mean()
        assert float(weighted) == pytest.approx(float(plain), abs=1e-6)  # midpoint sums: 40,000⁻² times f″ below 1e3


def test_the_variance_it_takes() -> None:
    """On exact beliefs under VP the loss has the same mean and, in 64 dimensions, a 36th of the variance (measured)."""
    process, n = processes.VP(), 5_000
    world = worlds.random_mixture(64, components=8, rank=16)
    denoiser, x0, noise = world.denoiser(process), world.sample(n, 3), Noise(4, n)

    def losses(times: object) -> Tensor:
        return objectives.create_objective({"name": "likelihood", "times": times})(denoiser, x0, None, noise)

    uniform, importance = losses("uniform"), losses("likelihood-importance")
    error = math.sqrt(float(uniform.var() + importance.var()) / n)
    assert abs(float(uniform.mean() - importance.mean())) < 5 * error
    assert float(importance.var()) < float(uniform.var()) / 20
    assert objectives.create_objective("likelihood").to_dict()["times"]["of"]["name"] == "likelihood-importance"


class Bent(Transform):
    """A belief whose mean is off by h·σ/√(α² + σ²)·cos 3x."""

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        process = self.process
        assert isinstance(process, processes.ScalarGaussian)
        share = process.sigma(t) / torch.sqrt(process.sigma(t) ** 2 + process.alpha(t) ** 2)
        return Dirac(self.base(x_t, t).mean + 0.3 * processes.expand(share, x_t) * torch.cos(3 * x_t))


@pytest.mark.parametrize("process", [processes.VP(), processes.VE(0.01, 50.0)], ids=["vp", "ve"])
def test_the_bound(process: processes.ScalarGaussian) -> None:
    r"""−E log p + ½∫ g² E|s − ∇log p_t|² + KL(p_1‖prior): equality of theorem 1's right-hand side, term by term.

    For the exact belief the middle term is 0 and the bound is −E log p plus KL(p_1‖prior) < E KL(q(x_1|x)‖prior); what
    the normal law at ε misses is at most D(σ_ε/α_ε c)⁴/4 with c = 0.05 the narrowest direction (< 2e-3 here). For a
    bent one the excess is the weighted error of its mean, computed apart.
    """
    n, draws = 3000, 8
    x = WORLD.sample(n, 6)
    seen = []
    tell = lambda *at: seen.append(at)
    exact = continuous_bound(WORLD.denoiser(process), x, draws=draws, seed=1, progress=tell)
    assert seen == sorted(seen)
    assert seen[-1] == (n * draws, n * draws)
    entropy = -WORLD.log_prob(x)
    gap = exact.nats - entropy
    error = float(gap.std()) / math.sqrt(n)
    assert -5 * error < float(gap.mean()) < 5 * error + float(exact.prior.mean()) + 2e-3
    assert error < 0.1
    bent = continuous_bound(Bent(WORLD.denoiser(process)), x, draws=draws, seed=1)
    # ½∫ g²|Δs|² dt = ∫ −½ SNR′ |Δx̂_0|² dt over the same x_t; the cross term with the exact error has mean 0.
    u = (Noise(8, n).uniform(()) + torch.arange(draws, dtype=torch.float64)[:, None] / draws).reshape(-1) % 1
    law = LikelihoodImportance()
    t = law.quantile(process, u)
    x_t = process.marginal(x.repeat(draws, 1), t).sample(Noise(9, n * draws))
    share = process.sigma(t) ** 2 / (process.sigma(t) ** 2 + process.alpha(t) ** 2)
    off = (0.3 * torch.cos(3 * x_t)).square().sum(1) * share
    weight = objectives.WEIGHTS["likelihood"](WORLD.denoiser(process), t) * law.ratio(process, u)
    excess = weight * off * (process.t_max - process.t_min)
    found = bent.path - exact.path
    error = math.sqrt(float(found.var() / n + excess.var() / (n * draws)))
    assert abs(float(found.mean() - excess.mean())) < 5 * error
    assert float(excess.mean()) > 10 * error  # enough power
    assert float((bent.nats - entropy).mean()) > float(gap.mean())


@pytest.mark.slow
def test_the_bound_of_a_gaussian() -> None:
    r"""Every term where none is negligible: N(0, c²), noise that does not end at the prior, and a coarse ε.

    The mean of the bound is :math:`H + KL(p_1 \| N(0, 1)) + \tfrac12 \sum (r - 1 - \log r)`, r the posterior variance
    at ε over :math:`σ_ε^2/α_ε^2`: what the decoder of the bound lacks of the exact one.
    """
    c2 = torch.tensor([0.09, 1.96], dtype=torch.float64)
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), c2[None])
    process, n, low = processes.VP(0.1, 2.0), 10_000, 0.4
    found = continuous_bound(world.denoiser(process), world.sample(n, 1), draws=8, times=LikelihoodImportance(low))
    (a1, s1), (a, s) = ((process.alpha(t) ** 2, process.sigma(t) ** 2) for t in torch.tensor([1.0, low]).double())
    entropy = 0.5 * torch.log(2 * math.pi * math.e * c2).sum()
    final, r = a1 * c2 + s1, a * c2 / (a * c2 + s)
    expected = float(entropy + 0.5 * (final - 1 - torch.log(final) + r - 1 - torch.log(r)).sum())
    error = float(found.nats.std()) / math.sqrt(n)
    assert float(found.nats.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.02
    uniform = continuous_bound(world.denoiser(process), world.sample(n, 1), draws=8, times=Uniform(low))
    assert float(uniform.nats.mean()) == pytest.approx(expected, abs=4 * float(uniform.nats.std()) / math.sqrt(n))
    # The spread over draws is an upper bound of the error of a sample's own estimate, which its repetition has.
    again = continuous_bound(
        world.denoiser(process), world.sample(n, 1), draws=8, seed=1, times=LikelihoodImportance(low)
    )
    spread = float((again.nats - found.nats).square().mean().sqrt()) / math.sqrt(2)
    assert 0.8 * spread < float(found.stderr.square().mean().sqrt()) < 2 * spread


def test_bound_by_sample() -> None:
    denoiser = WORLD.denoiser(processes.VP())
    x = WORLD.sample(9, 6)
    whole, parts = (continuous_bound(denoiser, x, draws=3, batch=b) for b in (9, 4))
    torch.testing.assert_close(whole.nats, parts.nats, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.bits_per_dim, whole.nats / (2 * math.log(2)))
    assert "nats a sample" in repr(whole)
    for wrong, words in [
        ({"x": x[:, :1]}, "x must be finite data"),
        ({"x": x * math.nan}, "x must be finite data"),
        ({"draws": 0}, "draws must be"),
        ({"times": objectives.LogNormal()}, "times must be"),
    ]:
        with pytest.raises(UserError, match=words):
            continuous_bound(denoiser, **{"x": x, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="continuous-time bound needs"):
        continuous_bound(worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2)), x)


def test_the_error_told_falls_like_the_root_of_the_draws():
    """At times of importance, where terms have light tails: the mean over 2,000 samples is known to 1 %, and four times
    the draws have half the error (an exponent of 0.625 would make it 0.42)."""
    process, x = processes.VP(), WORLD.sample(2000, 3)
    few, many = (continuous_bound(WORLD.denoiser(process), x, draws=k).stderr for k in (8, 32))
    assert float(many.square().mean().sqrt() / few.square().mean().sqrt()) == pytest.approx(0.5, abs=0.03)
