"""A codec goes through the one trainer: its directory, its resumption, its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import langevin
from langevin import data, models, training
from langevin._errors import UserError
from langevin.distributions import Noise
from langevin.objectives.elbo import elbo
from langevin.training import (
    BudgetConfig,
    Config,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from tiny_runs import points


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", limit=40)


def config(steps: int = 6, **changes: object) -> Config:
    asked = Config(
        batch=8,
        precision="float32",
        network=NetworkConfig("vae", {"width": "8", "blocks": "1", "latent": "2"}),
        optimiser=OptimiserConfig(schedule="constant"),
        budget=BudgetConfig(steps=steps),
        output=OutputConfig(log_every=2, validate_every=3, validate_on=16, sample_every=6, checkpoint_every=3),
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_a_run(digits: data.Dataset, tmp_path: Path) -> None:
    made = training.train(config(), digits, tmp_path / "run", device="cpu", quiet=True)
    assert isinstance(made, models.Autoencoder)
    assert made.latent == (2, 2, 2)
    loaded = models.load(tmp_path / "run", device="cpu")
    x = digits.test.all()["x"][:5]
    with torch.no_grad():
        assert torch.equal(loaded.encode(x).mean, made.encode(x).mean)
        assert torch.equal(loaded.decode(torch.ones(3, 2, 2, 2)).mean, made.decode(torch.ones(3, 2, 2, 2)).mean)
        terms = elbo(loaded, x, Noise(0, 5))
    assert terms.kl.shape == terms.reconstruction.shape == (5,)
    assert torch.equal(loaded.sample(6, seed=1)[:3], loaded.sample(3, seed=1))
    assert (tmp_path / "run" / "pictures" / "step-0000006.png").exists()
    assert loaded.config["objective"] == {"name": "elbo", "beta": 1.0}
    assert loaded.data == digits.info
    with pytest.raises(UserError, match=r"the denoiser of a network is needed here, but .*run holds a codec"):
        models.load_denoiser(tmp_path / "run")


def test_resumed_as_if_never_stopped(digits: data.Dataset, tmp_path: Path) -> None:
    training.train(config(6), digits, tmp_path / "one", device="cpu", quiet=True)
    training.train(config(3), digits, tmp_path / "two", device="cpu", quiet=True)
    training.train(config(6), digits, tmp_path / "two", resume=True, device="cpu", quiet=True)
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_suits() -> None:
    """A quarter of each side, an eighth from 64 pixels on, at least 32 latents, and sizes that cannot be halved."""
    latents = []
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 64), (1, 10, 6), (1, 7, 7)):
        made = langevin.nn.create_network(langevin.nn.default(shape, name="vae"))
        made.check_shape(shape)
        latents.append(made.latent)
    assert latents == [(8, 2, 2), (4, 8, 8), (4, 8, 8), (4, 5, 3), (4, 7, 7)]


def test_refused_before_any_work(digits: data.Dataset, tmp_path: Path) -> None:
    for changes, words in (
        ({"process": ProcessConfig("vp")}, "--process is a setting of denoisers"),
        ({"prediction": PredictionConfig("v")}, "--prediction is a setting of denoisers"),
        ({"objective": ObjectiveConfig("x0")}, "learned by objective 'elbo'"),
        ({"objective": ObjectiveConfig(times="uniform")}, "which has no times"),
        ({"objective": ObjectiveConfig("elbo", {"beta": "-1"})}, "beta must be a number >= 0"),
        ({"network": NetworkConfig("vae", {"latnet": "4"})}, "Did you mean 'latent'"),
    ):
        with pytest.raises(UserError, match=words):
            training.train(config(**changes), digits, tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(UserError, match="'vae' is for images"):
        training.train(config(), points(), tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(UserError, match="learns a codec"):
        training.train(Config(objective=ObjectiveConfig("elbo")), digits, tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_damage_is_named(digits: data.Dataset, tmp_path: Path) -> None:
    training.train(config(3), digits, tmp_path, device="cpu", quiet=True)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    for change, words in (
        ({"network": {"name": "mlp"}}, "the network of a codec must be one of vae"),
        ({"network": {**whole["network"], "latent": 3}}, "does not match its configuration"),
        ({"extra": 1}, "unknown extra"),
        ({"kind": "denoiser"}, "lacks parameterization"),
        ({"moments": ["mean"]}, "data.safetensors holds"),
    ):
        file.write_text(json.dumps({**whole, **change}))
        with pytest.raises(UserError, match=words):
            models.load(tmp_path, device="cpu")
