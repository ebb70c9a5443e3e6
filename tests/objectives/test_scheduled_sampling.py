"""Scheduled sampling: the law of the states that the model makes, what is learned of them, and of what nothing is."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import objectives, processes, worlds
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Noise, Stream
from langevin.objectives import DenoisingLoss, ScheduledSampling, Uniform

VP = processes.VP()
N = 20_000


class Linear(torch.nn.Module):
    """x̂_0 = shift + gain·x, whatever the time."""

    def __init__(self, gain: float, shift: float = 0.0) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
        return self.shift + self.gain * x


def linear(gain: float, shift: float = 0.0, prediction: str = "x0") -> NetworkDenoiser:
    reading = AffineParameterization(prediction, time="time", scale_input=False)
    return NetworkDenoiser(Linear(gain, shift), VP, reading, (1,))


def times_of(objective: ScheduledSampling, noise: Noise) -> Tensor:
    """The times that the objective asks at for these samples."""
    return objective.times.quantile(VP, objective.times.uniform(noise))


def ends(objective: ScheduledSampling, t: Tensor) -> tuple[Tensor, ...]:
    """α and σ at t and at r, ``(B, 1)``."""
    r = VP.time(VP.log_snr(t) - 2 * math.log(objective.reach))
    return tuple(f(time)[:, None] for time in (t, r) for f in (VP.alpha, VP.sigma))


@pytest.mark.parametrize(("eta", "steps"), [(1.0, 1), (0.0, 1), (0.5, 3)])
def test_states_of_an_exact_model_have_the_law_of_x_t(eta: float, steps: int) -> None:
    """x_r ~ q, and E_belief[q_η(x_s | x_r, x_0)] takes p_r to p_s for every η and step: the bridge's marginals are q's.

    The distance of Kolmogorov and Smirnov to the known law of x_t, √n D, is over 1.95 in one case of a thousand; that
    to the law of a time that is later by 0.05 is far above.
    """
    weights, means, variance = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-0.8], [0.5]]).double(), 0.04
    world = worlds.GaussianMixture(weights, means, torch.full((2, 1), variance))
    objective = ScheduledSampling("x0", eta=eta, steps=steps, reach=3.0)
    noise = Noise(3, N)
    x0 = world.sample(noise.step(9))
    x0 = getattr(x0, "x", x0)
    t = torch.tensor([0.1], dtype=torch.float64)
    x = objective.rollout(world.denoiser(VP), x0, t.expand(N), noise)[:, 0].sort().values

    def distance(x: Tensor, t: Tensor) -> float:
        alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
        spread = math.sqrt(alpha**2 * variance + sigma**2)
        law = (weights * torch.special.ndtr((x[:, None] - alpha * means[:, 0]) / spread)).sum(1)
        rank = torch.arange(N + 1) / N
        return N**0.5 * float(torch.maximum((law - rank[:-1]).abs(), (law - rank[1:]).abs()).max())

    assert distance(x, t) < 1.95
    assert distance(x, t + 0.05) > 3


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_states_of_an_exact_mean_are_off_by_the_solver_alone(steps: int) -> None:
    """Of N(0, 1) under VP, α = cos θ, σ = sin θ, the mean of the belief is cos θ · x, and DDIM's step multiplies by
    sin θ_s sin θ + cos θ_s cos θ = cos(θ − θ_s): m steps of equal tan θ_s/tan θ keep Π cos(Δθ_j), 1 − O(1/m)."""

    class Mean(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
            return VP.alpha(time.double() / 1000)[:, None] * x

    objective = ScheduledSampling("x0", steps=steps, reach=2.5)
    model = NetworkDenoiser(Mean(), VP, AffineParameterization("x0", time="time", scale_input=False), (1,))
    noise, x0 = Noise(3, 64), torch.zeros(64, 1, dtype=torch.float64)
    t = torch.full((64,), 0.2, dtype=torch.float64)
    made = objective.rollout(model, x0, t, noise)
    level = VP.sigma(t[0]) / VP.alpha(t[0]) * 2.5 ** (torch.arange(steps, -1, -1, dtype=torch.float64) / steps)
    angle = torch.atan(level)
    times = VP.time(-2 * torch.log(level))
    x_r = VP.marginal(x0, times[0]).sample(noise)
    kept = torch.cos(angle.diff()).prod()
    torch.testing.assert_close(made, kept * x_r, rtol=1e-6, atol=0)  # the time input is float32
    assert 1 - float(kept) < float(angle[0] - angle[-1]) ** 2 / steps


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_what_it_costs_where_the_condition_does_not_say_all(eta: float) -> None:
    r"""Of N(0, 1) under VP, x̃_t is N(0, 1) as x_t is, but its covariance with x_0 is that of x_r's way down.

    With x̃_t = b x_r + a x_0' + noise, x_0' ~ N(α_r x_r, σ_r²), Cov(x̃_t, x_0) = (b + a α_r) α_r =: ρ, and the loss of
    x̂_0 = k x̃_t is 1 + k² − 2kρ, least at k = ρ. For η = 0, b = σ_t/σ_r; for η = 1, b = (α_r/α_t)(σ_t/σ_r)² by Bayes'
    rule; a = α_t − b α_r. The exact k is α_t, which is larger: 1 − ρ² is no less than 1 − α_r², the floor at r.
    """
    objective = ScheduledSampling("x0", eta=eta, reach=2.0, probability=1.0, times=Uniform(low=0.1, high=0.6))
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1))
    noise = Noise(4, N)
    x0 = noise.step(9).normal((1,))
    t = times_of(objective, noise)
    alpha_t, sigma_t, alpha_r, sigma_r = (v[:, 0] for v in ends(objective, t))
    b = sigma_t / sigma_r if eta == 0 else alpha_r / alpha_t * (sigma_t / sigma_r) ** 2
    rho = (b + (alpha_t - b * alpha_r) * alpha_r) * alpha_r
    loss = objective(world.denoiser(VP), x0, None, noise)
    truth = 1 + alpha_t**2 - 2 * alpha_t * rho
    assert abs(float((loss - truth).mean())) < 4.5 * float((loss - truth).std()) / N**0.5
    plain = DenoisingLoss("x0", objective.times)(world.denoiser(VP), x0, None, noise)
    assert float(loss.mean() - plain.mean()) > 20 * float((loss - plain).std()) / N**0.5
    assert (rho < alpha_t).all()
    assert (1 - rho**2 >= 1 - alpha_r**2 - 1e-12).all()
    # The best gain is ρ: states and data regress on it, sample by sample.
    x = objective.rollout(world.denoiser(VP), x0, t, noise)
    error = (x0 * x)[:, 0] - rho
    assert abs(float(error.mean())) < 4.5 * float(error.std()) / N**0.5


def test_nothing_where_the_data_are_known() -> None:
    """Of one point the exact loss is 0 at every state, the model's own too: the minimum is the plain one."""
    world = worlds.GaussianMixture(torch.ones(1), torch.full((1, 1), 0.6, dtype=torch.float64), torch.zeros(1, 1))
    objective = ScheduledSampling("x0", probability=1.0, reach=5.0, steps=2)
    loss = objective(world.denoiser(VP), torch.full((64, 1), 0.6, dtype=torch.float64), None, Noise(0, 64))
    assert float(loss.max()) < 1e-24


