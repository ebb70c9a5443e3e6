"""``langevin guide --method similarity``: the samples are the library's, and the record says what they are like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

import langevin as lib
from langevin import guidance

FAST = ["-n", 3, "--steps", 3, "--label", 4, "--method", "similarity"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    place = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)).save(place)
    return place


@pytest.mark.parametrize("kind", ["text", "content", "structure", "style"])
def test_the_samples_are_the_library_s(
    langevin: Run, model: Path, encoder: Path, picture: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    of = ["--text", "a 7"] if kind == "text" else ["--image", picture, "--measure", kind]
    said = langevin("guide", model, *FAST, "--encoder", encoder, *of, "--scale", 2, "--out", out)
    assert said.code == 0, said.err
    own, towers = lib.load(model), lib.load(encoder)
    y = torch.from_numpy(np.asarray(Image.open(picture)) / np.float32(127.5) - 1)[None, None]
    told = {"text": "a 7"} if kind == "text" else {"image": y, "measure": kind}
    guided = guidance.similarity(own.given(label=4), towers, scale=2.0, **told)
    known = lib.sample(guided, n=3, steps=3).clamp(-1, 1)
    torch.testing.assert_close(torch.from_numpy(np.load(out / "samples.npz")["x"]), known, rtol=0, atol=2e-6)
    record = json.loads((out / "sample.json").read_text())["guidance"]
    assert record["method"] == "similarity"
    assert record["text"] == ("a 7" if kind == "text" else None)
    again = langevin("guide", model, *FAST, "--encoder", encoder, *of, "--scale", 2, "--out", out)
    assert "nothing was drawn" in again.out
    other = ["--text", "a 3"] if kind == "text" else ["--text", "a 7"]
    assert (
        "samples by similarity"
        in langevin("guide", model, *FAST, "--encoder", encoder, *other, "--scale", 2, "--out", out).out
    )


def test_particles(langevin: Run, model: Path, encoder: Path, tmp_path: Path) -> None:
    words = ["guide", model, *FAST, "--encoder", encoder, "--text", "a 7", "--particles", 16]
    said = langevin(*words, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    record = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert record["sampler"] == "twisted-smc"
    assert all(1 <= ess <= 16 for ess in record["guidance"]["ess"])
    assert np.load(tmp_path / "out" / "samples.npz")["x"].shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("--text", "a 7"), "encoder must be given for guidance 'similarity'"),
        (("--encoder", "ENCODER"), "give --text or --image"),
        (("--encoder", "ENCODER", "--text", "a", "--image", "b.png"), "give --text or --image"),
        (("--encoder", "ENCODER", "--image", "nowhere.png"), "image nowhere.png cannot be read"),
        (("--encoder", "ENCODER", "--text", "a", "--measure", "style"), "is of pictures"),
        (("--encoder", "MODEL", "--text", "a"), "encoder must be a contrastive encoder"),
    ],
)
def test_refused(
    langevin: Run, model: Path, encoder: Path, tmp_path: Path, words: tuple[str, ...], phrase: str
) -> None:
    named = {"ENCODER": str(encoder), "MODEL": str(model)}
    said = langevin("guide", model, *FAST, *(named.get(word, word) for word in words), "--out", tmp_path / "no")
    assert said.code == 2
    assert phrase in said.err


def test_other_methods_take_no_encoder(langevin: Run, model: Path, encoder: Path, tmp_path: Path) -> None:
    said = langevin("guide", model, "--label", 4, "--encoder", encoder, "--out", tmp_path / "no")
    assert said.code == 2
    assert "encoder is not taken by guidance 'classifier-free'" in said.err
