"""``langevin train --from`` on a folder, and what the other commands make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import Run

pytest.importorskip("peft")
QUICK = ["--steps", 3, "--output.validate-on", 16, "--output.sample-every", 0, "--batch", 8]


def pictures(folder: Path, classes: tuple[str, ...]) -> Path:
    """Ninety grey pictures of 12 × 12, in a folder a class where there are classes."""
    generator = np.random.default_rng(0)
    for i in range(90):
        place = folder / classes[i % len(classes)] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (12, 12), np.uint8)).save(place / f"{i}.png")
    return folder


def test_a_folder_without_classes(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Read at the model's size; sampled without a class, and measured so."""
    out = tmp_path / "run"
    shown = [*QUICK[:-3], 3, *QUICK[-2:]]
    said = langevin("train", pictures(tmp_path / "photos", ()), "--from", model, "--lora", 2, "--out", out, *shown)
    assert said.code == 0, said.err
    width, height = Image.open(out / "pictures" / "step-0000003.png").size
    assert width == height  # eight rows of eight, and not ten columns under the names of classes
    assert "of 8 x 8 in grey: " in said.err
    assert f"going on from {model}" in said.err
    assert "copies so few" not in said.err
    drawn = langevin("sample", out, "-n", 8, "--label", "none", "--out", tmp_path / "drawn")
    assert drawn.code == 0, drawn.err
    with np.load(tmp_path / "drawn" / "samples.npz") as held:
        none = held["x"]
    assert langevin("sample", out, "-n", 8, "--label", "3", "--out", tmp_path / "three").code == 0
    with np.load(tmp_path / "three" / "samples.npz") as held:
        assert np.abs(held["x"] - none).max() > 0
    measured = langevin("evaluate", out, "-n", 16, "--steps", 2, "--features", "pixels")
    assert measured.code == 0, measured.err
    held = json.loads((out / "evaluation.json").read_text())
    assert held["measures"]
    assert held["samples"]["label"] == "given"
    about = langevin("info", out)
    assert f"of rank 2, of the model {model}" in about.out
    assert langevin("tune", out, "--steps", 2, "-n", 8, "--minutes", 0.03).code == 0
    assert "sampler learned" in langevin("sample", out, "-n", 8, "--steps", 2, "--out", tmp_path / "t").out


def test_a_folder_of_some_classes(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Its classes are the model's of these names, in training and when it is measured."""
    out = tmp_path / "run"
    said = langevin("train", pictures(tmp_path / "photos", ("3", "8")), "--from", model, "--out", out, *QUICK)
    assert said.code == 0, said.err
    measured = langevin("evaluate", out, "-n", 16, "--steps", 2, "--features", "pixels")
    assert measured.code == 0, measured.err
    held = json.loads((out / "evaluation.json").read_text())
    assert held["data"]["classes"] == [str(k) for k in range(10)]


def test_resumed_by_the_words_that_are_printed(langevin: Run, model: Path, tmp_path: Path) -> None:
    photos, out = pictures(tmp_path / "photos", ()), tmp_path / "run"
    assert langevin("train", photos, "--from", model, "--out", out, *QUICK).code == 0
    more = [*QUICK[2:]]
    said = langevin("train", photos, "--from", model, "--out", out, "--resume", "--steps", 5, *more)
    assert said.code == 0, said.err
    assert "going on after step 3" in said.err
    without = langevin("train", photos, "--out", out, "--resume")
    assert without.code == 2
    assert f"give it again (--from {model})" in without.err


def test_an_update_is_exported_where_it_can_be(langevin: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    photos = pictures(tmp_path / "photos", ())
    assert langevin("train", photos, "--from", model, "--lora", 2, "--out", out, *QUICK).code == 0
    said = langevin("export", out, "--to", "diffusers", "--out", tmp_path / "pipeline")
    assert said.code == 2
    assert "cannot become a pipeline of diffusers: --network.name unet" in said.err
