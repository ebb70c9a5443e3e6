"""The bound against exact densities, closed forms, and the formulas of Improved DDPM written out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from langevin import Noise, UserError, denoisers, likelihood, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Dense, GaussianMixture, Normal
from langevin.objectives import Continuous, Discretised
from langevin.objectives.bound import prior_term
from support import thinned

DOUBLE = torch.float64
GAUSSIANS = [
    processes.VP(),
    processes.SubVP(),
    processes.VE(),
    processes.EDM(),
    processes.RectifiedFlow(),
    processes.Cosine(),
    processes.DDPM(),
]


def named(process):
    return type(process).__name__


def law_at(world, process, t):
    """The exact law of a one-component world at t."""
    a, b = process.alpha(t), process.sigma(t)
    eye = torch.eye(world.shape[0], dtype=DOUBLE)
    return Normal(a * world.mean[None], Dense((a**2 * world.cov + b**2 * eye)[None]))


@pytest.mark.parametrize("process", GAUSSIANS, ids=named)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_true_reverse_is_the_density(process, steps):
    """Gaussian world, whole belief, the law at T as start: −log p of every sample, to rounding on every grid.

    A term is a difference of log densities that grow as log σ and cancel: 1e-6 nats a dimension leaves them room.
    """
    world = worlds.random_mixture(3, components=1, seed=1)
    denoiser, x = world.denoiser(process), world.sample(32, 5)
    grid = likelihood.bound(denoiser, x[:1], steps=steps).grid
    assert len(grid) == steps + 1
    found = likelihood.bound(denoiser, x, grid=grid, start=law_at(world, process, grid[0]), estimator="path")
    assert float((found.nats + world.log_prob(x)).abs().max()) < 3e-6
    # Closed divergences have the same mean: 4 standard errors of the difference.
    apart = likelihood.bound(
        denoisers.gaussian(denoiser), x, grid=grid, start=law_at(world, process, grid[0]), samples=4
    )
    difference = apart.nats + world.log_prob(x)
    assert float(difference.mean().abs()) < 4 * float(difference.std()) / math.sqrt(len(x)) + 3e-6


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_true_reverse_in_phase_space(steps):
    """The same with a velocity: a correlated normal law, whose joint law with v at t = 1 is known."""
    process = processes.PhaseSpace()
    world = worlds.random_mixture(2, components=1, seed=1)
    denoiser, x = denoisers.gaussian(world.denoiser(process)), world.sample(16, 5)
    k, cov = process.gain(1.0), process.cov(1.0)
    joint = torch.kron(k[:, None] * k, world.cov) + torch.kron(cov, torch.eye(2, dtype=DOUBLE))
    start = Normal((k[:, None] * world.mean)[None], Dense(joint[None]))
    found = likelihood.bound(denoiser, x, steps=steps, start=start, estimator="path")
    assert float((found.nats + world.log_prob(x)).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "chain",
    [processes.Uniform(3), processes.Absorbing(3), processes.Absorbing(3, "cosine")],
    ids=["uniform", "absorbing", "absorbing-cosine"],
)
def test_joint_belief_of_tokens_is_the_probability(chain):
    """A table world, joint beliefs, prior of the chain at t = 1 = its law there: −log P of every sequence."""
    world = worlds.TokenTable(torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) + 0.05)
    denoiser, x = world.denoiser(chain), world.points
    for steps in (1, 2, 5):
        found = likelihood.bound(denoiser, x, steps=steps, estimator="path")
        torch.testing.assert_close(found.nats, -world.log_prob(x), rtol=0, atol=1e-9)
        assert found.units.protocol()["of"] == "probability"


def test_tokens_on_their_own_are_bounded():
    """Independent positions lose what tokens say of each other at each step, less with more steps; 4 errors."""
    world = worlds.TokenTable(torch.tensor([[0.45, 0.05], [0.05, 0.45]]))
    denoiser = denoisers.independent(world.denoiser(processes.Absorbing(2)))
    x = world.sample(4000, 3)
    truth, gaps = -world.log_prob(x), []
    for steps in (1, 4, 16):
        found = likelihood.bound(denoiser, x, steps=steps)
        difference = found.nats - truth
        gaps.append(float(difference.mean()))
        assert gaps[-1] > -4 * float(difference.std()) / math.sqrt(len(x))
    # One step: KL of the table to the product of its margins, in closed form. Pairs are unmasked together at 1/steps.
    mutual = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert gaps[0] == pytest.approx(mutual, abs=0.03)
    assert gaps[1] == pytest.approx(mutual / 4, abs=0.05)
    assert gaps[2] == pytest.approx(mutual / 16, abs=0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "mutual-information"])
def test_the_bound_of_two_masked_tokens_in_closed_form(schedule):
    r"""Two tokens told one by one: :math:`H + I \sum_i (α_{i+1} - α_i)^2`, entropy H, mutual information I.

    A token that is unmasked while the other one is known costs its conditional entropy, and both unmasked in one step
    cost I more; a token is unmasked between two times with probability α_s − α_t, independently of the other. Within
    4 standard errors of the mean over 4000 pairs; an infinite term, which a prior of masks alone gives if α(1) is not
    0 to the bit, is outside.
    """
    table = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=DOUBLE)
    world, chain = worlds.TokenTable(table), processes.Absorbing(2, schedule)
    denoiser, x = denoisers.independent(world.denoiser(chain)), world.sample(4000, 3)
    entropy = -float(torch.xlogy(table, table).sum())
    found = likelihood.bound(denoiser, x, steps=4)
    together = float(chain.keep(found.grid).diff().square().sum())
    expected = entropy + (2 * math.log(2) - entropy) * together
    assert abs(float(found.nats.mean()) - expected) < 4 * found.standard_error
    assert found.prior.eq(0).all()
    parts = likelihood.start_time(denoiser, x[:64], steps=4)  # below T = 1 masks alone are no start: infinite there
    assert float(parts.prior[0]) == 0
    assert parts.path.isfinite().all()


def test_closed_form_of_point_beliefs():
    r"""Standard normal data under β̃: :math:`\sum ½ (r - 1 - \log r)`, r = β/β̃ = σ_t²/σ_s², above the entropy.

    The true step has the same mean and the variance β; the decoder of a point is the true one, widened.
    """
    process, world = processes.VP(), worlds.GaussianMixture([1.0], [[0.0]], [1.0])
    denoiser, x = denoisers.dirac(world.denoiser(process)), world.sample(4000, 3)
    found = likelihood.bound(denoiser, x, steps=20)
    s2 = process.sigma2(found.grid[:-1])
    ratio = s2[:-1] / s2[1:]
    expected = float(0.5 * (ratio - 1 - torch.log(ratio)).sum()) + 0.5 * math.log(2 * math.pi * math.e)
    assert abs(float(found.nats.mean()) - expected) < 4 * found.standard_error
    whole = likelihood.bound(denoisers.unit(world.denoiser(process)), x, steps=20)
    difference = whole.nats + world.log_prob(x)
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("dim", thinned([2, 16], 2))
def test_bound_of_mixtures_falls_to_the_density(dim):
    """Whole beliefs, the law at T as start: −log p of every sample. Point beliefs: above it by what falls as 1/steps.

    A step δ of log-SNR under a point belief costs O(δ²) nats, so 1/δ of them O(δ): for normal data
    ½(e^δ − 1 − δ) = ¼δ²(1 + δ/3 + …), whose slope between these steps (δ ≈ 0.33 and 0.16) is −1.07. Paths on the same
    noise leave the divergence alone; 4 errors of the slope.
    """
    world, process = worlds.random_mixture(dim, seed=2), processes.VP()
    denoiser, x = world.denoiser(process), world.sample(400, 7)
    one = torch.ones((), dtype=DOUBLE)
    spread = process.alpha(one) ** 2 * world.values + process.sigma2(one)
    start = GaussianMixture(world.log_weights[None], process.alpha(one) * world.means[None], world.basis, spread[None])
    gaps = []
    for n in (64, 128):
        points, whole = (
            likelihood.bound(of, x, steps=n, seed=1, start=start, estimator="path").nats
            for of in (denoisers.dirac(denoiser), denoiser)
        )
        assert float((whole + world.log_prob(x)).abs().max()) < 1e-6 * dim
        gaps.append((float((points - whole).mean()), float((points - whole).std()) / math.sqrt(len(x))))
        assert gaps[-1][0] > 4 * gaps[-1][1]
    slope = math.log2(gaps[1][0] / gaps[0][0])
    error = 4 * math.hypot(*(e / gap for gap, e in gaps)) / math.log(2)
    assert abs(slope + 1.07) < error < 0.9, (slope, gaps)
    matched = likelihood.bound(denoisers.gaussian(denoiser), x, steps=16, seed=1).nats + world.log_prob(x)
    assert -4 * float(matched.std()) / math.sqrt(len(x)) < float(matched.mean())


class Skewed(nn.Module):
    """Any function of x_t and t."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))

    def forward(self, x, time, condition=None):
        return torch.tanh(self.weight * x + time.reshape(-1, *[1] * (x.ndim - 1)) / 500)


