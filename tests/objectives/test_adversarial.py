"""Losses of a GAN against their closed forms, its players apart, and what a diffused discriminator is shown."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import langevin
from langevin import training
from langevin._errors import UserError
from langevin.denoisers import Generator
from langevin.distributions import Noise
from langevin.objectives.adversarial import Adversarial
from langevin.training import Learner, NetworkConfig, ObjectiveConfig
from tiny_runs import points, tiny


class Shift(nn.Module):
    """g(z) = z + shift."""

    def __init__(self, shift: list[float]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.config = {"name": "shift"}

    def forward(self, z: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        return z + self.shift


class Score(nn.Module):
    """D(x) = f(x), and what it was told."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f, self.told = f, []
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        self.told.append((x, time, condition))
        return (self.weight * self.f(x))[:, None]


def model(f: Any, shift: list[float] | None = None) -> Generator:
    network: Any = Shift(shift or [0.0, 0.0])
    network.discriminator = Score(f)
    return Generator(network, points(90).info)


def data(n: int = 6, seed: int = 5) -> tuple[Tensor, Noise]:
    return Noise(seed, n).normal((2,)), Noise(seed + 1, n)


def told(made: Generator) -> list[tuple[Tensor, Tensor, Any]]:
    found: list[tuple[Tensor, Tensor, Any]] = made.network.discriminator.told  # type: ignore[union-attr, assignment]
    return found


FORMS = {
    "non-saturating": (lambda d: F.softplus(-d), lambda d: F.softplus(d), lambda d: F.softplus(-d)),
    "least-squares": (lambda d: 0.5 * (d - 1) ** 2, lambda d: 0.5 * d**2, lambda d: 0.5 * (d - 1) ** 2),
}


@pytest.mark.parametrize("loss", FORMS)
def test_losses_are_their_formulas(loss: str) -> None:
    x, noise = data()
    f = lambda x: x[:, 0] - 2 * x[:, 1]
    made, objective = model(f, [1.0, 0.5]), Adversarial(loss)
    of_data, of_made, of_generator = FORMS[loss]
    found = objective.of_discriminator(made, x, None, noise)
    (shown, at, _), (fake, _, _) = told(made)
    assert torch.equal(shown, x)
    assert (at == 0).all()
    torch.testing.assert_close(found, (of_data(f(x)) + of_made(f(fake))).detach(), rtol=0, atol=1e-14)
    assert torch.equal(objective(made, x, None, noise), found)
    found = objective.of_generator(made, x, None, noise)
    torch.testing.assert_close(found, of_generator(f(told(made)[-1][0])), rtol=0, atol=1e-14)
    # What the generator makes is the prior's noise, moved: the two turns draw their own.
    z = noise.normal((2,))
    torch.testing.assert_close(told(made)[-1][0], z + made.network.shift, rtol=0, atol=1e-14)  # type: ignore[operator]
    assert not torch.allclose(fake, told(made)[-1][0])


def test_r1_is_half_gamma_of_the_squared_slope_at_data() -> None:
    """Of D = ½a|x|², |∇D|² = a²|x|²; and its gradient in a is that of the formula."""
    x, noise = data()
    made = model(lambda x: 0.5 * x.square().sum(1))
    plain = Adversarial().of_discriminator(made, x, None, noise)
    with_r1 = Adversarial(r1=3.0).of_discriminator(made, x, None, noise)
    torch.testing.assert_close(with_r1 - plain, 1.5 * x.square().sum(1), rtol=0, atol=1e-13)
    weight = made.network.discriminator.weight  # type: ignore[union-attr]
    slope = torch.autograd.grad((with_r1 - plain).sum(), weight)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(slope, 3.0 * x.square().sum(), rtol=1e-12, atol=0)
    with torch.no_grad():  # in validation the penalty is left out: it is no part of the divergence
        torch.testing.assert_close(Adversarial(r1=3.0)(made, x, None, noise), plain.detach(), rtol=0, atol=1e-14)


