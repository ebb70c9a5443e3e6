"""SN- and NPR-DPM: what their heads stand for in closed form, and that they learn it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from langevin import Noise, UserError, processes, worlds
from langevin.denoisers import NPR, SN, VARIANCE_HEADS, Denoiser, Transform, VarianceHead
from langevin.distributions import Dirac
from langevin.nn import create_network, default
from langevin.objectives import LogNormal, SecondMoment, Stratified
from langevin.training import EMAConfig, Learner, OptimiserConfig
from langevin.training.learner import learning_rate
from support import thinned

PROCESS = processes.VP()
WORLD = worlds.random_mixture(2, 4, rms=0.7, seed=2)
STD = math.sqrt(float(torch.trace(WORLD.cov)) / 2)


class Gives(nn.Module):
    """A head that answers with given numbers."""

    def __init__(self, log_u: torch.Tensor) -> None:
        super().__init__()
        self.log_u = nn.Parameter(log_u)

    def forward(self, x, time, condition=None):
        self.seen, self.time = x, time
        return self.log_u


@dataclass(frozen=True, eq=False)
class Shifted(Transform):
    """A mean that is off by a constant."""

    by: float = 0.0

    def __call__(self, x_t, t):
        return Dirac(self.base(x_t, t).mean + self.by)


def posterior(x_t, t):
    """Variances of the coordinates of p(x_0 | x_t)."""
    return WORLD.denoiser(PROCESS)(x_t, t).cov.diagonal((2,))


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_variance_of_what_the_head_gives(t):
    """C = c²u with c² the posterior variance of normal data; u of the truth gives the truth's variances."""
    x_t = WORLD.sample(6, 1, process=PROCESS, t=t)
    now = torch.tensor(t, dtype=torch.float64)
    c2 = 1 / (1 / STD**2 + PROCESS.alpha(now) ** 2 / PROCESS.sigma(now) ** 2)
    exact = posterior(x_t, t)
    head = Gives(torch.log(exact / c2))
    for kind in VARIANCE_HEADS.values():
        belief = kind(WORLD.denoiser(PROCESS), head, STD)(x_t, t)
        torch.testing.assert_close(belief.cov.variance, exact, rtol=1e-10, atol=0)
        torch.testing.assert_close(belief.mean, WORLD.denoiser(PROCESS)(x_t, t).mean, rtol=0, atol=0)
    assert head.seen.shape == (6, 6)
    torch.testing.assert_close(head.time.double(), (-PROCESS.log_snr(t) / 8).expand(6), rtol=1e-6, atol=0)


def test_bounds():
    """The square of half the range bounds each coordinate; (σ/α)² does not: between modes the truth is above it."""
    x_t = WORLD.sample(200, 1, process=PROCESS, t=0.02)
    assert (posterior(x_t, 0.02) > 1.05 * torch.exp(-PROCESS.log_snr(0.02))).any()
    large, x_t = Gives(torch.full((3, 2), 99.0).double()), x_t[:3]
    base = WORLD.denoiser(PROCESS)
    assert (NPR(base, large, STD)(x_t, 0.5).cov.variance > 1).all()
    ranged = NPR(base, large, STD, -0.2, 0.2)(x_t, 0.5).cov.variance
    torch.testing.assert_close(ranged, torch.full((3, 2), 0.04).double())


@pytest.mark.parametrize("shift", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["npr", "sn"])
def test_loss_is_least_at_the_papers_variance(kind, shift):
    """The expected loss, over draws of x_0 from the exact posterior at one x_t, is least at the papers' expressions.

    With a mean off by δ, NPR's is Var[x_0] + δ², optimal all the same, SN's Var[x_0] + x*² − (x* + δ)² with
    x* = E[F | x_t] in its units. A draw's y − E y has relative size about √2, so that of n draws the least log u is off
    by √(2/n) or so, larger for SN where F̂² is a part of p.
    """
    n, t = 40_000, torch.tensor(0.35, dtype=torch.float64)
    x_t = WORLD.sample(1, 7, process=PROCESS, t=t).expand(n, 2)
    base = Shifted(WORLD.denoiser(PROCESS), shift)
    x0 = WORLD.denoiser(PROCESS)(x_t, t).sample(Noise(3, n))
    c = 1 / torch.sqrt(1 / STD**2 + torch.exp(PROCESS.log_snr(t)))
    skip = PROCESS.alpha(t) * c**2 / PROCESS.sigma(t) ** 2
    mean = WORLD.denoiser(PROCESS)(x_t[:1], t).mean
    target, guess = (mean - skip * x_t[:1]) / c, (mean + shift - skip * x_t[:1]) / c
    u = posterior(x_t[:1], t) / c**2
    expected = u + (target - guess) ** 2 if kind == "npr" else u + target**2 - guess**2
    if (expected <= 0).any():
        pytest.skip("the paper's expression is negative here")
    head = Gives(torch.zeros(1, 2).double())
    made = VARIANCE_HEADS[kind](base, head, STD)
    descent = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        descent.zero_grad()
        value = made.losses(x0, x_t, t).mean()
        value.backward()
        return value

    descent.step(loss)
    torch.testing.assert_close(head.log_u.detach().exp(), expected, rtol=0.05, atol=0.02)


