"""Tokens from the command line: trained, sampled, told about, and refused where measures are of real data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from said import Run

SMALL = ["--batch", 8, "--steps", 3, "--network.options", "width", 16, "depth", 1]
QUIET = ["--output.validate-on", 16, "--output.sample-every", 2]


@pytest.mark.parametrize("process", ["absorbing", "uniform", "neighbours", "discretised-gaussian"])
def test_words_are_trained_and_written(process: str, langevin: Run, tmp_path: Path) -> None:
    out = tmp_path / "words"
    said = langevin("train", "words", "--limit", 50, "--process.name", process, "--out", out, *SMALL, *QUIET)
    assert said.code == 0, said.err
    assert "langevin evaluate" not in said.out
    picture = (out / "pictures" / "step-0000002.txt").read_text().splitlines()
    assert (len(picture), {len(line) for line in picture}) == (20, {32})
    said = langevin("sample", out, "-n", 5, "--steps", 4, "--out", tmp_path / "samples")
    assert said.code == 0, said.err
    lines = (tmp_path / "samples" / "samples.txt").read_text().splitlines()
    with np.load(tmp_path / "samples" / "samples.npz") as held:
        x = held["x"]
    assert (x.dtype, x.shape) == (np.int64, (5, 32))
    assert ["".join(" abcdefghijklmnopqrstuvwxyz"[k] for k in row) for row in x] == lines
    assert json.loads((tmp_path / "samples" / "sample.json").read_text())["evaluations"] == 4
    said = langevin("info", out)
    assert said.code == 0
    assert "evidence" in said.out
    for words in (["evaluate", out], ["tune", out, "--steps", 4]):
        said = langevin(*words)
        assert (said.code, len(said.err.strip().splitlines())) == (2, 1), said.err
        assert "Traceback" not in said.err


def test_digits_as_ordinals_are_pictures_with_labels(langevin: Run, tmp_path: Path) -> None:
    out = tmp_path / "digits"
    head = ["--prediction.name", "ordinal", "--process.name", "discretised-gaussian", "--process.options", "steps", 20]
    small = ["--batch", 8, "--steps", 3, "--network.options", "width", 8]
    said = langevin("train", "digits-17", "--limit", 50, "--out", out, *head, *small, *QUIET)
    assert said.code == 0, said.err
    assert (out / "pictures" / "step-0000002.png").exists()
    said = langevin("sample", out, "-n", 4, "--steps", 5, "--guidance-scale", 2, "--out", tmp_path / "samples")
    assert said.code == 0, said.err
    assert (tmp_path / "samples" / "grid.png").exists()
    with np.load(tmp_path / "samples" / "samples.npz") as held:
        assert (held["x"].shape, held["label"].tolist()) == ((4, 1, 8, 8), [0, 1, 2, 3])
        assert 0 <= held["x"].min() <= held["x"].max() <= 16
