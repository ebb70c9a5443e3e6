"""Published recipes: the choices of NCSN and NCSNv2 for data, under what is asked for."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import langevin
from langevin import data, processes, samplers, training
from langevin._errors import UserError
from langevin.training import BudgetConfig, Config, PredictionConfig, ProcessConfig
from tiny_runs import points, tiny


def test_ncsnv2_of_digits() -> None:
    """Techniques 1, 2, 3 and 5 on 64 coordinates, each from the data themselves."""
    digits = data.load("digits")
    config = training.resolve_config(training.recipe("ncsnv2", digits), digits.info)
    x = digits.train.all()["x"].flatten(1)
    levels = config.objective.times_options
    assert levels["first"] == pytest.approx(float(torch.pdist(x.double()).max()), rel=1e-6)
    assert levels["last"] == pytest.approx(0.02)
    ratio = (levels["first"] / levels["last"]) ** (1 / (levels["count"] - 1))  # type: ignore[operator]
    assert processes.level_ratio(64) * 0.97 < ratio <= processes.level_ratio(64)
    assert config.process.options["sigma_max"] == pytest.approx(levels["first"] * ratio)  # type: ignore[operator]
    assert (config.prediction.name, config.prediction.time, config.prediction.scale_input) == ("eps", "none", False)
    # 0.999 a step, once the run is long enough for it: a half-life of log 2/0.001 steps.
    ema = training.EMA(torch.nn.Linear(1, 1), int(config.batch or 0), None, config.ema.half_life)
    assert ema.decay(10**6) == pytest.approx(0.999, abs=1e-6)
    denoiser, objective = training.build(config, digits.info)
    seen = denoiser(torch.randn(2, 1, 8, 8), 0.3), denoiser(torch.randn(2, 1, 8, 8), 0.9)
    assert all(belief.mean.isfinite().all() for belief in seen)
    assert objective.to_dict()["times"]["of"]["name"] == "levels"
    # Technique 3: what the network is given does not depend on the level.
    assert float(denoiser._at(0.3).c_noise) == float(denoiser._at(0.9).c_noise) == 0.0


def test_what_is_asked_for_holds() -> None:
    asked = Config(
        seed=3, batch=32, process=ProcessConfig(options={"sigma_max": "9"}), prediction=PredictionConfig("v")
    )
    config = training.recipe("ncsn", points(), asked)
    assert (config.seed, config.batch, config.prediction.name) == (3, 32, "v")
    assert config.prediction.scale_input is False
    assert config.process.options["sigma_max"] == "9"
    assert config.objective.times_options["count"] == 10
    plain = training.recipe("ncsn", points())
    assert plain.prediction.name == "score"
    assert plain.process.name == "ve"
    with pytest.raises(UserError, match="Did you mean 'ncsnv2'"):
        training.recipe("ncsnv3", points())


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2"])
def test_from_recipe_to_samples(name: str, tmp_path: Path) -> None:
    """Blobs, learned and annealed: the samples lie where the blobs are."""
    dataset = points(900, classes=0)
    config = training.recipe(name, dataset, tiny(600, batch=64))
    config = dataclasses.replace(
        config, output=dataclasses.replace(config.output, validate_every=0, checkpoint_every=0, log_every=0)
    )
    model = training.train(config, dataset, tmp_path, quiet=True)
    assert isinstance(model.process, processes.VE)
    steps = int(config.objective.times_options["count"]) + 1
    x = langevin.sample(model, samplers.AnnealedLangevin(10), n=200, steps=steps, seed=1)
    near = torch.cdist(x.double(), dataset.train.all()["x"].double()).min(1).values
    # A little MLP after 600 steps: samples within three of the blobs' standard deviations of a point, where of as many
    # draws of the prior one in twenty is. The score itself (ncsn) runs over two decades and is learned more slowly.
    assert float((near < 0.3).double().mean()) > {"ncsn": 0.3, "ncsnv2": 0.7}[name]
    assert math.isfinite(float(near.max()))


def test_likelihood_takes_its_own_law() -> None:
    config = Config(objective=training.ObjectiveConfig("likelihood"), budget=BudgetConfig(steps=1))
    resolved = training.resolve_config(config, points().info)
    assert resolved.objective.times == "likelihood-importance"
    training.build(resolved, points().info)
