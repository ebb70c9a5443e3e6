"""``langevin disco``: the pictures are the library's, say how they were made, are drawn again; bad input is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

import langevin as lib
from langevin.generate import Provenance, model_digest
from langevin.generate.provenance import checksum
from langevin.guidance import ClipSettings
from langevin.models import shipped
from langevin.tasks.disco import disco, image_vectors

FAST = ["-n", 2, "--steps", 4, "--cut-overview", "[2]*2+[1]*2", "--cut-innercut", "2", "--display-rate", 2]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    place = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)).save(place)
    return place


def test_the_pictures_are_the_library_s_and_are_drawn_again(
    langevin: Run, model: Path, encoder: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["a 7:2", "a 3:-0.5", "--image-prompts", f"{picture}:0.5", "--init-image", picture, "--skip-steps", 1]
    said = langevin("disco", model, encoder, *words, *FAST, "--seed", 5, "--tv-scale", "[0]+[20]", "--out", out)
    assert said.code == 0, said.err
    own, towers = lib.load(model), lib.load(encoder)
    y = torch.from_numpy(np.asarray(Image.open(picture)) / np.float32(127.5) - 1)[None, None]
    vectors = torch.cat([towers.encode_text(["a 7", "a 3"]).detach(), image_vectors(towers, y)])
    settings = ClipSettings(cut_overview="[2]*2+[1]*2", cut_innercut=2, tv_scale="[0]+[20]")
    known = disco(
        own, towers, vectors, [2, -0.5, 0.5], n=2, steps=4, skip_steps=1, init_image=y, settings=settings, seed=5
    )
    x = np.load(out / "samples.npz")["x"]
    torch.testing.assert_close(torch.from_numpy(x), known.x, rtol=0, atol=2e-5)
    record = json.loads((out / "sample.json").read_text())
    assert record["evaluations"] == record["steps"] == 3
    assert np.shape(record["similarity"]) == (2, 3)
    assert record["cut_overview"] == "[2]*2+[1]*2"
    assert sorted(p.name for p in (out / "progress").iterdir()) == ["step-0002.png", "step-0004.png"]
    one = out / "images" / "00001.png"
    about = Provenance.of(one)
    assert (about.command, about.index) == ("disco", 1)
    assert about.inputs == {str(picture): checksum(picture), str(encoder): model_digest(encoder)}
    assert "as_array" not in about.settings
    said = langevin("replay", one, "--out", tmp_path / "again")
    assert said.code == 0, said.err
    assert (tmp_path / "again" / "00001.png").read_bytes() == one.read_bytes()


def test_an_encoder_by_name_is_recorded_and_another_one_is_refused(
    langevin: Run, model: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights too, not what describes them alone; --moved says where it is now."""
    monkeypatch.setenv(shipped.VARIABLE, str(tmp_path / "shelf"))
    place = shutil.copytree(encoder, tmp_path / "shelf" / "towers")
    said = langevin("disco", model, "towers", "a 7", *FAST, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    one = tmp_path / "out" / "images" / "00000.png"
    assert Provenance.of(one).inputs == {"towers": model_digest(encoder)}
    again = ["replay", one, "--out", tmp_path / "again"]
    assert langevin(*again).code == 0
    weights = bytearray((place / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (place / "model.safetensors").write_bytes(weights)
    said = langevin(*again)
    assert said.code == 2
    assert "encoder towers is another one than made the picture" in said.err
    assert langevin(*again, "--moved", f"towers={encoder}").code == 0
    shutil.rmtree(place)
    said = langevin(*again)
    assert said.code == 2
    assert "--moved towers=NEW says where the encoder is now" in said.err


def test_another_call_takes_the_place_of_the_first(langevin: Run, model: Path, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert langevin("disco", model, encoder, "a 7", *FAST, "--out", out).code == 0
    assert langevin("disco", model, encoder, "a 7", *FAST, "--display-rate", 0, "--out", out).code == 0
    assert list((out / "progress").iterdir()) == []
    (out / "progress" / "mine.txt").write_text("mine")
    said = langevin("disco", model, encoder, "a 7", *FAST, "--out", out)
    assert said.code == 2
    assert "which this command did not write" in said.err


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ((), "a prompt must be given"),
        (("a:1", "b:-1"), "weights must not sum to 0"),
        ((":2",), "a prompt must be TEXT or TEXT:WEIGHT"),
        (("a:inf",), "must be a finite number"),
        (("a", "--cut-overview", "[1]*[2]"), "cut_overview must be a number or lists"),
        (("a", "--cut-innercut", "__import__('os')"), "cut_innercut must be a number or lists"),
        (("a", "--cutn-batches", "1.5"), "cutn_batches must be an integer"),
        (("a", "--clamp-max", "0"), "clamp_max must be"),
        (("a", "--eta", "2"), "eta must lie in [0, 1]"),
        (("a", "--skip-steps", "2"), "give init_image"),
        (("a", "--skip-steps", "4"), "skip_steps must be"),
        (("a", "--init-image", "nowhere.png"), "init-image nowhere.png cannot be read"),
        (("--image-prompts", "nowhere.png"), "image-prompts nowhere.png cannot be read"),
        (("a", "--display-rate", "-1"), "display-rate must be"),
        (("a", "--seed", "-1"), "seed must be"),
        (("a", "-n", "0"), "n must be"),
    ],
)
def test_refused(
    langevin: Run, model: Path, encoder: Path, tmp_path: Path, words: tuple[str, ...], phrase: str
) -> None:
    said = langevin("disco", model, encoder, *FAST, *words, "--out", tmp_path / "no")
    assert said.code == 2, said
    assert phrase in said.err
    assert not (tmp_path / "no" / "samples.npz").exists()


def test_each_must_be_of_its_kind(langevin: Run, model: Path, encoder: Path, tmp_path: Path) -> None:
    for words, phrase in (
        ((encoder, encoder), "something that makes data is needed here"),
        ((model, model), "encoder must be a contrastive encoder"),
    ):
        said = langevin("disco", *words, "a", *FAST, "--out", tmp_path / "no")
        assert said.code == 2
        assert phrase in said.err