def test_the_slope_is_that_of_states_that_stand_still() -> None:
    r"""Of x_0 = 0 and x̂_0 = θ x, one step of DDIM goes to x̃_t = (σ_t/σ_r + (α_t − α_r σ_t/σ_r) θ) x_r.

    The loss is θ² x̃_t², and its slope 2 θ x̃_t², with x̃_t held: through the rollout there would be another
    2 θ² x̃_t ∂x̃_t/∂θ. A model that errs away from 0 goes astray (x̃_t² > x_t²) and is pulled back the harder for it.
    """
    theta = 0.5
    objective = ScheduledSampling("x0", probability=1.0, reach=3.0)
    model, noise = linear(theta), Noise(1, 256)
    x0 = torch.zeros(256, 1, dtype=torch.float64)
    objective(model, x0, None, noise).sum().backward()
    t = times_of(objective, noise)
    alpha_t, sigma_t, alpha_r, sigma_r = ends(objective, t)
    # What x_t would have been, with the same noise, lies at σ_t; x_r at σ_r.
    x_t = VP.marginal(x0, t).sample(noise)
    made = (sigma_t / sigma_r + (alpha_t - alpha_r * sigma_t / sigma_r) * theta) * x_t * sigma_r / sigma_t
    assert float(model.network.gain.grad) == pytest.approx(float(2 * theta * made.square().sum()), rel=1e-8)
    assert float(made.square().mean()) > 1.1 * float(x_t.square().mean())


