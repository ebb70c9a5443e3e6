"""A contrastive encoder on the command line: trained, measured, shown, and refused where it cannot be met."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from said import Run

import langevin as library
from langevin.denoisers import ContrastiveEncoder
from langevin.metrics import retrieval
from langevin.nn import encode_texts

SMALL = ("--network.options", "image", '{"width": 16, "depth": 1}', "text", '{"width": 16, "depth": 1}')


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points on a circle, captioned by their angle in degrees."""
    place = tmp_path_factory.mktemp("pairs") / "circle.npz"
    angle = 2 * np.pi * np.arange(300) / 300
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype("float32")
    words = encode_texts([f"at {int(180 * a / np.pi)}" for a in angle], 8).numpy()
    np.savez(place, x=x, caption=words)
    return place


@pytest.fixture(scope="module")
def encoder(pairs: Path) -> Path:
    from langevin.cli import main

    out = pairs.parent / "encoder"
    words = ["train", str(pairs), "--objective.name", "contrastive", "--out", str(out), "--steps", "3", *SMALL]
    assert main([*words, "--batch", "16"]) == 0
    return out


def test_it_is_trained_loaded_measured_and_shown(langevin: Run, encoder: Path) -> None:
    model = library.load(encoder)
    assert isinstance(model, ContrastiveEncoder)
    assert model.logits(torch.zeros(2, 2), ["at 3", "at 40", "at 7"], 0.5).shape == (2, 3)
    assert list((encoder / "pictures").glob("*.png"))
    said = langevin("evaluate", encoder)
    assert said.code == 0
    found = json.loads((encoder / "evaluation.json").read_text())["measures"]
    held = len(library.data.load(str(encoder.parent / "circle.npz")).test)
    for name in ("caption of a picture", "picture of a caption"):
        assert name in said.out
        assert 0 <= found[name]["value"] <= 1
        assert found[name]["stderr"] > 0
        assert found[name]["protocol"]["n"] == held
    held_out = library.data.load(str(encoder.parent / "circle.npz")).test.all()
    with torch.no_grad():
        scores = model.encode_image(held_out["x"]) @ model.encode_text(held_out["caption"]).T
    group = torch.unique(held_out["caption"], dim=0, return_inverse=True)[1]
    among = found["caption of a picture"]["protocol"]["among"]
    shares = [retrieval(matrix, group, among=among).value for matrix in (scores, scores.T)]
    assert [found[name]["value"] for name in found][:2] == pytest.approx(shares, abs=1e-6)
    assert abs(shares[0] - shares[1]) > 1e-3
    assert "caption of a picture, noise 0.71" in found  # the root mean square of a circle is 1/√2
    assert "contrastive-encoder" in langevin("info", encoder).out


def test_one_that_has_seen_no_clean_data_is_not_asked_of_them(langevin: Run, pairs: Path) -> None:
    out = pairs.parent / "noisy"
    words = ["train", pairs, "--objective.name", "contrastive", "--out", out, "--steps", 3, "--batch", 16, *SMALL]
    assert langevin(*words, "--objective.options", "clean", 0).code == 0
    assert not library.load(out).knows_clean
    assert langevin("evaluate", out).code == 0
    found = json.loads((out / "evaluation.json").read_text())["measures"]
    assert len(found) == 6
    assert all(", noise" in name for name in found)


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("-n", 50, "--steps", 3), "makes no samples; leave out --n, --steps"),
        (("--features", "pixels"), "leave out --features"),
        (("--data", "moons"), "must have the condition caption"),
    ],
)
def test_evaluate_refuses_what_is_of_samples(langevin: Run, encoder: Path, words: tuple[str, ...], phrase: str) -> None:
    said = langevin("evaluate", encoder, *words)
    assert said.code == 2
    assert phrase in said.err


@pytest.mark.parametrize(
    ("source", "words", "phrase"),
    [
        ("moons", (), "learns data with captions"),
        (None, ("--accumulate", 2), "compares the examples of a batch with each other"),
        (None, ("--prediction.name", "eps"), "objective 'contrastive' learns an encoder"),
        (None, ("--process.name", "phase-space"), "needs a process"),
        (None, ("--network.name", "mlp"), "must be dual-encoder"),
        (None, ("--network.options", "text", '{"caption": 5}'), "text caption must be that of the data, 8"),
        (None, ("--network.options", "image", '{"name": "dit"}'), "image name must be mlp"),
        (None, ("--network.options", "image", "3"), "image must be a mapping"),
        (None, ("--objective.options", "clean", "1.5"), "clean must be a share"),
    ],
)
def test_train_refuses_before_any_work(
    langevin: Run, pairs: Path, tmp_path: Path, source: str | None, words: tuple[str, ...], phrase: str
) -> None:
    out = tmp_path / "no"
    said = langevin("train", source or pairs, "--objective.name", "contrastive", "--out", out, "--steps", 2, *words)
    assert said.code == 2, said
    assert phrase in said.err
    assert not (out / "model.safetensors").exists()
