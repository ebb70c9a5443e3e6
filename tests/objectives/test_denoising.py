"""Objectives as a whole: their minimum, their independence of the batch, their configuration."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from langevin import _registry, objectives, processes
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser
from langevin.distributions import Dirac, Noise
from langevin.objectives import WEIGHTS, DenoisingLoss, Objective

MEAN, STD = torch.tensor([0.3, -0.5], dtype=torch.float64), torch.tensor([0.4, 0.9], dtype=torch.float64)


class Exact(torch.nn.Module):
    """The network whose output is the exact E[x_0 | x_t] of N(MEAN, STD²), moved by a bump."""

    def __init__(self, process: processes.ScalarGaussian, height: float) -> None:
        super().__init__()
        self.process, self.height = process, height
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
        t = (time / 1000)[:, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        # The bump follows σ/√(α² + σ²): it is as wide as what can be known.
        bump = torch.cos(3 * x) * sigma / torch.sqrt(alpha**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN) + self.height * bump


# Off the steepest end of time, where a likelihood weight of 1e9 leaves a Monte-Carlo mean without a variance.
FLAT = {"name": "uniform", "low": 0.05}


@pytest.mark.parametrize(
    "law", [FLAT, {"name": "stratified", "of": FLAT}, "log-normal"], ids=["uniform", "stratified", "log-normal"]
)
@pytest.mark.parametrize(
    "weight", [w for w in WEIGHTS if w != "hsm"]
)  # of velocities: tests/denoisers/test_phase_parameterization.py
@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_belief_mean_is_the_minimum(name: str, weight: str, law: object) -> None:
    """Moving the exact belief mean by ±h raises every objective: the slope at 0 vanishes, the curvature does not."""
    process = processes.create_process(name)
    noise = Noise(5, 20_000)
    x0 = MEAN + STD * noise.step(99).normal((2,))
    objective = objectives.create_objective({"name": weight, "times": law})

    def loss(height: float) -> Tensor:
        parameterization = AffineParameterization("x0", sigma_data=0.7, time="time", scale_input=False)
        return objective(NetworkDenoiser(Exact(process, height), process, parameterization, (2,)), x0, None, noise)  # type: ignore[arg-type]

    h = 1.0
    low, middle, high = loss(-h), loss(0.0), loss(h)
    slope, curvature = high - low, (high + low) / 2 - middle
    # The slope has mean 0; its standard error over samples (an upper bound for stratified times) times 4.5.
    assert abs(float(slope.mean())) < 4.5 * float(slope.std()) / 20_000**0.5
    assert float(curvature.mean()) > 0
    # Enough power to see a belief that is off: the same test refuses a mean that is moved by a quarter of the bump.
    off = loss(0.25 + h) - loss(0.25 - h)
    assert float(off.mean()) > 4.5 * float(off.std()) / 20_000**0.5


@pytest.mark.parametrize("law", ["uniform", "stratified", "log-normal", "importance"])
def test_loss_is_by_sample(law: str) -> None:
    """The loss of sample i does not depend on the batch it stands in."""
    process = processes.VP()
    objective = objectives.create_objective({"name": "simple", "times": law})
    noise = Noise(5, 32, draw=3)
    x0 = noise.step(99).normal((2,))
    denoiser = NetworkDenoiser(Exact(process, 0.5), process, AffineParameterization("eps", time="time"), (2,))
    whole = objective(denoiser, x0, None, noise)
    rows = torch.tensor([30, 2, 9])
    assert torch.equal(whole[rows], objective(denoiser, x0[rows], None, noise.rows(rows)))
    assert whole.dtype == torch.float64
    assert whole.shape == (32,)


def test_importance_does_not_move_the_objective() -> None:
    """Shown its own losses, the law draws steep times more often; the objective's mean stays, its variance falls."""
    process = processes.VP()
    denoiser = NetworkDenoiser(
        Exact(process, 0.5), process, AffineParameterization("x0", time="time", scale_input=False), (2,)
    )
    plain = objectives.create_objective({"name": "dsm", "times": FLAT})
    learned = objectives.create_objective({"name": "dsm", "times": {"name": "importance", "of": FLAT, "bins": 20}})
    assert learned.learns
    assert not plain.learns
    for draw in range(40):
        noise = Noise(1, 64, draw=draw)
        learned.observe(learned(denoiser, MEAN + STD * noise.step(99).normal((2,)), None, noise), noise)
    noise = Noise(5, 20_000)
    x0 = MEAN + STD * noise.step(99).normal((2,))
    a, b = plain(denoiser, x0, None, noise), learned(denoiser, x0, None, noise)
    error = float(((a.var() + b.var()) / 20_000).sqrt())
    assert abs(float(a.mean() - b.mean())) < 4.5 * error
    assert b.var() < 0.7 * a.var()
    assert torch.equal(learned.for_validation()(denoiser, x0, None, noise), a)
    again = objectives.create_objective(learned.to_dict())
    again.restore(json.loads(json.dumps(learned.state())))
    assert torch.equal(again(denoiser, x0, None, noise), b)


