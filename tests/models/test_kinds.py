"""Generators, normalizing flows and classifiers in model directories: read back as they were, and used unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from langevin import models, nn, processes
from langevin._errors import UserError
from langevin.data import DataInfo
from langevin.denoisers import ContrastiveEncoder, Generator, NoisyClassifier, NormalizingFlow
from langevin.generate import Recipe, generate
from langevin.models.kinds import KINDS
from tiny_runs import points

INFO = points().info
IMAGES = DataInfo("marks", (1, 8, 8), classes=("a", "b"), conditions={"image": (1, 4, 4)})


def moved(network: Any) -> Any:
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return network.eval()


def made() -> dict[str, Any]:
    told = {"label": 3}
    return {
        "generator": Generator(moved(nn.MLP(2, width=8, depth=1, conditions=told)), INFO, {"steps": 4}),
        "normalizing-flow": NormalizingFlow(moved(nn.CouplingFlow(2, width=8, depth=2, conditions=told)), INFO),
        "classifier": NoisyClassifier(moved(nn.MLP(2, 3, width=8, depth=1)), processes.VP(), INFO, 0.7),
        "contrastive-encoder": ContrastiveEncoder(
            nn.DualEncoder(
                embedding=4, image={"name": "mlp", "channels": 2, "width": 8}, text={"caption": 9, "width": 8}
            ).eval(),
            processes.VP(),
            INFO,
            0.7,
            False,
        ),
        "codec": models.Autoencoder(moved(nn.VAE(1, size=(8, 8), width=8, blocks=1)), IMAGES),
    }


def test_every_kind_is_here() -> None:
    assert made().keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    model = made()[kind]
    models.save(model, tmp_path)
    again = models.load(tmp_path, device="cpu")
    assert type(again) is type(model)
    assert (again.shape, again.data, dict(again.config)) == (model.shape, model.data, dict(model.config))
    assert not again.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    if kind == "classifier":
        assert (again.process, again.sigma_data) == (model.process, model.sigma_data)
        x = torch.randn(4, 2)
        assert torch.equal(again(x, 0.3), model(x, 0.3))
    if kind == "contrastive-encoder":
        assert (again.process, again.sigma_data, again.noisy) == (model.process, model.sigma_data, False)
        x = torch.randn(4, 2)
        assert torch.equal(again.logits(x, ["a", "b"]), model.logits(x, ["a", "b"]))
    said = models.about(again)
    assert (said["kind"], said["shape"]) == (kind, list(model.shape))
    assert json.dumps(said)


@pytest.mark.parametrize("kind", ["generator", "normalizing-flow"])
def test_samples_are_drawn_of_either_unasked(kind: str, tmp_path: Path) -> None:
    models.save(made()[kind], tmp_path)
    model = models.load(tmp_path, device="cpu")
    drawn = generate(model, Recipe(), 5)
    assert (drawn.evaluations, drawn.record["steps"], drawn.record["label"]) == (1, 1, "in turn")
    x = langevin.sample(model.given(label=torch.arange(5) % 3), n=5)
    torch.testing.assert_close(drawn.x, x, rtol=0, atol=1e-6)


def test_a_denoiser_s_commands_say_what_they_got(tmp_path: Path) -> None:
    models.save(made()["classifier"], tmp_path)
    with pytest.raises(UserError, match=r"the denoiser of a network is needed here, but .* holds a classifier"):
        models.load_denoiser(tmp_path)
    with pytest.raises(UserError, match=r"something that makes data is needed here, but .* holds a classifier"):
        models.load_denoiser(tmp_path, own=False)
    models.save(made()["generator"], tmp_path / "other")
    assert models.load_denoiser(tmp_path / "other", own=False).kind == "generator"


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("generator", {"network": {"name": "coupling"}}, "the network of a generator must be one of"),
        ("normalizing-flow", {"network": {"name": "mlp"}}, "the network of a normalizing-flow must be one of coupling"),
        ("classifier", {"sigma_data": 0}, "a classifier has a process and sigma_data > 0"),
        ("classifier", {"process": {"name": "phase-space"}}, "a classifier of noisy data needs a process"),
        ("classifier", {"process": "vp"}, "a classifier has a process"),
        ("classifier", {"training": 3}, "training must be a JSON object"),
        ("contrastive-encoder", {"noisy": 1}, "an encoder has a process, sigma_data > 0 and noisy true or false"),
        ("contrastive-encoder", {"sigma_data": -1.0}, "an encoder has a process, sigma_data > 0"),
        ("contrastive-encoder", {"process": "vp"}, "an encoder has a process"),
        ("generator", {"sigma_data": 1.0}, "unknown sigma_data"),
        ("generator", {"data": {"name": "x", "shape": [3]}, "moments": []}, "shape must be"),
    ],
)
def test_contradictions_are_named(kind: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    models.save(made()[kind], tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=says):
        models.load(tmp_path, device="cpu")
