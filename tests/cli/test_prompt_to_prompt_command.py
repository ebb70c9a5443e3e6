"""``langevin edit`` word by word: two captions on one noise, and pictures under their captions; bad input refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

from captioned import captioned
from langevin import models, tasks

SOURCE, TARGET = "a red cat", "a green cat"
FAST = ["--steps", 4, "--guidance-scale", 2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is told captions."""
    place = tmp_path_factory.mktemp("captioned") / "model"
    models.save(captioned("unet", torch.float32), place)
    return place


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_two_captions_on_one_noise(langevin: Run, told: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["edit", "--model", told, "--source", SOURCE, "--target", TARGET, "-n", 2, "--out", out, *FAST]
    words += ["--replace-steps", 0.75, "--self-steps", 0.25, "--reweight", "green=1.5", "--blend", "changed"]
    said = langevin(*words)
    assert said.code == 0, said.err
    assert f"{out}: 2 pairs of two captions by prompt-to-prompt in" in said.out
    made = tasks.edit.prompt_to_prompt(
        models.load(told), SOURCE, TARGET, n=2, steps=4, guidance_scale=2.0,
        replace_steps=0.75, self_steps=0.25, reweight={"green": 1.5}, blend="changed",
    )  # fmt: skip
    for side in ("source", "target"):
        for i, x in enumerate(getattr(made, side)):
            pixels = (x.clamp(-1, 1) + 1) * 127.5
            np.testing.assert_allclose(read(out / f"{side}-{i}.png"), pixels.permute(1, 2, 0).numpy(), atol=0.51)
    sheet, maps = Image.open(out / "sheet.png"), Image.open(out / "attention.png")
    assert sheet.width > 2 * 128
    assert maps.width > 4 * 128  # a picture and three words
    assert maps.height > 4 * 128  # of two pairs, source and target
    record = json.loads((out / "edit.json").read_text())
    assert record["request"]["settings"] == {
        "replace_steps": 0.75, "self_steps": 0.25, "reweight": {"green": 1.5}, "blend": "changed"
    }  # fmt: skip
    assert set(record["files"]) == {
        *(f"{s}-{i}.png" for s in ("source", "target") for i in (0, 1)),
        "sheet.png",
        "attention.png",
    }
    said = langevin(*words)
    assert "the pictures of this request are there; nothing was drawn" in said.out
    said = langevin(*words[:-2])
    assert said.code == 2
    assert "holds results of another request" in said.err
    # A picture tells how it was made, and is made again.
    said = langevin("replay", out / "target-1.png", "--out", tmp_path / "again")
    assert said.code == 0, said.err
    np.testing.assert_array_equal(read(tmp_path / "again" / "target-1.png"), read(out / "target-1.png"))


def test_pictures_by_their_captions(langevin: Run, told: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["edit", tmp_path / "a.png", "--model", told, "--source", SOURCE, "--strength", 5, *FAST]
    learned = [*words, "--target", TARGET, "--method-options", "iterations", 2, "--guidance-scale"]
    said = langevin(*learned, 3, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "edited by prompt-to-prompt at σ/α = 5, 1 image in" in said.out
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["request"]["source"] == SOURCE
    assert "iterations=2" in record["request"]["method"]
    assert (read(tmp_path / "out" / "a.png") != pixels).any()
    said = langevin(*learned, 1, "--out", tmp_path / "unguided")
    assert "iterations must be 0 at a guidance scale of 1" in said.err
    said = langevin(*words, "--given", f"caption={TARGET}", "--method", "diffedit", "--out", tmp_path / "diff")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", SOURCE], "IN must be given"),
        (["--source", SOURCE, "--target", TARGET, "--method", "sdedit"], "IN must be given"),
        (["--source", SOURCE, "--target", "x" * 50], "target must have at most 39 bytes"),
        (["--source", SOURCE, "--target", TARGET, "--blend", "gren"], "Did you mean 'green'?"),
        (["--source", SOURCE, "--target", TARGET, "--reweight", "green"], "reweight must be WORD=C"),
        (["--source", SOURCE, "--target", TARGET, "--replace-steps", 2], "replace_steps must lie in [0, 1]"),
        (["--source", SOURCE, "--target", TARGET, "--mask", "m.png"], "mask is of pictures that are edited"),
        (["--source", SOURCE, "--target", TARGET, "--given", "caption=c"], "caption was given twice"),
        (["--source", SOURCE, "--target", TARGET, "--method-options", "iterations", 3], "pictures that are inverted"),
        (["--source", SOURCE, "--target", TARGET, "--method-options", "noises", 3], "has no option 'noises'"),
        (["a.png", "--source", SOURCE], "source is not taken by method 'sdedit'"),
        (["a.png", "--target", TARGET, "--self-steps", 0.5], "self-steps is taken by prompt-to-prompt alone"),
    ],
)  # fmt: skip
def test_bad_requests(langevin: Run, told: Path, tmp_path: Path, words: list, message: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    words = [tmp_path / "a.png" if word == "a.png" else word for word in words]
    said = langevin("edit", *words, "--model", told, "--out", tmp_path / "out")
    assert said.code == 2
    assert message in said.err


def test_a_model_without_captions(langevin: Run, model: Path, tmp_path: Path) -> None:
    said = langevin("edit", "--model", model, "--source", SOURCE, "--target", TARGET, "--out", tmp_path / "out")
    assert said.code == 2
    assert "must be told captions, whose words are changed; this one takes label" in said.err