def test_a_biased_model_learns_to_make_up_for_it() -> None:
    r"""Of x_0 = 0 and x̂_0 = β + k x at k = 0, states drift by d = (α_t − α_r σ_t/σ_r) β: the slope of k is 2 β d > 0.

    Descent makes k negative: what is too large is taken back. Where x_t is drawn it is symmetric, and k feels nothing.
    """
    objective = ScheduledSampling("x0", probability=1.0, reach=3.0, times=Uniform(low=0.1))
    noise, x0 = Noise(2, N), torch.zeros(N, 1, dtype=torch.float64)
    t = times_of(objective, noise)
    alpha_t, sigma_t, alpha_r, sigma_r = ends(objective, t)
    for kind in (objective, DenoisingLoss("x0", objective.times)):
        model = linear(0.0, 0.4)
        kind(model, x0, None, noise).mean().backward()
        drift = (alpha_t - alpha_r * sigma_t / sigma_r) * 0.4 if kind is objective else torch.zeros_like(t)
        error = 4.5 * 2 * 0.4 * float(sigma_t.max()) / N**0.5
        assert abs(float(model.network.gain.grad) - float(2 * 0.4 * drift.mean())) < error
        assert (float(model.network.gain.grad) > 2 * error) == (kind is objective)


def test_the_target_of_the_noise_leads_to_the_data() -> None:
    """A network of ε is asked for ε̃ = (x̃_t − α_t x_0)/σ_t: the loss ``simple`` is the plain error of that."""
    objective = ScheduledSampling("simple", probability=1.0, reach=2.0, steps=2, times=Uniform(low=0.1))
    model, noise = linear(0.3, 0.1, "eps"), Noise(5, 32)
    x0 = noise.step(9).normal((1,))
    t = times_of(objective, noise)
    x = objective.rollout(model, x0, t, noise)
    target = (x - VP.alpha(t)[:, None] * x0) / VP.sigma(t)[:, None]
    out = model.network(x, t, None)
    torch.testing.assert_close(objective(model, x0, None, noise), (out - target).square()[:, 0], rtol=1e-9, atol=0)


def test_a_right_model_makes_the_state_that_was_drawn() -> None:
    """With x̂_0 = x_0 a deterministic rollout ends where the same noise would have put x_t, whatever its steps."""
    noise, x0 = Noise(6, 16), torch.full((16, 1), 0.4, dtype=torch.float64)
    t = torch.linspace(0.001, 1, 16, dtype=torch.float64)
    for steps in (1, 3):
        objective = ScheduledSampling("x0", reach=4.0, steps=steps)
        x_t = VP.marginal(x0, t).sample(noise)
        torch.testing.assert_close(objective.rollout(linear(0.0, 0.4), x0, t, noise), x_t, rtol=1e-9, atol=1e-12)


def test_the_share() -> None:
    """The samples that are chosen by their own noise, the others to the bit as in the plain loss; in a line from 0."""
    model, noise = linear(0.5, 0.2), Noise(7, 4000)
    x0 = noise.step(9).normal((1,))
    plain = DenoisingLoss("x0")(model, x0, None, noise)
    loss = lambda **settings: ScheduledSampling("x0", **settings)(model, x0, None, noise)
    assert torch.equal(loss(probability=0.0), plain)
    part, whole = loss(probability=0.3), loss(probability=1.0)
    chosen = noise.fold_in(Stream.REPLACED).uniform(()) < 0.3
    assert torch.equal(part[~chosen], plain[~chosen])
    torch.testing.assert_close(part[chosen], whole[chosen], rtol=1e-12, atol=0)
    assert float((part != plain).double().mean()) == pytest.approx(0.3, abs=4.5 * (0.21 / 4000) ** 0.5)
    made = ScheduledSampling("x0", probability=0.8, ramp=4)
    shares = []
    for _ in range(6):
        shares.append(made.share)
        made.observe(plain, noise)
    assert shares == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert made.learns
    assert not ScheduledSampling("x0").learns


def test_as_many_evaluations_whoever_is_chosen() -> None:
    """Of nobody too: processes that share a batch meet in their networks. And of some, of these alone."""
    sizes = []

    class Counting(Linear):
        def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
            sizes.append(len(x))
            return super().forward(x, time, condition)

    model = NetworkDenoiser(Counting(0.5), VP, AffineParameterization("x0", time="time", scale_input=False), (1,))
    noise, x0 = Noise(7, 40), torch.zeros(40, 1, dtype=torch.float64)
    for probability in (1e-12, 0.5, 1.0, 0.0):
        loss = ScheduledSampling("x0", probability=probability, steps=2)(model, x0, None, noise)
        if probability < 0.1:
            assert torch.equal(loss, DenoisingLoss("x0")(linear(0.5), x0, None, noise))
    some = int((noise.fold_in(Stream.REPLACED).uniform(()) < 0.5).sum())
    assert sizes == [1, 1, 40, some, some, 40, 40, 40, 40, 40]


