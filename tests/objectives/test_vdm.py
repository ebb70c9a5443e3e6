"""The objective of variational diffusion models: its value, its gradients, and what the schedule learns from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from langevin import UserError, objectives, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Noise, Normal, Stream, kl
from langevin.objectives.vdm import VDM, Level, prior_term, reconstruction_term
from langevin.processes import VP, Learned, Learning
from support import OracleNetwork

DIM, STD = 3, 0.5
WORLD = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, DIM), torch.full((1,), STD**2))
LOW, HIGH = -8.0, 4.0


class Schedule(OracleNetwork):
    """The exact network, with a schedule beside it."""


def learner(world: worlds.World = WORLD) -> NetworkDenoiser:
    """An exact denoiser under a schedule that learns."""
    parameterization = AffineParameterization("x0", sigma_data=STD)
    network = Schedule(world, Level(), parameterization, torch.float64)
    denoiser = NetworkDenoiser(network, Learned((LOW, HIGH)), parameterization, world.shape)
    made = VDM().prepare(denoiser)
    assert isinstance(made, NetworkDenoiser)
    return made


def bend(denoiser: NetworkDenoiser, size: float = 2.0) -> Tensor:
    """Move the schedule off its start; the direction, flattened."""
    schedule = denoiser.process.network  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in (schedule.outer, schedule.shift):
            p += size * torch.randn(p.shape, generator=generator)
    return schedule


def draws(n: int, seed: int = 0) -> tuple[Tensor, Noise]:
    return WORLD.sample(n, seed), Noise(seed + 100, n)


def closed_form() -> tuple[float, float]:
    """(expected bound, expected diffusion term) a coordinate: |ε − ε̂|² has mean r(γ) = s²/(e^γ + s²) a coordinate."""
    rest = lambda g: g - math.log(math.exp(g) + STD**2)  # ∫ r dγ
    diffusion = (rest(HIGH) - rest(LOW)) / 2
    alpha2, sigma2 = 1 / (1 + math.exp(HIGH)), 1 / (1 + math.exp(-HIGH))
    prior = (sigma2 + alpha2 * STD**2 - 1 - math.log(sigma2)) / 2
    return diffusion + prior + (math.log(2 * math.pi * math.e) + LOW) / 2, diffusion


@pytest.mark.parametrize("bent", [False, True])
def test_the_expectation_is_the_bound_whatever_the_interior(bent: bool) -> None:
    denoiser = learner()
    if bent:
        bend(denoiser)
    x0, noise = draws(8_000)
    with torch.no_grad():
        loss = VDM()(denoiser, x0, None, noise)
    known, _ = closed_form()
    # 4.5 standard errors of independent draws; stratified times make the true error smaller.
    assert abs(float(loss.mean()) - known) < 4.5 * float(loss.std()) / len(x0) ** 0.5
    entropy = math.log(2 * math.pi * math.e * STD**2) / 2
    assert 0 < known - entropy < 0.01  # what the two ends of the schedule leave: ½(SNR_1 + e^γ_0/s²) and less


def diffusion(denoiser: NetworkDenoiser, x0: Tensor, noise: Noise) -> Tensor:
    """The first term alone: the loss less what the ends give."""
    low, gap = denoiser.process.network.ends()  # type: ignore[attr-defined]
    ends = prior_term(x0, low + gap) + reconstruction_term(x0, low, noise, None)
    return VDM()(denoiser, x0, None, noise) - ends


def test_gradients_of_interior_ends_and_network() -> None:
    """One backward pass: the ends get the gradient of the loss, the interior that of the mean squared first term."""
    denoiser = learner()
    schedule = bend(denoiser, 0.5)
    x0, noise = draws(64)
    VDM()(denoiser, x0, None, noise).mean().backward()
    generator = torch.Generator().manual_seed(9)

    def slope(parameters: list[Tensor], of: object, h: float) -> tuple[float, float]:
        """Along a random direction: by the gradients left there, and by central differences."""
        by_gradient, values = 0.0, []
        steps = [torch.randn(p.shape, generator=generator) for p in parameters]
        by_gradient = sum(float((p.grad * d).sum()) for p, d in zip(parameters, steps))
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(parameters, steps):
                    p += sign * h * d
                values.append(float(of()))  # type: ignore[operator]
        with torch.no_grad():
            for p, d in zip(parameters, steps):
                p += h * d
        return by_gradient, (values[0] - values[1]) / (2 * h)

    schedule.double()  # float32 parameters would round the differences; gradients are carried along
    squared = lambda: (diffusion(denoiser, x0, noise) ** 2).mean()
    plain = lambda: VDM()(denoiser, x0, None, noise).mean()
    interior = [schedule.line, schedule.outer, schedule.inner, schedule.shift]
    # Differences of step h have an error of h² times the third derivative: 1e-3 of the slope is far above it, and far
    # below the gap between the two gradients.
    got, wanted = slope(interior, squared, 1e-3)
    assert got == pytest.approx(wanted, rel=1e-3)
    assert abs(slope(interior, plain, 1e-3)[1] - got) > 0.05 * abs(got)
    got, wanted = slope([schedule.low, schedule.log_gap], plain, 1e-4)
    assert got == pytest.approx(wanted, rel=1e-3)
    got, wanted = slope([denoiser.network.anchor], plain, 1e-4)
    assert got == pytest.approx(wanted, rel=1e-3)


def test_the_interior_learns_the_schedule_of_least_variance() -> None:
    """At fixed ends E[L²] is least where γ' √E[e²] is constant, e = |ε − ε̂|²/D: here γ' ∝ 1/r(γ), closed.

    E[e²] = r² (1 + 2/D), so E[L²] = ¼ (1 + 2/D) ∫ (γ' r)² du, the least is ¼ (1 + 2/D) (∫ r dγ)², and a straight line
    has ¼ (1 + 2/D) Γ ∫ r² dγ.
    """
    denoiser = learner()
    schedule = denoiser.process.network  # type: ignore[attr-defined]
    optimiser = torch.optim.Adam([schedule.line, schedule.outer, schedule.inner, schedule.shift], lr=0.1)
    share, width = 0.25 * (1 + 2 / DIM), HIGH - LOW

    def r(gamma: Tensor) -> Tensor:
        return STD**2 / (gamma.exp() + STD**2)

    def size() -> float:
        """E[L²], by the trapezoidal rule."""
        u = torch.linspace(0, 1, 2001, dtype=torch.float64)
        with torch.no_grad():
            gamma = schedule(u)
        slope = torch.gradient(gamma, spacing=(u,))[0]
        return share * float(torch.trapezoid((slope * r(gamma)) ** 2, u))

    gamma = torch.linspace(LOW, HIGH, 20_001, dtype=torch.float64)
    least = share * float(torch.trapezoid(r(gamma), gamma)) ** 2
    line = share * width * float(torch.trapezoid(r(gamma) ** 2, gamma))
    assert size() == pytest.approx(line, rel=0.05)  # it starts as a line with ends a little steeper or flatter
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 120)
        optimiser.zero_grad()
        VDM()(denoiser, WORLD.sample(128, 1000 + step), None, Noise(7, 128, draw=step)).mean().backward()
        optimiser.step()
    assert line > 1.3 * least
    assert size() < 1.06 * least


def test_terms_against_laws() -> None:
    x0 = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gamma = torch.tensor(-1.3, dtype=torch.float64)
    process = Level()
    marginal = process.marginal(x0, process.time(-gamma))
    prior = kl(marginal, Normal(torch.zeros(1, 2, 2, dtype=torch.float64), 1.0))
    torch.testing.assert_close(4 * prior_term(x0, gamma), prior, rtol=1e-12, atol=1e-14)

    levels = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x0 = levels[torch.tensor([[0, 1], [4, 2], [3, 3]])]
    noise = Noise(3, 3)
    got = reconstruction_term(x0, gamma, noise, levels)
    epsilon = noise.fold_in(Stream.END).normal((2,))
    alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    likelihood = torch.distributions.Normal(alpha * levels, sigma).log_prob((alpha * x0 + sigma * epsilon)[..., None])
    index = ((x0 + 1) * 2).round().long()[..., None]
    known = -torch.log_softmax(likelihood, -1).gather(-1, index)[..., 0].mean(1)
    torch.testing.assert_close(got, known, rtol=1e-12, atol=1e-14)
    far = torch.tensor([-60.0, 60.0], dtype=torch.float64)
    assert float(reconstruction_term(x0, far[0], noise, levels).max()) == 0  # no noise: the level is known
    assert float(reconstruction_term(x0, far[1], noise, levels).mean()) == pytest.approx(math.log(5))  # nothing is


def test_loss_is_by_sample() -> None:
    denoiser = learner()
    x0, noise = draws(32)
    rows = torch.tensor([30, 2, 9])
    whole = VDM()(denoiser, x0, None, noise)
    torch.testing.assert_close(VDM()(denoiser, x0[rows], None, noise.rows(rows)), whole[rows], rtol=1e-12, atol=0)
    assert whole.shape == (32,)


def test_prepare_and_finish() -> None:
    """The schedule is a part of the network while it learns; a table is left that follows it."""
    denoiser = learner()
    schedule = bend(denoiser)
    assert {n for n, _ in denoiser.network.named_parameters()} >= {"schedule.low", "schedule.shift", "anchor"}
    assert VDM().prepare(denoiser).process.network is schedule  # type: ignore[attr-defined]
    left = VDM().finish(denoiser)
    assert isinstance(left.process, Learned)
    assert set(left.network.state_dict()) == {"anchor"}  # type: ignore[attr-defined]
    assert "schedule.low" in denoiser.network.state_dict()
    t = torch.linspace(0.0005, 1, 999, dtype=torch.float64)
    with torch.no_grad():
        live, table = denoiser.process.log_snr(t), left.process.log_snr(t)  # type: ignore[attr-defined]
    # An error of |γ''| h²/8 and less at the knots' distance h = 1/512, in bends of slope up to 160.
    torch.testing.assert_close(table, live, rtol=0, atol=0.02)
    x = torch.randn(4, DIM, dtype=torch.float64)
    assert denoiser.process.to_dict() == left.process.to_dict()
    with torch.no_grad():
        torch.testing.assert_close(left(x, t[:4]).mean, denoiser(x, t[:4]).mean, rtol=0, atol=0.02)


def test_levels_come_from_the_data() -> None:
    denoiser = learner()
    data = DataInfo("five", (DIM,), levels=5)
    x0 = torch.tensor([[-1.0, 0.5, 1.0]], dtype=torch.float64)
    noise = Noise(0, 1)
    low, _ = denoiser.process.network.ends()  # type: ignore[attr-defined]
    with_levels, without = (VDM()(d, x0, None, noise) for d in (replace(denoiser, data=data), denoiser))
    levels = torch.linspace(-1, 1, 5, dtype=torch.float64)
    gap = reconstruction_term(x0, low, noise, levels) - reconstruction_term(x0, low, noise, None)
    torch.testing.assert_close(with_levels - without, gap)


def test_configuration_and_refusals() -> None:
    objective = objectives.create_objective({"name": "vdm", "times": {"name": "stratified", "of": {"name": "uniform"}}})
    assert (
        objectives.create_objective(json.loads(json.dumps(objective.to_dict())))
        == objective
        == objectives.create_objective("vdm")
    )
    denoiser = learner()
    objective.check(denoiser)
    with pytest.raises(UserError, match="learns the process 'learned', got VP"):
        objective.check(replace(denoiser, process=VP()))
    with pytest.raises(UserError, match="told log_sigma"):
        objective.check(replace(denoiser, parameterization=AffineParameterization("x0", time="time")))
    with pytest.raises(UserError, match="uniform from t_min to 1, got LogNormal"):
        objectives.create_objective({"name": "vdm", "times": "log-normal"}).check(denoiser)
    with pytest.raises(UserError, match="two or more finite numbers that increase"):
        Learned((1.0, 1.0))
    assert isinstance(denoiser.process, Learning)


def test_the_label_is_given() -> None:
    """A network that is right with a label and off by 1 without: the loss with it is that of the network alone."""

    class Told(Schedule):
        def forward(self, x, time, condition=None):  # type: ignore[no-untyped-def]
            label = torch.full((len(x),), -1) if condition is None else condition["label"]
            return super().forward(x, time, None) + label.reshape(-1, 1)

    parameterization = AffineParameterization("x0", sigma_data=STD)
    network = Told(WORLD, Level(), parameterization, torch.float64)
    made = VDM().prepare(NetworkDenoiser(network, Learned((LOW, HIGH)), parameterization, WORLD.shape))
    x, noise = draws(64)
    own = VDM()(learner(), x, None, noise)
    torch.testing.assert_close(VDM()(made, x, {"label": torch.zeros(64, dtype=torch.int64)}, noise), own)
    assert VDM()(made, x, None, noise).mean() > 2 * own.mean()


def test_reconstruction_of_a_density_is_an_entropy():
    """E −log N(x; z_0/α_0, e^γ₀) is that of a normal law of variance e^γ₀, in nats a dimension."""
    found = reconstruction_term(torch.zeros(2, 3), torch.tensor(-4.0).double(), Noise(0, 2), None)
    expected = torch.distributions.Normal(0.0, math.exp(-2)).entropy()
    torch.testing.assert_close(found, expected.double().expand(2), rtol=1e-6, atol=0)


def test_a_schedule_begins_at_both_ends_of_the_table():
    network = nn.Identity()
    network.weight = nn.Parameter(torch.zeros(1))
    denoiser = NetworkDenoiser(network, Learned([-5.0, 1.0, 6.0]), AffineParameterization("eps"), (2,))
    low, gap = VDM().prepare(denoiser).network.schedule.ends()
    assert float(low) == pytest.approx(-5)
    assert float(gap) == pytest.approx(11)


def test_the_level_of_noise_as_a_time():
    """γ = 52 (t − ½) is log σ²/α² of its own α and σ, and its inverse gives t back."""
    process, t = Level(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    expected = 2 * (torch.log(process.alpha(t)) - torch.log(process.sigma(t)))
    torch.testing.assert_close(process.log_snr(t), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(process.time(process.log_snr(t)), t, rtol=1e-12, atol=0)