@pytest.mark.parametrize("fixed", ["beta", "posterior"])
def test_improved_ddpm_by_hand(fixed):
    """The formulas of arXiv:2006.11239 (eq. 6, 7, 11, 13) on a respaced table, on the same noise."""
    process, stride, n = processes.DDPM(), 50, 6
    data = DataInfo("x", (1, 4, 4), levels=256)
    network = NetworkDenoiser(
        Skewed(), process, AffineParameterization("eps", 1.0, "index", False), (1, 4, 4), data=data
    )
    x = torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double() * 2 / 255 - 1
    denoiser = denoisers.unit(network) if fixed == "beta" else network
    std = None if fixed == "beta" else 0.2
    decoder = Discretised(std=std)
    knots = [*range(1000, 0, -stride), 0]
    found = likelihood.bound(
        denoiser, x, grid=torch.tensor(knots, dtype=DOUBLE) / 1000, seed=3, decoder=None if std is None else decoder
    )

    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE), 0)
    bar = torch.cat((torch.ones(1, dtype=DOUBLE), bar))
    noise = Noise(3, n).fold_in(0)
    for i, (t, s) in enumerate(pairwise(knots), 1):
        beta = 1 - bar[t] / bar[s]
        x_t = bar[t].sqrt() * x + (1 - bar[t]).sqrt() * noise.step(i).normal((1, 4, 4))
        guess = (x_t - (1 - bar[t]).sqrt() * torch.tanh(0.7 * x_t + (t - 1) / 500)) / bar[t].sqrt()
        from_x0 = bar[s].sqrt() * beta / (1 - bar[t])
        mean, true = (from_x0 * v + (1 - beta).sqrt() * (1 - bar[s]) / (1 - bar[t]) * x_t for v in (guess, x))
        tilde = (1 - bar[s]) / (1 - bar[t]) * beta
        if s:
            variance = beta if fixed == "beta" else tilde
            term = 0.5 * (torch.log(variance / tilde) + (tilde + (true - mean) ** 2) / variance - 1)
            torch.testing.assert_close(found.terms[:, i - 1], term.flatten(1).sum(1), rtol=1e-6, atol=1e-9)
        else:
            spread = (beta.sqrt() if std is None else std) * math.sqrt(2)
            upper, lower = (0.5 * (1 + torch.erf((x + side / 255 - mean) / spread)) for side in (1, -1))
            upper, lower = torch.where(x > 0.999, 1.0, upper), torch.where(x < -0.999, 0.0, lower)
            assert float((upper - lower).min()) > 1e-8  # the naive difference has digits left
            torch.testing.assert_close(found.decoder, -torch.log(upper - lower).flatten(1).sum(1), rtol=1e-6, atol=0)
    prior = 0.5 * (bar[-1] * x**2 - bar[-1] - torch.log(1 - bar[-1]))
    torch.testing.assert_close(found.prior, prior.flatten(1).sum(1), rtol=1e-9, atol=0)