def learned(kind: str, base: Denoiser, steps: int, width: int) -> tuple[VarianceHead, SecondMoment]:
    torch.manual_seed(0)
    network = create_network(default((6,), out_channels=2, width=width, depth=2))
    objective = SecondMoment(Stratified(LogNormal(math.log(STD) - 1, 1.6)))
    head = VARIANCE_HEADS[kind](base, network, STD)
    objective.check(head)
    optimiser = OptimiserConfig(lr=3e-3, warmup=30)
    learner = Learner(head, objective, optimiser=optimiser, ema=EMAConfig(), batch=256)
    x0 = WORLD.sample(4096, 3).float()
    for k in range(1, steps + 1):
        noise = Noise(1, 256, k)
        rate = learning_rate(optimiser, k, k / steps)
        learner.step({"x": x0[k * 256 % 4096 :][:256]}, noise, number=k, rate=rate)
    return learner.average, objective


def gaps(head: Denoiser) -> dict[str, float]:
    """RMS error of the variances in units of their RMS, over noises of log-SNR −3 … 7, and the best constants'."""
    found, one, each = [], [], []
    for log_snr in (-3.0, -1.0, 1.0, 3.0, 5.0, 7.0):
        t = PROCESS.time(log_snr)
        x_t = WORLD.sample(1000, 9, process=PROCESS, t=t)
        exact = posterior(x_t, t)
        size = exact.norm()
        found.append((head(x_t, t).cov.variance - exact).norm() / size)
        one.append((exact.mean() - exact).norm() / size)
        each.append((exact.mean(0) - exact).norm() / size)
    mean = lambda v: float(torch.stack(v).mean())
    return {"head": mean(found), "isotropic": mean(one), "constant": mean(each)}


@pytest.mark.parametrize("kind", thinned(VARIANCE_HEADS, 2))
def test_learns_the_posterior_variance(kind):
    """After a few seconds nearer to each coordinate's posterior variance than any number for all x_t can be."""
    head, _ = learned(kind, WORLD.denoiser(PROCESS), 300, 32)
    found = gaps(head)
    assert found["head"] < found["isotropic"]
    assert found["head"] < 1.1 * found["constant"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIANCE_HEADS)
def test_converges_to_the_posterior_variance(kind):
    """Five times as long, and far nearer; prints how near."""
    found = gaps(learned(kind, WORLD.denoiser(PROCESS), 1500, 64)[0])
    print(kind, {name: round(value, 3) for name, value in found.items()})
    assert found["head"] < 0.5 * found["constant"]


def test_only_the_head_learns():
    """The base network gets no gradient and keeps its weights; the head's change."""
    base_net, head_net = nn.Linear(2, 2).double(), Gives(torch.zeros(4, 2))

    @dataclass(frozen=True, eq=False)
    class Base(Denoiser):
        process = PROCESS
        shape = (2,)

        def __call__(self, x_t, t):
            return Dirac(base_net(x_t))

    made = NPR(Base(), head_net, STD)
    x_t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    made.losses(x_t, x_t, torch.full((4,), 0.5).double()).sum().backward()
    assert base_net.weight.grad is None
    assert head_net.log_u.grad.abs().sum() > 0
    # As a belief the mean stays differentiable in x_t, for what differentiates through it.
    assert made(x_t.requires_grad_(), 0.5).mean.requires_grad


def test_labels_and_rows_pass_through():
    model = SN(WORLD.denoiser(PROCESS), Gives(torch.zeros(3, 2).double()), STD)
    x_t = WORLD.sample(3, 1, process=PROCESS, t=0.5)
    bound = model.given(label=[0, 1, 2])
    torch.testing.assert_close(bound(x_t, 0.5).mean, WORLD.denoiser(PROCESS).given(label=[0, 1, 2])(x_t, 0.5).mean)
    noise, x0, law, label = Noise(3, 3), WORLD.sample(3, 2), SecondMoment(), torch.tensor([0, 1, 2])
    head = NPR(WORLD.denoiser(PROCESS), Gives(torch.ones(3, 2).double()), STD)
    asked = law(head, x0, {"label": label}, noise)
    assert head.counter.calls == 1
    torch.testing.assert_close(asked, law(head.given(label=label), x0, None, noise))
    assert not torch.allclose(asked, law(head, x0, None, noise))
    t = torch.tensor(0.5, dtype=torch.float64)
    head(x_t, t)
    alpha, sigma, mean = PROCESS.alpha(t), PROCESS.sigma(t), WORLD.denoiser(PROCESS)(x_t, t).mean
    size = torch.sqrt(sigma**2 + alpha**2 * STD**2)
    guess = (mean - alpha * STD**2 / size**2 * x_t) / (sigma * STD / size)
    torch.testing.assert_close(head.network.seen, torch.cat((x_t / size, mean / STD, guess), 1))
    other = model.onto(WORLD.denoiser(PROCESS).given(label=1))
    torch.testing.assert_close(other(x_t, 0.5).mean, WORLD.denoiser(PROCESS).given(label=1)(x_t, 0.5).mean)


def test_refusals():
    with pytest.raises(UserError, match="variance 'npr' needs a process with"):
        NPR(WORLD.denoiser(processes.PhaseSpace()), Gives(torch.zeros(1)), STD)
    with pytest.raises(UserError, match="sigma_data must be > 0, got 0"):
        SN(WORLD.denoiser(PROCESS), Gives(torch.zeros(1)), 0.0)
    with pytest.raises(UserError, match="'second-moment' is that of a head, got WorldDenoiser"):
        SecondMoment().check(WORLD.denoiser(PROCESS))
    assert replace(SecondMoment()).to_dict()["name"] == "second-moment"
