"""Models of several kinds in one trainer: what is chosen for each, and that a model directory says which it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langevin import data, models, samplers, training
from langevin._errors import UserError
from langevin.denoisers import (
    AffineParameterization,
    LevelParameterization,
    LevyParameterization,
    PhaseParameterization,
    TokenParameterization,
)
from langevin.distributions import Categorical
from langevin.training import (
    BudgetConfig,
    Config,
    NetworkConfig,
    ObjectiveConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from langevin.training.model_types import MODEL_TYPES, model_type_of
from tiny_runs import points, tiny


def beats(process: str | None = None, **changes: object) -> Config:
    """A run of a second on the heartbeat."""
    return tiny(
        process=ProcessConfig(process),
        network=NetworkConfig("transformer", {"width": 16, "depth": 1}),  # type: ignore[dict-item]
        **changes,
    )


def test_what_is_chosen_for_tokens() -> None:
    config = training.resolve_config(Config(), data.load("heartbeat").info)
    assert config.process == ProcessConfig("absorbing", {"classes": 2})  # type: ignore[dict-item]
    assert (config.prediction.name, config.prediction.time) == ("evidence", "time")
    assert (config.objective.name, config.objective.times) == ("d3pm", "uniform")
    assert config.network.name == "transformer"
    options = config.network.options
    assert [options[k] for k in ("channels", "out_channels", "length")] == [3, 2, 20]  # type: ignore[comparison-overlap]
    assert training.resolve_config(config, data.load("heartbeat").info) == config


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_tokens_train_are_written_and_read_back(process: str, tmp_path: Path) -> None:
    config = beats(process, output=OutputConfig(validate_every=6, validate_on=20, sample_every=6, checkpoint_every=6))
    made = training.train(config, data.load("heartbeat"), tmp_path, quiet=True)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "tokens"
    loaded = models.load(tmp_path, device="cpu")
    assert (loaded.parameterization, loaded.process, loaded.data) == (made.parameterization, made.process, made.data)
    x = samplers.sample(loaded, n=5, steps=4)
    assert (x.shape, x.dtype) == ((5, 20), torch.int64)
    belief = loaded(loaded.process.prior((20,)).sample(samplers_noise(3)), 0.5)
    assert isinstance(belief, Categorical)
    assert belief.probs.shape == (3, 20, 2)
    with pytest.raises(UserError, match="resume"):
        training.train(config, data.load("heartbeat"), tmp_path, quiet=True)
    longer = replace(config, budget=BudgetConfig(steps=14))
    assert training.train(longer, data.load("heartbeat"), tmp_path, resume=True, quiet=True).config["steps"] == 14


def samplers_noise(n: int):  # type: ignore[no-untyped-def]
    from langevin import Noise

    return Noise(0, n)


def test_the_kind_decides_the_parameterization(tmp_path: Path) -> None:
    training.train(beats(), data.load("heartbeat"), tmp_path, quiet=True)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    for change, words in [
        ({"kind": "denoiser"}, "lacks scale_input, sigma_data"),
        ({"kind": "phases"}, "kind 'phases' is unknown; it must be one of 'denoiser'"),
        ({"process": {"name": "vp"}}, "needs a chain on tokens, got VP"),
        ({"variance": "range"}, "unknown variance 'range'"),
    ]:
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError, match=words):
            models.load(tmp_path, device="cpu")


def test_kinds_of_processes() -> None:
    assert model_type_of("vp") is MODEL_TYPES["denoiser"]
    assert model_type_of("phase-space") is MODEL_TYPES["phase"]
    assert model_type_of("gamma") is model_type_of("mixture") is MODEL_TYPES["levy"]
    assert model_type_of("chain") is MODEL_TYPES["tokens"]
    assert {name: kind.parameterization for name, kind in MODEL_TYPES.items()} == {
        "denoiser": AffineParameterization,
        "tokens": TokenParameterization,
        "phase": PhaseParameterization,
        "levy": LevyParameterization,
        "levels": LevelParameterization,
    }


HEART = data.load("heartbeat")
BAD = [
    (beats("vp"), HEART, "process.name must be a chain .* for the tokens of 'heartbeat', got 'vp'"),
    (tiny(process=ProcessConfig("absorbing")), points(), "for the data 'blobs', got 'absorbing', a chain on tokens"),
    (beats("gamma"), HEART, "process.name must be a chain .* for the tokens of 'heartbeat', got 'gamma'"),
    (tiny(process=ProcessConfig("mixture"), prediction=PredictionConfig("levels")), points(), "which 'blobs' are not"),
    (tiny(process=ProcessConfig("gamma"), objective=ObjectiveConfig("dsm")), points(), "weight 'dsm' needs a process"),
    (replace(beats(), process=ProcessConfig("uniform", {"classes": "3"})), HEART, "must be that of the data, 2, got 3"),
    (beats(prediction=PredictionConfig("eps")), HEART, "unknown prediction 'eps'"),
    (beats(prediction=PredictionConfig(sigma_data=0.5)), HEART, "settings of real data"),
    (beats(prediction=PredictionConfig(time="index")), HEART, "time input must be 'time' for tokens"),
    (beats(objective=ObjectiveConfig("simple")), HEART, "weight 'simple'"),
    (beats(objective=ObjectiveConfig("x0")), HEART, "tokens are learned by 'd3pm'"),
    (beats(objective=ObjectiveConfig("d3pm", {"auxiliary": "-1"})), HEART, "auxiliary must be a number >= 0"),
    (beats(objective=ObjectiveConfig("d3pm", {"steps": "0"})), HEART, "steps must be an integer of at least 1"),
    (tiny(objective=ObjectiveConfig("d3pm")), points(), "objective 'd3pm' needs a"),
]


@pytest.mark.parametrize(("config", "dataset", "words"), BAD, ids=[words[:30] for *_, words in BAD])
def test_refused_before_any_work(config: Config, dataset: data.Dataset, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        training.train(config, dataset, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prediction", [None, "eps", "mixed"])
def test_velocities_train_are_written_and_read_back(prediction: str | None, tmp_path: Path) -> None:
    config = tiny(process=ProcessConfig("phase-space", {"beta": "6"}), prediction=PredictionConfig(prediction))  # type: ignore[dict-item]
    made = training.train(config, points(), tmp_path, quiet=True)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["kind"] == "phase"
    assert written["process"] == {"name": "phase-space", "beta": 6, "gamma": 0.04}
    assert [written["network"][k] for k in ("channels", "out_channels", "conditions")] == [4, 2, {"label": 3}]
    loaded = models.load(tmp_path, device="cpu")
    assert (loaded.parameterization, loaded.process) == (made.parameterization, made.process)
    assert loaded.parameterization.prediction == (prediction or "edm")
    for sampler in (None, "sscs", "heun"):
        x = samplers.sample(loaded.given(label=torch.tensor([0, 1, 2, 0, 1])), sampler, n=5, steps=4)
        assert (x.shape, x.dtype) == ((5, 2), torch.float32)
        assert x.isfinite().all()


@pytest.mark.parametrize("process", ["gamma", "mixture"])
def test_noise_of_other_shapes_trains_is_written_and_read_back(process: str, tmp_path: Path) -> None:
    """Settings of the process as JSON, a base too; what is loaded draws, and a run goes on."""
    options = {
        "base": '{"name": "ve", "sigma_max": 5}',
        **({"theta": "0.2"} if process == "gamma" else {"size": "0.3"}),
    }
    config = tiny(process=ProcessConfig(process, options))  # type: ignore[arg-type]
    made = training.train(config, points(), tmp_path, quiet=True)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["kind"] == "levy"
    assert written["process"]["base"] == {"name": "ve", "sigma_min": 0.01, "sigma_max": 5}
    loaded = models.load(tmp_path, device="cpu")
    assert (loaded.parameterization, loaded.process) == (made.parameterization, made.process)
    x = samplers.sample(loaded.given(label=torch.tensor([0, 1, 2, 0, 1])), n=5, steps=4)
    assert (x.shape, x.dtype) == ((5, 2), torch.float32)
    assert x.isfinite().all()
    with pytest.raises(UserError, match="DDIM needs a process"):
        samplers.sample(loaded, "ddim", n=2, steps=2)
    longer = replace(config, budget=BudgetConfig(steps=14))
    assert training.train(longer, points(), tmp_path, resume=True, quiet=True).config["steps"] == 14


def test_velocities_are_for_real_data(tmp_path: Path) -> None:
    config = beats("phase-space")
    with pytest.raises(UserError, match=r"process.name must be a chain .* of 'heartbeat', got 'phase-space'"):
        training.train(config, HEART, tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="unknown prediction 'v'"):
        training.resolve_config(
            tiny(process=ProcessConfig("phase-space"), prediction=PredictionConfig("v")), points().info
        )
    images = data.load("digits").info
    options = training.resolve_config(Config(process=ProcessConfig("phase-space")), images).network.options
    assert [options[k] for k in ("channels", "out_channels")] == [2, 1]  # type: ignore[comparison-overlap]