def test_loss_is_by_sample() -> None:
    """The loss of a sample does not depend on the batch it stands in, chosen or not."""
    objective = ScheduledSampling("x0", probability=0.5, steps=2, eta=0.7)
    model, noise = linear(0.5, 0.2), Noise(5, 32, draw=3)
    x0 = noise.step(99).normal((1,))
    whole = objective(model, x0, None, noise)
    for rows in (torch.tensor([30, 2, 9]), *torch.arange(32)[:, None]):
        assert torch.equal(whole[rows], objective(model, x0[rows], None, noise.rows(rows)))
    assert (whole.dtype, whole.shape) == (torch.float64, (32,))


def test_conditions_go_along() -> None:
    """What is bound for a sample is bound in its rollout: x̂_0 is the label, and x̃_t goes to it."""

    class Label(torch.nn.Module):
        config = {"conditions": {"label": 5}}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor, time: Tensor, condition: dict[str, Tensor]) -> Tensor:
            return condition["label"][:, None].to(x) + 0 * self.anchor * x

    model = NetworkDenoiser(Label(), VP, AffineParameterization("x0"), (1,))
    label, noise = torch.arange(5).repeat(8), Noise(0, 40)
    objective = ScheduledSampling("x0", probability=0.5, reach=50.0, times=Uniform(low=0.01, high=0.02))
    assert float(objective(model, label[:, None].double(), {"label": label}, noise).detach().max()) == 0
    t = times_of(objective, noise)
    made = objective.rollout(model.given(label=label), torch.zeros(40, 1, dtype=torch.float64), t, noise)
    alpha_t, sigma_t, alpha_r, sigma_r = ends(objective, t)
    x_t = VP.marginal(torch.zeros(40, 1, dtype=torch.float64), t).sample(noise)
    torch.testing.assert_close(made, x_t + (alpha_t - alpha_r * sigma_t / sigma_r) * label[:, None], rtol=0, atol=1e-7)


