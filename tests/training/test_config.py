"""Configurations: what is chosen, what is refused before any work."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langevin import data, models, processes, training
from langevin._errors import UserError
from langevin.denoisers import TIME_INPUTS
from langevin.training import (
    BudgetConfig,
    Config,
    EMAConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from tiny_runs import points, tiny


def test_round_trip() -> None:
    config = training.resolve_config(tiny(), points().info)
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.optimiser.betas == (0.9, 0.99)
    with pytest.raises(UserError, match=r"config\.optimiser has no 'rate'"):
        Config.from_dict({"optimiser": {"rate": 1}})


def test_settled_for_the_data() -> None:
    """Everything left open is chosen, and σ_d is the RMS of the data: its mean counts."""
    dataset = points()
    config = training.resolve_config(Config(), dataset.info)
    x = dataset.train.all()["x"].double()
    assert config.prediction.sigma_data == pytest.approx(float((x**2).mean().sqrt()), rel=1e-6)
    assert config.prediction.name == "edm"
    assert config.objective.times == "log-normal"
    assert config.objective.times_options["mean"] == pytest.approx(-1.2 + math.log(2 * config.prediction.sigma_data))  # type: ignore[comparison-overlap, operator]
    assert config.network.options["conditions"] == {"label": 3}  # type: ignore[comparison-overlap]
    assert config.budget.steps is not None
    assert training.resolve_config(config, dataset.info) == config


def test_every_default_builds() -> None:
    for name in ("moons", "digits"):
        info = data.load(name).info
        denoiser, objective = training.build(training.resolve_config(Config(), info), info)
        assert denoiser.conditions() == ("label",)
        assert objective.to_dict()["times"]["name"] == "stratified"


@pytest.mark.parametrize("process", ["edm", "vp", "sub-vp", "ve", "flow", "cosine", "ddpm"])
def test_every_process_trains(process: str, tmp_path: Path) -> None:
    config = tiny(2, process=ProcessConfig(process))
    denoiser = training.train(config, points(), tmp_path, quiet=True)
    assert denoiser.config["skipped"] == 0
    assert models.load(tmp_path).process == denoiser.process


@pytest.mark.parametrize("time", ["index", "nearest-index", "time", "t", "log_snr"])
def test_time_inputs_fit_the_network(time: str) -> None:
    """The network's features cover the range of the label it is told."""
    info = points().info
    config = training.resolve_config(
        tiny(prediction=PredictionConfig("eps", time=time), process=ProcessConfig("ddpm")), info
    )
    low, high = config.network.options["time_range"]
    label = lambda t: float(TIME_INPUTS[time](processes.DDPM(), torch.tensor(t, dtype=torch.float64)))
    assert (float(low), float(high)) == pytest.approx((*sorted((label(0.0), label(1.0))),))
    training.build(config, info)


OPTIMISER = OptimiserConfig()
BAD = [
    (tiny(seed=-1), "seed"),
    (tiny(batch=0), "batch"),
    (tiny(precision="half"), "precision"),
    (tiny(process=ProcessConfig("vpp")), "unknown process 'vpp'. Did you mean 'vp'"),
    (tiny(process=ProcessConfig("vp", {"beta": "3"})), "process 'vp'"),
    (tiny(process=ProcessConfig("flow"), prediction=PredictionConfig("eps")), "cannot be read at t = 1"),
    (tiny(process=ProcessConfig("gamma", {"theta": "-1"})), "theta must be > 0"),
    (tiny(prediction=PredictionConfig("epsilon")), "unknown prediction 'epsilon'"),
    (tiny(prediction=PredictionConfig(sigma_data=-1.0)), "prediction.sigma-data"),
    (tiny(network=NetworkConfig("mpl")), "'mpl'"),
    (tiny(network=NetworkConfig("mlp", {"widht": "3"})), "widht"),
    (tiny(objective=ObjectiveConfig("simpel")), "Did you mean 'simple'"),
    (tiny(objective=ObjectiveConfig(times="table")), "DDPM table"),
    (tiny(objective=ObjectiveConfig("min-snr", {"gamma": "-1"})), "gamma"),
    (tiny(objective=ObjectiveConfig(dropout={"label": 1.5})), "objective.dropout label"),
    (tiny(optimiser=replace(OPTIMISER, lr=0.0)), "optimiser.lr"),
    (tiny(optimiser=replace(OPTIMISER, lr=math.nan)), "optimiser.lr"),
    (tiny(optimiser=replace(OPTIMISER, betas=(0.9, 1.0))), "optimiser.betas"),
    (tiny(optimiser=replace(OPTIMISER, clip=0.0)), "optimiser.clip"),
    (tiny(ema=EMAConfig(width=0.5)), "ema.width"),
    (tiny(budget=BudgetConfig(3, 4.0)), "one of the two"),
    (tiny(budget=BudgetConfig(0)), "budget.steps"),
    (tiny(budget=BudgetConfig(minutes=0.0)), "budget.minutes"),
    (tiny(output=OutputConfig(keep=0)), "output.keep"),
    (tiny(output=OutputConfig(log_every=-1)), "output.log-every"),
]


@pytest.mark.parametrize(("config", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_requests_are_refused_before_any_work(config: Config, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        training.train(config, points(), tmp_path / "out", quiet=True)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_precision_is_decided_by_machine_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from langevin.training import learner

    cpu = torch.device("cpu")
    assert learner.precision("float32", cpu, (3, 32, 32)) == "float32"
    assert learner.precision("bfloat16", cpu, (2,)) == "bfloat16"
    for native in (True, False):
        monkeypatch.setattr(learner, "_native_bfloat16", lambda device, native=native: native)
        assert learner.precision("auto", cpu, (3, 32, 32)) == ("bfloat16" if native else "float32")
        assert learner.precision("auto", cpu, (1, 8, 8)) == ("bfloat16" if native else "float32")
        assert learner.precision("auto", cpu, (2,)) == "float32"


def test_bfloat16_trains_in_float32_weights(tmp_path: Path) -> None:
    denoiser = training.train(tiny(4, precision="bfloat16"), points(), tmp_path, quiet=True)
    assert denoiser.dtype == torch.float32
    assert denoiser.config["skipped"] == 0


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The nested dataclasses read as options, and every one of them says what it is."""
    import dataclasses

    import tyro

    words = "--seed 3 --network.name dit --network.options width 64 blocks [1,2] --optimiser.lr 1e-3"
    made = tyro.cli(Config, args=[*words.split(), "--budget.minutes", "2", "--objective.no-stratified"])
    assert made.network == NetworkConfig("dit", {"width": "64", "blocks": "[1,2]"})
    assert made.budget.minutes == 2
    assert not made.objective.stratified
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    text = capsys.readouterr().out
    for part in dataclasses.fields(Config):
        kind = type(getattr(Config(), part.name))
        for option in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            assert f"--{part.name}.{option.name.replace('_', '-')}" in text