def test_prior_term_of_the_linear_table():
    r"""Unit-variance images: :math:`-\tfrac12 \log_2 (1 - \barα_N)` bits a dimension, 2.9e-5 for the linear table."""
    process = processes.DDPM()
    x = torch.ones(1, 3, 32, 32, dtype=DOUBLE)  # x² = 1 at every pixel: so the mean over unit-variance images
    units = likelihood.Units(3 * 32 * 32, levels=256, low=-1.0, high=1.0)
    value = float(units.bits_per_dim(prior_term(process, x, 1.0)))
    survives = math.exp(sum(math.log1p(-b) for b in torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE).tolist()))
    assert value == pytest.approx(-math.log1p(-survives) / (2 * math.log(2)), rel=1e-6)
    assert 2.8e-5 < value < 3.0e-5


def test_discrete_data_are_counted_in_levels():
    """Sixteen fair levels of a fair coin: 1 bit a dimension at 2 levels, whatever the steps, to 4 errors."""
    process = processes.VP()
    world = worlds.Empirical(torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=DOUBLE))
    denoiser, x = world.denoiser(process), world.sample(500, 2)
    gaussian = denoisers.gaussian(denoiser)
    found = likelihood.bound(gaussian, x, steps=200, decoder=Discretised(2))
    assert found.protocol["of"] == "probability"
    bits = float(found.bits_per_dim.mean())
    error = float(found.units.bits_per_dim(torch.tensor(found.standard_error)))
    assert 1 - 4 * error < bits < 1.02 + 4 * error


