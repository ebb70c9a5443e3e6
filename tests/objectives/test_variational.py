"""L_vlb and L_hybrid: their expectation is the bound, and gradients go where they are meant to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from langevin import Noise, UserError, likelihood, objectives, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser, Transform
from langevin.distributions import Diagonal, Normal
from langevin.objectives import DenoisingLoss, Hybrid, Importance, LogNormal, Stratified, TableKnots, Uniform, Vlb

DOUBLE = torch.float64


class Constant(nn.Module):
    """A mean and a raw variance that do not depend on x_t."""

    def __init__(self, classes=0):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.1, dtype=DOUBLE))
        self.raw = nn.Parameter(torch.tensor(0.2, dtype=DOUBLE))
        self.config = {"name": "constant", "conditions": {"label": classes}}
        self.asked = []

    def forward(self, x, time, condition=None):
        self.asked.append(condition)
        return torch.cat((self.mean.expand_as(x), self.raw.expand_as(x)), 1)


def learned(process=None, levels=None, variance="posterior"):
    process = processes.VP() if process is None else process
    data = DataInfo("x", (2,), levels=levels) if levels else None
    return NetworkDenoiser(Constant(), process, AffineParameterization("x0", 0.5), (2,), variance=variance, data=data)


@pytest.mark.parametrize(
    "times", [TableKnots(), Stratified(TableKnots()), Importance(TableKnots(), bins=20)], ids=["knots", "even", "drawn"]
)
def test_expectation_is_the_bound(times):
    """Over the knots of a table of 20: the mean loss is the bound's terms without L_T; 4 standard errors."""
    process = processes.DDPM(processes.linear_betas(20, 0.01, 0.3))
    denoiser, n = learned(process, levels=17), 20_000
    if isinstance(times, Importance):  # a history that draws early times more often
        times.observe(torch.linspace(0.001, 0.999, 20 * 400, dtype=DOUBLE), torch.linspace(3, 0.5, 8000, dtype=DOUBLE))
        assert times.warm
        assert float(times.probabilities()[0]) > 2 * float(times.probabilities()[-1])
    x = (torch.randint(0, 17, (40, 2), generator=torch.Generator().manual_seed(0)).double() / 8 - 1).repeat(500, 1)
    objective = Vlb(times=times)
    objective.check(denoiser)
    loss = objective(denoiser, x, None, Noise(1, n)).detach()
    exact = likelihood.bound(denoiser, x, grid=torch.linspace(1, 0, 21, dtype=DOUBLE), seed=2, batch=n)
    expected = exact.units.bits_per_dim(exact.nats - exact.prior).mean()
    error = float(exact.units.bits_per_dim(torch.tensor(exact.standard_error)))
    assert abs(float(loss.mean() - expected)) < 4 * math.hypot(float(loss.std()) / math.sqrt(n), error)


@pytest.mark.slow
def test_any_stride_of_any_law():
    """A continuous law in 8 steps: the mean of the bound over 200 offsets of the grid is the loss's expectation."""
    process, n = processes.VP(), 40_000
    denoiser, law = learned(process), LogNormal(0.0, 1.0)
    x = torch.full((n, 2), 0.3, dtype=DOUBLE)
    loss = Vlb(times=law, steps=8)(denoiser, x, None, Noise(1, n)).detach()
    total, offsets = 0.0, 200
    for k in range(offsets):
        u = (torch.arange(8, dtype=DOUBLE) + (k + 0.5) / offsets).flip(0) / 8
        grid = torch.cat((law.quantile(process, u), torch.zeros(1, dtype=DOUBLE)))
        found = likelihood.bound(denoiser, x[:50], grid=grid, seed=k)
        total += float(found.units.bits_per_dim(found.nats - found.prior).mean()) / offsets
    assert abs(float(loss.mean()) - total) < 5 * float(loss.std()) / math.sqrt(n)


@pytest.mark.parametrize("law", [Uniform(), LogNormal(), Importance(Uniform(), bins=5, terms=1)])
def test_pairs_of_a_law(law):
    """s is one step below t in the law's own measure, and 0 in the first step."""
    process, n = processes.VP(), 10
    if isinstance(law, Importance):
        law.observe(torch.linspace(0.1, 0.9, 5, dtype=DOUBLE), torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0]))
    u = torch.linspace(0.01, 0.99, 99, dtype=DOUBLE)
    t, s, ratio = law.pair(process, u, n)
    base = law.for_validation()
    grid = base.quantile(process, torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=DOUBLE))
    place = lambda v: torch.searchsorted(grid, v.contiguous()).double() / 200_000
    torch.testing.assert_close(t, law.quantile(process, u))
    torch.testing.assert_close(place(t) - place(s), torch.where(s > 0, 0.1, place(t)), rtol=0, atol=3e-5)
    assert (s[place(t) < 0.0999] == 0).all()
    assert (s[place(t) > 0.1001] > 0).all()
    torch.testing.assert_close(ratio, law.ratio(process, u))
    assert (ratio == 1).all() == (not isinstance(law, Importance))


def test_ratios_of_pairs_multiply():
    """A learned law over one that has a ratio of its own, 1/u here: both count."""

    class Weighted(Uniform):
        def pair(self, process, u, steps):
            t, s, _ = super().pair(process, u, steps)
            return t, s, 1 / u

    law = Importance(Weighted(), bins=5, terms=1)
    law.observe(torch.linspace(0.1, 0.9, 5, dtype=DOUBLE), torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0]))
    u = torch.linspace(0.01, 0.99, 99, dtype=DOUBLE)
    own = Importance(Uniform(), bins=5, terms=1)
    own.restore(law.state())
    _, _, plain = own.pair(processes.VP(), u, 10)
    _, _, ratio = law.pair(processes.VP(), u, 10)
    torch.testing.assert_close(ratio, plain / law._inner(u))


