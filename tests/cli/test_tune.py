"""``langevin tune`` on a tiny model, and what `langevin sample` makes of the file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import Run

from langevin import calibration

QUICK = ["-n", 8, "--minutes", 0.03]


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The tiny model in a place of its own."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def set_errors(file: Path, after: float = 0.1) -> None:
    """The file as after a longer time, or as of another model: of a default whose error is 0.2."""
    held = json.loads(file.read_text())
    held["errors"] = {"before": 0.2, "after": after}
    file.write_text(json.dumps(held))


def drawn(folder: Path) -> tuple[np.ndarray, dict]:
    with np.load(folder / "samples.npz") as held:
        return held["x"], json.loads((folder / "sample.json").read_text())


def test_tune_writes_a_file_that_sample_takes(langevin: Run, copy: Path, tmp_path: Path) -> None:
    said = langevin("tune", copy, "--steps", 3, *QUICK)
    assert said.code == 0
    file = copy / "solver-3.json"
    held = json.loads(file.read_text())
    assert str(file) in said.out
    assert (
        f"{held['errors']['after']:.4f} of the data's size, {held['errors']['before']:.4f} by the default" in said.out
    )
    assert held["made"]["trained_steps"] == 3
    set_errors(file)
    plain = ["sample", copy, "-n", 12]
    assert langevin(*plain, "--steps", 3, "--out", tmp_path / "tuned").code == 0
    x, record = drawn(tmp_path / "tuned")
    assert record["sampler"] == "learned"
    assert record["rule"] == "LearnedSolver(3 evaluations)"
    assert record["evaluations"] == 3
    # Named, it is what is named; with other steps, guidance or a grid, it is the default.
    for name, words in {
        "ddim": ["--steps", 3, "--sampler", "ddim"],
        "steps": ["--steps", 4],
        "grid": ["--steps", 3, "--grid", "karras"],
        "guided": ["--steps", 3, "--guidance-scale", 2],
    }.items():
        assert langevin(*plain, *words, "--out", tmp_path / name).code == 0
        other, record = drawn(tmp_path / name)
        assert record["sampler"] == ("ddim" if name == "ddim" else "default")
        assert np.abs(other - x).max() > 1e-3
    assert "(sampler learned)" in langevin(*plain, "--steps", 3, "--out", tmp_path / "again").out


def test_what_gained_nothing_is_not_taken(
    langevin: Run, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither said to be of use, nor picked: only what is nearer than the default is."""
    real = calibration.tune_model

    def tuned(*given: Any, **named: Any) -> Any:
        sampler, file = real(*given, **named)
        return replace(sampler, use=replace(sampler.use, errors=(0.2, after))), file

    monkeypatch.setattr(calibration, "tune_model", tuned)
    words = ["sample", copy, "-n", 4, "--steps", 3, "--out", tmp_path / "out"]
    for after, sampler in ((0.2, "default"), (0.199, "learned")):
        said = langevin("tune", copy, "--steps", 3, *QUICK)
        assert said.code == 0
        assert ("no better than the default sampler" in said.out) is (sampler == "default")
        assert (f"langevin sample {copy} --steps 3" in said.out) is (sampler == "learned")
        set_errors(copy / "solver-3.json", after)
        assert langevin(*words).code == 0
        assert drawn(tmp_path / "out")[1]["sampler"] == sampler


@pytest.mark.slow
def test_tune_with_guidance_for_one_class(langevin: Run, copy: Path, tmp_path: Path) -> None:
    said = langevin("tune", copy, "--steps", 2, "--guidance-scale", 2, "--label", 3, *QUICK)
    assert said.code == 0
    assert (copy / "solver-2-guidance-2-label-3.json").exists()
    set_errors(copy / "solver-2-guidance-2-label-3.json")
    words = ["sample", copy, "-n", 4, "--steps", 2, "--guidance-scale", 2, "--out", tmp_path / "out"]
    for label, sampler in ((3, "learned"), (4, "default")):
        assert langevin(*words, "--label", label).code == 0
        assert drawn(tmp_path / "out")[1]["sampler"] == sampler
    # What was learned for labels in turn serves one of them too: with the moments of all, as it was learned.
    assert langevin("tune", copy, "--steps", 2, "--guidance-scale", 2, *QUICK).code == 0
    set_errors(copy / "solver-2-guidance-2.json")
    assert langevin(*words, "--label", 4).code == 0
    assert drawn(tmp_path / "out")[1]["sampler"] == "learned"


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ([], "--steps N must be given"),
        (["--steps", 0], "steps must be an integer of at least 1, got 0"),
        (["--steps", 65], "steps must be an integer from 1 to 64, got 65"),
        (["--steps", 3, "-n", 0], "n must be an integer of at least 1, got 0"),
        (["--steps", 3, "--minutes", 0], "minutes must be a number > 0, got 0"),
        (["--steps", 3, "--label", "eleven"], "unknown label 'eleven'"),
        (["--steps", 3, "--guidance-scale", "nan"], "guidance-scale must be a finite number"),
    ],
)
def test_bad_input_is_one_line(langevin: Run, model: Path, words: list, phrase: str) -> None:
    said = langevin("tune", model, *words)
    assert said.code == 2
    assert phrase in said.err
    assert said.err.count("\n") == 1
    assert not list(model.glob("*solver-*"))


def test_a_learned_solver_that_was_not_learned_is_refused(langevin: Run, model: Path, tmp_path: Path) -> None:
    said = langevin("sample", model, "--sampler", "learned", "--steps", 7, "-n", 2, "--out", tmp_path / "out")
    assert said.code == 2
    assert "sampler 'learned' needs a solver learned for this model, 7 steps" in said.err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there(langevin: Run, tmp_path: Path) -> None:
    said = langevin("tune", tmp_path / "no", "--steps", 3)
    assert said.code == 2
    assert "no model directory" in said.err