def test_batches_and_conditions_do_not_matter():
    world, process = worlds.ring(4), processes.VP()
    x, labels = world.sample(10, 1, with_labels=True)
    denoiser = denoisers.dirac(world.denoiser(process).given(label=labels))
    one = likelihood.bound(denoiser, x, steps=5, batch=3)
    other = likelihood.bound(denoiser, x, steps=5)
    torch.testing.assert_close(one.nats, other.nats, rtol=0, atol=0)
    assert not torch.equal(other.nats, likelihood.bound(denoiser, x, steps=5, seed=1).nats)
    plain = likelihood.bound(denoisers.dirac(world.denoiser(process)), x, steps=5)
    assert float(other.nats.mean()) < float(plain.nats.mean())  # labels tell


def test_it_prints_a_table_and_its_parts_sum():
    world = worlds.ring()
    found = likelihood.bound(denoisers.dirac(world.denoiser(processes.VP())), world.sample(8, 1), steps=3)
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "term",
        "L_T at 1",
        *(f"L {t:.4g} → {s:.4g}" for t, s in zip(found.grid[:2].tolist(), found.grid[1:3].tolist())),
        f"L_0 from {float(found.grid[2]):.4g}",
        "total",
        lines[-1].split("  ")[0],
    ]
    torch.testing.assert_close(found.nats, found.prior + found.terms.sum(1) + found.decoder)
    parts = [found.prior, *found.terms.unbind(1), found.decoder, found.nats]
    for (_, mean, error), part in zip(found.rows(), parts, strict=True):
        assert mean == pytest.approx(float(part.mean()), rel=1e-12)
        assert error == pytest.approx(float(part.std() / math.sqrt(len(part))), rel=1e-9)
    assert "8 samples" in lines[-1]
    calls = []
    likelihood.bound(
        denoisers.dirac(world.denoiser(processes.VP())),
        world.sample(8, 1),
        steps=3,
        samples=2,
        batch=5,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (48, 48)
    assert calls == sorted(calls)


def test_the_grid_of_a_bound_ends_where_bins_tell_nothing_more():
    """With the discretised decoder at σ/α a tenth of a bin, uniform in log-SNR up to there."""
    process, width = processes.EDM(1e-5, 80.0), 2 / 255
    denoiser = denoisers.dirac(worlds.ring().denoiser(process))
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)[torch.tensor([[3, 200], [90, 128]])]
    found = likelihood.bound(denoiser, x, steps=4, decoder=Discretised())
    t = found.grid[:-1]
    ratio = process.sigma(t) / process.alpha(t)
    assert float(ratio[-1]) == pytest.approx(width / 10, rel=1e-9)
    gaps = process.log_snr(t).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(3), rtol=1e-9, atol=0)
    assert [name for name, *_ in found.rows()][-2] == f"L_0 from {float(t[-1]):.4g}"


def test_bad_requests_are_named():
    world, process = worlds.ring(), processes.VP()
    denoiser, x = denoisers.dirac(world.denoiser(process)), world.sample(4, 1)
    data = DataInfo("x", (2,), levels=17)
    network = NetworkDenoiser(Skewed(), process, AffineParameterization("edm"), (2,), data=data)
    cases = [
        (denoiser, x[:, :1], {}, "x must be a tensor of shape"),
        (denoiser, x[:0], {}, "x must be a tensor of shape"),
        (denoiser, x.long(), {}, "floating"),
        (denoiser, x * math.nan, {}, "finite"),
        (denoiser, x, {"steps": 0}, "steps"),
        (denoiser, x, {"steps": 3, "grid": [1.0, 0.0]}, "contradicts"),
        (denoiser, x, {"grid": [1.0, 0.5]}, "to 0 at its end"),
        (denoiser, x, {"grid": [0.5, 1.0]}, "to 0 at its end"),
        (denoiser, x, {"samples": 0}, "samples"),
        (denoiser, x, {"estimator": "iwae"}, "estimator"),
        (network, torch.full((1, 2), 1.5), {}, "must lie in"),
        (network, torch.full((1, 2), 0.3), {}, "17 levels"),
        (world.denoiser(processes.PhaseSpace()), x, {"steps": 2}, "gaussian"),
    ]
    for of, clean, settings, message in cases:
        with pytest.raises(UserError, match=message):
            likelihood.bound(of, clean, **settings)
    density = likelihood.bound(network, torch.full((1, 2), 0.3), decoder=Continuous(0.1), steps=2)
    assert density.units.width == 0.125
    assert "density" in density.protocol["of"]