def test_hybrid_is_the_sum():
    """L_simple + λ L_vlb on the same noise."""
    denoiser, x, noise = learned(levels=17), torch.full((50, 2), 0.25, dtype=DOUBLE), Noise(3, 50)
    both = Hybrid(steps=10)(denoiser, x, None, noise)
    parts = DenoisingLoss()(denoiser, x, None, noise) + 0.001 * Vlb(steps=10)(denoiser, x, None, noise)
    torch.testing.assert_close(both, parts)


@pytest.mark.parametrize("objective", [Hybrid(steps=10), Vlb(steps=10), DenoisingLoss()])
def test_a_label_reaches_the_network(objective):
    network, label = Constant(classes=3), torch.tensor([2, 0, 1])
    denoiser = NetworkDenoiser(network, processes.VP(), AffineParameterization("x0", 0.5), (2,), variance="posterior")
    denoiser = replace(denoiser, data=DataInfo("x", (2,), levels=17))
    objective(denoiser, torch.zeros(3, 2, dtype=DOUBLE), {"label": label}, Noise(3, 3))
    assert network.asked
    assert all(torch.equal(given["label"], label) for given in network.asked)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_learned_variance_is_the_second_half_of_the_channels(channels):
    shape = (channels, 2, 2)
    denoiser = NetworkDenoiser(Constant(), processes.VP(), AffineParameterization("x0"), shape, variance="posterior")
    belief = denoiser(torch.zeros(1, *shape, dtype=DOUBLE), 0.5)
    assert belief.mean.shape == (1, *shape)
    torch.testing.assert_close(belief.mean, belief.mean.flatten()[0].expand(1, *shape))


def test_the_bound_does_not_move_the_mean():
    """The mean's gradient is L_simple's alone, the variance's λ times L_vlb's."""
    x, noise = torch.zeros(50, 2, dtype=DOUBLE), Noise(3, 50)

    def gradients(objective):
        denoiser = learned(levels=17)
        objective(denoiser, x, None, noise).mean().backward()
        return [None if p.grad is None else float(p.grad) for p in denoiser.network.parameters()]

    hybrid, simple, vlb = (gradients(o) for o in (Hybrid(steps=10), DenoisingLoss(), Vlb(steps=10)))
    assert hybrid[0] == pytest.approx(simple[0], rel=1e-12)
    assert abs(vlb[0]) > 0.1  # it would have moved it
    assert hybrid[1] == pytest.approx(0.001 * vlb[1], rel=1e-9)
    assert not simple[1]


@dataclass(frozen=True, eq=False)
class Spread(Transform):
    """The belief's mean with one variance, a share of that of normal data: what `posterior` learns."""

    log_share: torch.Tensor

    def __call__(self, x_t, t):
        process = self.process
        a2, s2 = process.alpha(t) ** 2, process.sigma2(t)
        variance = torch.exp(self.log_share) * s2 * 0.25 / (s2 + a2 * 0.25)
        return Normal(self.base(x_t, t).mean, Diagonal(variance.reshape(-1, 1)))


def test_learned_scalar_beats_fixed_variances():
    """A mixture, ten steps: a share fitted by gradient on L_vlb, then held-out bounds, each 3 errors apart."""
    from langevin import denoisers

    world, process = worlds.random_mixture(4, seed=3), processes.VP()
    base, share = world.denoiser(process), torch.zeros((), dtype=DOUBLE, requires_grad=True)
    adam = torch.optim.Adam([share], lr=0.1)
    objective = Vlb(times=objectives.LikelihoodImportance(), steps=10)
    for i in range(60):
        adam.zero_grad()
        objective(Spread(base, share), world.sample(256, i), None, Noise(i, 256)).mean().backward()
        adam.step()
    x = world.sample(1000, 999)
    bound = lambda of: likelihood.bound(of, x, steps=10, seed=5).nats
    fitted = bound(Spread(base, share.detach()))
    for fixed in (denoisers.dirac(base), denoisers.unit(base)):
        gain = bound(fixed) - fitted
        assert float(gain.mean()) > 3 * float(gain.std()) / math.sqrt(len(x))


def test_plain_json():
    for objective in (Vlb(times=TableKnots(), steps=10), Hybrid(weight="min-snr", settings={"gamma": 3.0}, vlb=0.01)):
        again = objectives.create_objective(objective.to_dict())
        assert again == objective
        assert again.to_dict() == objective.to_dict()
    assert objectives.create_objective("hybrid").vlb == 0.001


def test_bad_requests_are_named():
    plain = NetworkDenoiser(nn.Linear(2, 2), processes.VP(), AffineParameterization("x0"), (2,))
    with pytest.raises(UserError, match=r"prediction\.variance"):
        Hybrid().check(plain)
    with pytest.raises(UserError, match="steps must divide"):
        Vlb(times=TableKnots(), steps=7).check(learned(processes.DDPM()))
    with pytest.raises(UserError, match="apart"):
        Vlb(times=objectives.Levels(1.0, 0.1, 3), steps=10).check(learned())
    tokens = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))
    with pytest.raises(UserError, match="tokens"):
        Vlb().check(tokens)
    with pytest.raises(UserError, match="weight"):
        Vlb(weight="edm")
    for bad in ({"steps": 0}, {"vlb": 0.0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            Hybrid(**bad)
