"""``langevin calibrate`` on a tiny model, and what `langevin sample` makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from said import Run


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The tiny model in a place of its own."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def drawn(folder: Path) -> tuple[np.ndarray, dict]:
    with np.load(folder / "samples.npz") as held:
        return held["x"], json.loads((folder / "sample.json").read_text())


def test_calibrate_writes_what_sample_takes(langevin: Run, copy: Path, tmp_path: Path) -> None:
    said = langevin("calibrate", copy, "-n", 16, "--times", 3, "--heads", "npr,sn", "--steps", 2)
    assert said.code == 0, said.err
    held = json.loads((copy / "calibration.json").read_text())
    assert len(held["gamma"]) == 3
    assert held["made"]["n"] == 16
    assert held["made"]["trained_steps"] == 3
    assert (held["low"], held["high"]) == (-1.0, 1.0)
    assert (copy / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert f"langevin sample {copy} --steps 10 --variance sn -n 64" in said.out
    assert str(copy / "calibration.json") in said.out
    words = ["sample", copy, "-n", 4, "--steps", 3]
    seen = []
    for name in ("small", "large", "analytic", "residual", "sn", "npr"):
        out = tmp_path / name
        assert langevin(*words, "--variance", name, "--out", out).code == 0
        x, record = drawn(out)
        assert record["variance"] == name
        assert record["sampler"] == "ancestral"
        assert np.isfinite(x).all()
        seen.append(x)
    assert all(np.abs(x - seen[0]).max() > 1e-3 for x in seen[1:])
    bits = []
    for name in ("small", "npr"):
        out = ["--variance", name, "--out", tmp_path / f"bits-{name}"]
        assert langevin("likelihood", copy, "digits", "-n", 4, "--bound", "--steps", 3, *out).code == 0
        record = json.loads((tmp_path / f"bits-{name}" / "likelihood.json").read_text())
        assert record["variance"] == name
        bits.append(record["measures"]["bound"]["bits_per_dim"])
    assert abs(bits[0] - bits[1]) > 1e-3
    # β̃ at η = 0 is DDIM; DDIM's steps with a variance are taken by name.
    ddim = [*words, "--sampler", "ancestral", "--sampler-options", "eta", "0", "--variance"]
    assert langevin(*ddim, "analytic", "--out", tmp_path / "eta").code == 0
    assert np.abs(drawn(tmp_path / "eta")[0] - seen[2]).max() > 1e-3
    assert langevin(*ddim, "small", "--out", tmp_path / "one").code == 0
    assert langevin(*words, "--sampler", "ddim", "--grid", "karras", "--out", tmp_path / "two").code == 0
    np.testing.assert_allclose(drawn(tmp_path / "one")[0], drawn(tmp_path / "two")[0], atol=1e-4)


def test_the_exact_likelihood_has_no_variance(langevin: Run, model: Path, tmp_path: Path) -> None:
    said = langevin("likelihood", model, "digits", "--variance", "small", "--out", tmp_path / "out")
    assert said.code == 2
    assert "--variance belong to --bound" in said.err


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["-n", 15], "n must be an integer of at least 16, got 15"),
        (["--times", 1], "times must be an integer of at least 2, got 1"),
        (["--heads", "snn"], "unknown head 'snn'. Did you mean 'sn'?"),
        (["--steps", 5], "steps are those of heads; name them with --heads sn,npr"),
        (["--heads", "sn", "--steps", 0], "steps must be an integer of at least 1, got 0"),
        (["swissroll"], "data must have shape (1, 8, 8)"),
        (["digts"], "unknown data 'digts'"),
    ],
)
def test_bad_input_is_one_line(langevin: Run, model: Path, words: list, phrase: str) -> None:
    said = langevin("calibrate", model, *words)
    assert said.code == 2
    assert phrase in said.err
    assert said.err.count("\n") == 1
    assert not list(model.glob("calibration*"))


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["--variance", "analytic"], "unknown variance 'analytic'"),
        (["--variance", "small", "--sampler", "ddim"], "variance is read by the sampler 'ancestral'"),
        (["--variance", "small", "--sampler", "ddpm"], "variance is read by the sampler 'ancestral'"),
    ],
)
def test_variances_that_are_not_there(langevin: Run, model: Path, tmp_path: Path, words: list, phrase: str) -> None:
    said = langevin("sample", model, *words, "--out", tmp_path / "out")
    assert said.code == 2
    assert phrase in said.err
    assert not (tmp_path / "out").exists()