def test_history_is_free_of_the_ratio() -> None:
    """Losses carry the ratio 1/(K p_k); what is remembered is L_k alone, or a bin drawn often would look small."""
    objective = objectives.create_objective({"name": "x0", "times": {"name": "importance", "bins": 2, "terms": 2}})
    law = objective.times  # type: ignore[attr-defined]
    law.observe(torch.tensor([0.2, 0.2, 0.8, 0.8]), torch.tensor([9.0, 9.0, 1.0, 1.0]))
    noise = Noise(0, 64)
    ratio = law.ratio(processes.VP(), law.uniform(noise))
    assert len(ratio.unique()) == 2
    objective.observe(3.0 * ratio, noise)
    torch.testing.assert_close(law.history.losses, torch.full((2, 2), 3.0, dtype=torch.float64), rtol=1e-12, atol=0)


def test_any_process_with_a_marginal() -> None:
    """The plain x_0 error needs a marginal and nothing else: Gamma noise."""

    class Zero(Denoiser):
        process, shape = processes.GammaNoise(), (2,)

        def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
            return Dirac(torch.zeros_like(x_t))

    x0 = torch.ones(8, 2, dtype=torch.float64)
    loss = objectives.create_objective("x0")(Zero(), x0, None, Noise(0, 8))
    assert torch.equal(loss, torch.ones(8, dtype=torch.float64))


def test_condition_is_bound() -> None:
    class Seen(torch.nn.Module):
        config = {"conditions": {"label": 5}}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, time: Tensor, condition: dict[str, Tensor]) -> Tensor:
            return condition["label"][:, None].to(x) + 0 * x

    denoiser = NetworkDenoiser(Seen(), processes.VP(), AffineParameterization("x0"), (2,))
    label = torch.tensor([0, 4, -1])
    x0 = torch.zeros(3, 2)
    loss = objectives.create_objective("x0")(denoiser, x0, {"label": label}, Noise(0, 3))
    assert loss.tolist() == [0.0, 16.0, 1.0]


@pytest.mark.parametrize("name", [*WEIGHTS, *(name for name in objectives.OBJECTIVES if name not in ("vdm",))])
def test_config_round_trip(name: str) -> None:
    made = objectives.create_objective({"name": name, "world": {"name": "ring"}} if name == "explicit" else name)
    config = json.loads(json.dumps(made.to_dict()))
    assert config["name"] == name
    assert objectives.create_objective(config).to_dict() == config
    assert isinstance(objectives.create_objective(config), Objective)


def test_settings() -> None:
    assert objectives.create_objective({"name": "min-snr", "gamma": 3}) == DenoisingLoss(
        "min-snr", settings={"gamma": 3}
    )
    assert objectives.create_objective("edm").to_dict()["times"]["name"] == "log-normal"
    nested = objectives.create_objective({"name": "x0", "times": {"name": "stratified", "of": "log-normal"}})
    assert nested.to_dict()["times"]["of"] == {"name": "log-normal", "mean": -1.2, "std": 1.2}
    for config, words in [
        ("simpel", "Did you mean 'simple'"),
        ({"name": "min-snr", "gama": 3}, "takes gamma, got 'gama'"),
        ({"name": "min-snr", "gamma": -3}, "number > 0"),
        ({"name": "simple", "gamma": 3}, "takes no setting"),
        ({"name": "simple", "times": "often"}, "unknown law of t 'often'"),
        ({}, "unknown objective 'None'"),
        ({"name": "sliced", "projections": 0}, "projections must be"),
        ({"name": "sliced", "probe": "gauss"}, "Did you mean 'gaussian'"),
        ({"name": "sliced", "weight": "min-snr", "gama": 3}, "'sliced' takes .*, gamma, got 'gama'"),
        ("explicit", "world must say"),
        ({"name": "explicit", "world": {"name": "rng"}}, "Did you mean 'ring'"),
        ({"name": "explicit", "world": {"name": "ring", "size": 3}}, "size"),
    ]:
        with pytest.raises(UserError, match=words):
            objectives.create_objective(config)  # type: ignore[arg-type]


def test_check_before_work() -> None:
    bare = NetworkDenoiser(torch.nn.Linear(1, 1), processes.VP(), AffineParameterization("x0"), (2,))
    objectives.create_objective("likelihood").check(bare)
    with pytest.raises(UserError, match="DDPM table"):
        objectives.create_objective({"name": "simple", "times": "table"}).check(bare)


def test_every_objective_of_the_registry_is_made_by_its_name() -> None:
    """The tables are the registry: each row but the laws of t is a weight, an objective with times, or one without."""
    rows = {m.name for m in _registry.methods("objectives") if not m.name.startswith("times/")}
    tables = [set(WEIGHTS), set(objectives.OBJECTIVES), set(objectives.TIMELESS)]
    assert set.union(*tables) == rows
    assert sum(map(len, tables)) == len(rows)
