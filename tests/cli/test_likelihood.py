"""``langevin likelihood``: what it writes, what it says, what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import Run


def test_both_measures(langevin: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bits"
    words = ["--exact", "--bound", "--steps", 4, "--evaluations", 12, "--probes", 2, "--out", out]
    said = langevin("likelihood", model, "digits", "-n", 6, *words)
    assert said.code == 0, said.err
    assert said.out.count("bits/dim") == 2
    assert said.out.strip().endswith(f"{out} holds likelihood.csv, histogram.png and likelihood.json.")
    record = json.loads((out / "likelihood.json").read_text())
    assert set(record["measures"]) == {"exact", "bound"}
    protocol = record["measures"]["exact"]["protocol"]
    assert protocol["levels"] == 17
    assert protocol["evaluations"] == 12
    assert "truncated normal" in protocol["dequantisation"]
    assert "2 rademacher probes an evaluation" in said.out
    with (out / "likelihood.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for name in ("exact", "bound"):
        bits = np.array([float(row[f"{name}_bits_per_dim"]) for row in rows])
        assert np.isclose(bits.mean(), record["measures"][name]["bits_per_dim"])
        nats = np.array([float(row[f"{name}_nats"]) for row in rows])
        assert np.allclose(bits, nats / (64 * np.log(2)))
    with Image.open(out / "histogram.png") as picture:
        assert picture.size[0] > 400


def test_one_example_has_no_standard_error(langevin: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bits"
    said = langevin("likelihood", model, "digits", "-n", 1, "--bound", "--steps", 4, "--out", out)
    assert said.code == 0, said.err
    assert "±" not in said.out
    assert "one example, which tells no error" in said.out
    measures = json.loads((out / "likelihood.json").read_text())["measures"]["bound"]
    assert measures["bits_per_dim_stderr"] is None
    assert measures["nats_stderr"] is None


def test_an_example_does_not_depend_on_the_others(langevin: Run, model: Path, tmp_path: Path) -> None:
    tables = []
    for n, batch in ((5, 256), (3, 2)):
        out = tmp_path / f"{n}"
        words = ["--evaluations", 10, "--probes", 1, "--batch", batch, "--unconditional", "--out", out]
        assert langevin("likelihood", model, "digits", "-n", n, *words).code == 0
        with (out / "likelihood.csv").open() as file:
            tables.append([float(row["exact_nats"]) for row in csv.DictReader(file)])
    # A float32 network in batches of other sizes: rounding of 1e-7 on some hundred nats, a hundredfold.
    assert np.allclose(tables[0][:3], tables[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["moons"], "data must have shape (1, 8, 8) as the model has, got (2,)"),
        (["digit"], "Did you mean 'digits'?"),
        (["digits", "-n", 0], "n must be an integer of at least 1, got 0"),
        (["digits", "--probes", 0], "probes must be an integer of at least 1"),
        (["digits", "--evaluations", 4], "evaluations must be an integer of at least 8, got 4"),
        (["digits", "--steps", 9], "--steps belong to --bound"),
        (["digits", "--bound", "--probes", 1], "--probes belong to --exact"),
        (["digits", "--dequantise", "normall"], "Did you mean 'normal'?"),
    ],
)
def test_refusals(langevin: Run, model: Path, tmp_path: Path, words: list[object], said: str) -> None:
    found = langevin("likelihood", model, *words, "--out", tmp_path / "x")
    assert found.code == 2
    assert said in found.err
    assert not (tmp_path / "x").exists()
