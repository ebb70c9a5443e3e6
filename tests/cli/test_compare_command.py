"""``langevin compare`` and ``langevin sample --tolerance`` as they are typed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from said import Run

FEW = ("--samplers", "default", "ancestral", "--steps", 3, "-n", 8)


def test_compare_writes_a_page_a_table_and_figures(langevin: Run, model: Path, tmp_path: Path) -> None:
    """The model knows its data, so laws are compared; with guidance a side of its own, of twice the network's work."""
    said = langevin("compare", model, *FEW, "--guidance-scale", 1, 2, "--out", tmp_path / "o")
    assert said.code == 0, said
    assert sorted(p.name for p in (tmp_path / "o").iterdir() if not p.name.startswith(".")) == [
        "compare.csv",
        "compare.json",
        "report.html",
    ]
    with open(tmp_path / "o" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2
    told = json.loads((tmp_path / "o" / "compare.json").read_text())
    plain, guided = told["sides"]
    assert plain["data"] == "digits"
    assert [cell["network"] for cell in plain["cells"]] == [3, 3]
    assert [cell["network"] for cell in guided["cells"]] == [6, 6]
    assert all((cell["distance"] is None) == (cell["sampler"] == "ancestral") for cell in plain["cells"])
    assert all(cell["sliced-wasserstein"] > 0 for cell in plain["cells"])
    assert f"Take {plain['advice']['reason']}." in said.out
    page = (tmp_path / "o" / "report.html").read_text()
    assert plain["advice"]["reason"].partition("'")[0] in page
    assert page.count("data:image/png;base64,") == 2 * 3


def test_an_interrupted_comparison_leaves_nothing(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("langevin.tasks.compare.run._Task._laws", stop)
    assert langevin("compare", model, *FEW, "--out", tmp_path / "o").code == 130
    assert not (tmp_path / "o").exists()


def test_samples_within_a_tolerance(langevin: Run, model: Path, tmp_path: Path) -> None:
    """The record holds the estimate; the samples are those of the steps and the sampler that it names."""
    said = langevin("sample", model, "-n", 4, "--tolerance", 0.5, "--out", tmp_path / "a")
    assert said.code == 0, said
    record = json.loads((tmp_path / "a" / "sample.json").read_text())
    found = record["tolerance"]
    assert found["error"] <= 0.5
    assert record["steps"] == found["steps"] == record["evaluations"]
    assert said.out.startswith(f"{found['steps']} evaluations: the estimated error of the path is {found['error']:.2g}")
    again = ("--sampler", "remainder", "--steps", found["steps"])
    assert langevin("sample", model, "-n", 4, *again, "--out", tmp_path / "b").code == 0
    one, two = (np.load(tmp_path / name / "samples.npz")["x"] for name in "ab")
    assert np.array_equal(one, two)
    replayed = langevin("replay", tmp_path / "a" / "grid.png", "--out", tmp_path / "c")
    assert replayed.code == 0, replayed
