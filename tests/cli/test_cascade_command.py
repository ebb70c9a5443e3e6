"""``langevin cascade``: models put together, drawn, measured, shipped; and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from said import Run

import langevin as library
from langevin.cli import main
from langevin.models import Cascade

SMALL = (
    "--network.name",
    "unet",
    "--steps",
    "2",
    "--network.options",
    "width",
    "8",
    "multipliers",
    "[1]",
    "attention",
    "[]",
)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that draws digits, and one that sharpens what another drew."""
    place = tmp_path_factory.mktemp("stages")
    train = ["train", "digits", *SMALL]
    assert main([*train, "--out", str(place / "first")]) == 0
    degrade = ["--degrade", "resize=4,noise=0..0.2"]
    assert main([*train, *degrade, "--out", str(place / "second")]) == 0
    return place / "first", place / "second"


def test_models_are_put_together_and_draw(langevin: Run, stages: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "cascade"
    said = langevin("cascade", *stages, "--out", out)
    assert said.code == 0
    assert f"{out} holds a cascade of 2 models, 8×8 to 8×8; `langevin sample {out} --out samples` draws." in said.out
    model = library.load(out)
    assert isinstance(model, Cascade)
    told = model.given(label=3)
    made = library.sample(told, n=3, steps=2)
    by_hand = library.sample(Cascade(tuple(map(library.load, stages))).given(label=3), n=3, steps=2)
    assert torch.equal(made, by_hand)
    assert langevin("sample", out, "-n", 2, "--steps", 2, "--guidance-scale", 2, "--out", tmp_path / "s").code == 0
    evaluations = json.loads((tmp_path / "s" / "sample.json").read_text())["evaluations"]
    assert evaluations == 8  # two a step, two steps, two stages
    for part, stage in zip(("stage-0", "stage-1"), stages):
        assert (out / part / "metrics.csv").read_bytes() == (stage / "metrics.csv").read_bytes()
    assert langevin("cascade", *stages, "--out", out).code == 0  # an earlier one is replaced


def test_what_does_not_fit_is_refused(langevin: Run, stages: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = stages
    assert langevin("cascade", first, second, "--out", tmp_path / "both").code == 0

    def refused(*words: object) -> str:
        said = langevin("cascade", *words)
        assert said.code == 2
        return said.err

    assert "MODEL must be given at least twice" in refused(first, "--out", tmp_path / "a")
    assert "stages[1] must take the condition image" in refused(second, first, "--out", tmp_path / "a")
    assert f"{tmp_path / 'both'} is a cascade itself" in refused(first, tmp_path / "both", "--out", tmp_path / "a")
    assert "out must be a new directory or an earlier cascade's" in refused(first, second, "--out", first)
    assert not (tmp_path / "a").exists()