def test_the_best_discriminator_measures_the_jensen_shannon_divergence() -> None:
    """D = log p/q gives 2 log 2 − 2 JSD (arXiv:1406.2661 theorem 1); the mean of n draws has a standard error."""
    n, shift = 200_000, torch.tensor([1.5, 0.0], dtype=torch.float64)
    f = lambda x: 0.5 * ((x - shift).square().sum(1) - x.square().sum(1))  # log N(x; 0, I) − log N(x; shift, I)
    x, noise = data(n)
    with torch.no_grad():
        found = Adversarial()(model(f, shift.tolist()), x, None, noise)
    # JSD of two unit normals 1.5 apart, by quadrature along the line between them.
    at = torch.linspace(-12, 14, 20001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    p, q = normal.log_prob(at).exp(), normal.log_prob(at - 1.5).exp()
    middle = (p + q) / 2
    kl = lambda a: torch.trapezoid(torch.xlogy(a, a / middle).nan_to_num(), at)
    truth = 2 * math.log(2) - float(kl(p) + kl(q))
    assert abs(float(found.mean()) - truth) < 4.5 * float(found.std()) / math.sqrt(n)


def test_a_diffused_discriminator_sees_both_after_the_same_noising() -> None:
    """y ~ q(y|x, t), t = 0 for a share of them and uniform for the rest; a function of each sample's own noise."""
    n = 40_000
    objective = Adversarial(diffuse="vp", clean=0.25)
    x, noise = torch.ones(n, 2, dtype=torch.float64), Noise(7, n)
    made = model(lambda x: x[:, 0])
    with torch.no_grad():
        objective.of_discriminator(made, x, None, noise)
    (y, t, _), (_, t_made, _) = told(made)
    process = langevin.processes.VP()
    clean = t == 0
    assert abs(float(clean.double().mean()) - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / n)
    assert torch.equal(y[clean], x[clean])
    noised = t[~clean].double()
    assert process.t_min <= float(noised.min()) < float(noised.max()) <= process.t_max
    half = (process.t_min + process.t_max) / 2
    assert abs(float(noised.mean()) - half) < 4.5 / math.sqrt(12 * len(noised))
    # Standardised by the marginal's mean and deviation at its own time it is a unit normal.
    at = t.double()[~clean]
    scale = ((y[~clean] - process.alpha(at)[:, None]) / process.sigma(at)[:, None]).flatten()
    assert abs(float(scale.mean())) < 4.5 / math.sqrt(len(scale))
    assert abs(float(scale.std()) - 1) < 4.5 / math.sqrt(2 * len(scale))
    assert not torch.equal(t, t_made)
    again = model(lambda x: x[:, 0])
    with torch.no_grad():
        objective.of_discriminator(again, x[10:20], None, noise.rows(slice(10, 20)))
    torch.testing.assert_close(told(again)[0][0], y[10:20], rtol=0, atol=0)


def test_conditions_reach_both_players() -> None:
    made = model(lambda x: x[:, 0])
    made.network.config = {"conditions": {"label": 3}}  # type: ignore[assignment]
    x, noise = data(4)
    label = {"label": torch.tensor([0, 1, 2, -1])}
    Adversarial().of_discriminator(made, x, label, noise)
    assert all(torch.equal(condition["label"], label["label"]) for _, _, condition in told(made))


def learner(**options: str) -> Learner:
    objective = ObjectiveConfig("gan", {"discriminator": '{"width": 16, "depth": 1}', **options})
    config = training.resolve_config(
        tiny(objective=objective, network=NetworkConfig("mlp", {"width": "16"})), points().info
    )
    torch.manual_seed(0)
    made, chosen = training.build(config, points().info)
    return Learner(made, chosen, optimiser=config.optimiser, ema=config.ema, batch=8)


def parts(made: Learner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    held = {name: value.clone() for name, value in made.network.state_dict().items()}
    mine = {name for name in held if name.startswith("discriminator.")}
    return {n: held[n] for n in held.keys() - mine}, {n: held[n] for n in mine}


def test_each_player_moves_itself_alone() -> None:
    """With the other's learning rate at zero, nothing of it changes; each has its own optimiser."""
    made = learner()
    assert [turn.name for turn in made.turns] == ["discriminator", "generator"]
    owned = [{id(p) for p in turn.parameters} for turn in made.turns]
    assert not owned[0] & owned[1]
    assert owned[0] | owned[1] == {id(p) for p in made.network.parameters()}
    batch = points().train.batch(torch.arange(8))
    for moved in range(2):
        before = parts(made)
        made._turn(made.turns[moved], batch, Noise(0, 8), 1e-2, {})
        after = parts(made)
        for k in range(2):  # 0: the generator's, 1: the discriminator's
            same = all(torch.equal(before[k][name], after[k][name]) for name in before[k])
            assert same == (k == moved)
    assert [turn.taken for turn in made.turns] == [1, 1]


def test_no_gradient_of_one_turn_is_left_for_the_next() -> None:
    """The loss of the generator has a gradient in the discriminator too, which must not be in that one's next step."""
    made = learner()
    batch = points().train.batch(torch.arange(8))
    for number in (1, 2):
        made.step(batch, Noise(0, 8, draw=number), number=number, rate=1e-3)
        assert all(p.grad is None for p in made.network.parameters())


def test_turns_are_taken_as_the_objective_says() -> None:
    made = learner(every="3")
    batch = points().train.batch(torch.arange(8))
    for number in range(1, 8):
        made.step(batch, Noise(0, 8, draw=number), number=number, rate=1e-3)
    assert {turn.name: turn.taken for turn in made.turns} == {"discriminator": 7, "generator": 2}


def test_what_is_kept_is_the_generator_alone() -> None:
    made = learner()
    kept = made.objective.finish(made.average)
    assert not any(name.startswith("discriminator") for name in kept.network.state_dict())
    assert hasattr(made.average.network, "discriminator")
    assert replace(kept).shape == (2,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"r1": -1.0}, "r1 must be a number in"),
        ({"clean": 1.5}, "clean must be a number in"),
        ({"every": 0}, "every must be an integer of at least 1"),
        ({"diffuse": "absorbing"}, "diffuse must name a process|classes"),
    ],
)
def test_refusals(settings: dict[str, Any], says: str) -> None:
    with pytest.raises((UserError, TypeError), match=says):
        Adversarial(**settings)
    with pytest.raises(UserError, match="learns a generator"):
        Adversarial().check(langevin.worlds.ring().denoiser(langevin.processes.EDM()))