def test_a_network_makes_states_as_it_samples() -> None:
    """Without dropout and without gradients; it learns with both, under autocast too, and is left as it was."""
    seen = []

    class Dropping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return self.layer(x)

    model = NetworkDenoiser(Dropping().train(), VP, AffineParameterization("x0"), (4,))
    objective = ScheduledSampling("x0", probability=1.0, steps=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(model, torch.ones(8, 4), None, Noise(0, 8))
    loss.sum().backward()
    assert seen == [(False, False), (False, False), (True, True)]
    assert model.network.training
    # In older releases weights that were cast in the rollout are kept for the pass that learns, without a gradient.
    assert model.network.layer.weight.grad is not None
    assert float(model.network.layer.weight.grad.abs().min()) > 0


@pytest.mark.parametrize("name", ["vp", "sub-vp", "edm", "flow", "cosine", "ddpm", "ve"])
def test_every_process(name: str) -> None:
    """From the smallest time to the largest: r has ``reach`` times the noise, where there is as much; t comes last."""
    process = processes.create_process(name)
    model = NetworkDenoiser(Linear(0.1), process, AffineParameterization("x0", time="none"), (1,))
    t = torch.tensor([process.t_min, 0.3, 0.731, 0.95, 1.0], dtype=torch.float64)
    for settings in ({"steps": 3, "reach": 2.5}, {"steps": 2, "eta": 1.0, "reach": 1e3}):
        made = objectives.create_objective({"name": "scheduled-sampling", "weight": "x0", "probability": 1, **settings})
        assert isinstance(made, ScheduledSampling)
        made.check(model)
        times = made.times_from(process, t)
        assert torch.equal(times[-1], t)
        assert all((a >= b).all() for a, b in itertools.pairwise(times))
        asked = -process.log_snr(t) / 2 + math.log(made.reach)
        got = -process.log_snr(times[0]) / 2
        if name != "ddpm":
            inside = times[0] < 1
            torch.testing.assert_close(got[inside], asked[inside], rtol=0, atol=1e-6)
        # As near as rounding lets them come, r is no earlier than t.
        many = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp_min(1e-3)
        near = replace(made, steps=1, reach=1 + 1e-15).times_from(process, many)
        assert (near[0] >= many).all()
        assert torch.isfinite(made.rollout(model, torch.zeros(5, 1, dtype=torch.float64), t, Noise(0, 5))).all()


def test_a_table_is_asked_at_its_knots() -> None:
    """At the next knots, one at least where the reach is less: with ``index`` a network takes no other time."""
    process = processes.DDPM()
    made = ScheduledSampling("x0", reach=1.0 + 1e-9, eta=1.0)
    t = torch.tensor([1, 2, 500, 999, 1000]).double() / 1000
    far, _ = made.times_from(process, t)
    assert (1000 * far).round().tolist() == [2, 3, 501, 1000, 1000]
    torch.testing.assert_close(far, process.knot(far).double() / 1000, rtol=0, atol=1e-12)
    model = NetworkDenoiser(Linear(0.1), process, AffineParameterization("eps", time="index"), (1,))
    several = ScheduledSampling("x0", reach=3.0, steps=4)
    assert torch.isfinite(several.rollout(model, torch.zeros(5, 1, dtype=torch.float64), t, Noise(0, 5))).all()
    knots = (1000 * torch.stack(replace(made, steps=3).times_from(process, t)).T).round().tolist()  # no step stands
    assert knots == [[4, 3, 2, 1], [5, 4, 3, 2], [503, 502, 501, 500], [1000, 1000, 1000, 999], [1000] * 4]


def test_validation_is_the_plain_loss() -> None:
    """Runs with and without are compared by it."""
    model, noise = linear(0.5, 0.2), Noise(7, 64)
    x0 = noise.step(9).normal((1,))
    objective = ScheduledSampling("min-snr", probability=1.0, settings={"gamma": 3.0}).for_validation()
    plain = DenoisingLoss("min-snr", settings={"gamma": 3.0})
    assert torch.equal(objective(model, x0, None, noise), plain(model, x0, None, noise))


def test_configuration_and_state() -> None:
    asked = {
        "name": "scheduled-sampling",
        "weight": "min-snr",
        "gamma": 3,
        "steps": 2,
        "ramp": 10,
        "times": "importance",
    }
    made = objectives.create_objective(asked)
    assert isinstance(made, ScheduledSampling)
    assert (made.steps, made.weight, made.settings) == (2, "min-snr", {"gamma": 3})
    assert objectives.create_objective(json.loads(json.dumps(made.to_dict()))).to_dict() == made.to_dict()
    for draw in range(3):
        made.observe(torch.rand(8, dtype=torch.float64), Noise(0, 8, draw=draw))
    again = objectives.create_objective(asked)
    again.restore(json.loads(json.dumps(made.state())))
    assert isinstance(again, ScheduledSampling)
    assert again.share == made.share == pytest.approx(0.5 * 3 / 10)
    assert again.state() == made.state()
    assert made.state()["times"] != objectives.create_objective(asked).state()["times"]
    assert replace(made, steps=3).share == 0  # another objective has seen nothing
    with pytest.raises(UserError, match="scheduled sampling keeps steps and times, got nothing"):
        again.restore({})
    with pytest.raises(UserError, match="steps must be an integer of at least 0, got -1"):
        again.restore({"steps": -1, "times": made.state()["times"]})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
    "reach": ({"reach": 1.0}, "reach must be a ratio of noise levels above 1, got 1.0"),
    "far": ({"reach": float("inf")}, "reach must be a finite number, got inf"),
    "share": ({"probability": 1.5}, r"probability must lie in \[0, 1\], got 1.5"),
    "no number": ({"probability": "half"}, "probability must be a finite number, got 'half'"),
    "eta": ({"eta": 2.0}, "eta"),
    "ramp": ({"ramp": -1}, "ramp must be an integer of at least 0, got -1"),
    "weight": ({"weight": "simpel"}, "Did you mean 'simple'"),
    "an option": ({"reech": 0.2}, "'scheduled-sampling' takes steps, .*, got 'reech'. Did you mean 'reach'"),
}


@pytest.mark.parametrize(("settings", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        objectives.create_objective({"name": "scheduled-sampling", **settings})


def test_of_real_data_alone() -> None:
    with pytest.raises(UserError, match="objective 'scheduled-sampling' needs a process with"):
        ScheduledSampling("x0").times_from(processes.create_process("gamma"), torch.ones(1))
