"""``langevin evaluate --ema``: the lengths of one run, measured from the same noises."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, SMALL
from PIL import Image
from said import Said

import langevin as library
from langevin._errors import UserError
from langevin.cli import ema_lengths, main

Run = Callable[..., Said]
DRAWN = ["-n", "40", "--steps", "1", "--features", "pixels"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that stored averages after each second one."""
    out = tmp_path_factory.mktemp("ema") / "digits"
    words = ["--steps", "6", *SMALL, *QUIET, "--optimiser.lr", "0.01", "--ema.snapshots", "3"]
    assert main(["train", "digits", "--out", str(out), *words]) == 0
    return out


def test_the_best_length_is_found_and_saved(langevin: Run, stored: Path, tmp_path: Path) -> None:
    """The rows are what each model gets alone: that of 0.1, which is the run's own average, to the last digit."""
    out, best = tmp_path / "found.json", tmp_path / "best"
    said = langevin("evaluate", stored, "--ema", 0.2, 0.1, 0.05, *DRAWN, "--save", best, "--out", out)
    assert said.code == 0, said.err
    found = json.loads(out.read_text())
    assert found["kind"] == "ema-lengths"
    assert [row["ema"] for row in found["lengths"]] == [0.05, 0.1, 0.2]
    assert [row["profile_error"] > 0 for row in found["lengths"]] == [False, False, True]
    assert langevin("evaluate", stored, *DRAWN, "--out", tmp_path / "plain.json").code == 0
    assert json.loads((tmp_path / "plain.json").read_text())["measures"] == found["lengths"][1]["measures"]
    values = [row["measures"][found["by"]]["value"] for row in found["lengths"]]
    assert len(set(values)) == 3
    assert found["best"] == found["lengths"][values.index(min(values))]["ema"]
    assert f"The best EMA length is {found['best']:g}, by {found['by']}" in said.out
    assert f"{found['best']:g} (best)" in said.out
    assert "40 samples of each length from the same noises" in said.out
    kept, made = library.load(best), library.load(stored, ema=found["best"])
    state = made.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in kept.network.state_dict().items())
    assert kept.config["ema"] == {"width": found["best"], "step": 6}
    with Image.open(tmp_path / "found.png") as picture:
        assert min(picture.size) > 200


def test_the_files_lie_in_the_run(langevin: Run, stored: Path) -> None:
    """Beside those of an evaluation, which they do not replace."""
    assert langevin("evaluate", stored, "--ema", 0.07, *DRAWN).code == 0
    assert json.loads((stored / "ema-lengths.json").read_text())["best"] == 0.07
    assert (stored / "ema-lengths.png").exists()
    assert not (stored / "evaluation.json").exists()


def test_requests_that_cannot_be_met(langevin: Run, stored: Path, model: Path, tmp_path: Path) -> None:
    for words, phrase in (
        ([stored, "--ema", 0.3], "ema must be a relative length (sigma_rel) in (0, 0.28], got 0.3"),
        ([stored, "--ema", 0.1, 0.1], "ema must be different lengths"),
        ([model, "--ema", 0.1, 0.2], "holds no stored averages"),
        (["owner/name", "--ema", 0.1], "ema needs the directory of a run on this machine"),
        ([stored, "--save", tmp_path / "x"], "give lengths with --ema"),
        ([stored, "--ema", 0.1, "--save", model], "save must be a new directory"),
        ([stored, "--ema", 0.1, "--samples", tmp_path], "leave out --ema, or --samples"),
        ([stored, "--ema", 0.1, "--samples", tmp_path, "--shard-size", 256], "leave out --shard-size"),
    ):
        said = langevin("evaluate", *words, "--steps", 1)
        assert said.code == 2
        assert phrase in said.err


def found(values: list[float], best: float, **more: Any) -> dict[str, Any]:
    """Rows of lengths 0.05, 0.1 and 0.2 with these Fréchet distances, and kernel distances ± 1 beside."""
    rows = [
        {
            "ema": length,
            "profile_error": 0.0,
            "measures": {
                "frechet/pixels": {"value": None},
                "kernel/pixels": {"value": 2 * value, "interval": [0.0, 9.0]},
                "frechet/classifier": {"value": value, "real": 0.5},
                "kernel/classifier": {"value": value, "interval": [value - 1, value + 1]},
                "sliced-wasserstein": {"value": value},
            },
        }
        for length, value in zip((0.05, 0.1, 0.2), values)
    ]
    return {"lengths": rows, "by": "frechet/classifier", "best": best, "close": [], **more}


def test_what_decides() -> None:
    """The Fréchet distance of the last feature space, where every row has it; else the next kind of distance."""
    rows = [row["measures"] for row in found([1.0, 2.0, 3.0], 0.05)["lengths"]]
    assert ema_lengths.decisive(rows) == "frechet/classifier"
    rows[1]["frechet/classifier"] = {"value": None}
    assert ema_lengths.decisive(rows) == "kernel/classifier"
    for name in ("kernel/pixels", "kernel/classifier"):
        rows[0][name] = {"value": None}
    assert ema_lengths.decisive(rows) == "sliced-wasserstein"
    rows[2]["sliced-wasserstein"] = {"value": None}
    with pytest.raises(UserError, match="draw more"):
        ema_lengths.decisive(rows)


def test_what_is_said() -> None:
    inner = ema_lengths.sentences(found([2.0, 1.0, 3.0], 0.1, close=[0.05]))
    assert inner[0] == "The best EMA length is 0.1, by frechet/classifier (1)."
    assert "overlaps those of 0.05:" in inner[1]
    assert len(inner) == 2
    assert "try shorter" in ema_lengths.sentences(found([1.0, 2.0, 3.0], 0.05))[-1]
    assert "try longer" in ema_lengths.sentences(found([3.0, 2.0, 1.0], 0.2))[-1]


def test_lengths_whose_intervals_overlap_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel distance of the feature space that decides, which has intervals: 1 ± 1 and 2.5 ± 1, not 4 ± 1."""
    from langevin.training import posthoc_ema

    rows = iter(found([4.0, 1.0, 2.5], 0.1)["lengths"])
    monkeypatch.setattr(posthoc_ema, "combination", lambda *_: type("Made", (), {"error": 0.0}))
    monkeypatch.setattr(posthoc_ema, "with_ema", lambda *_: None)
    made = ema_lengths.compare(None, Path(), (0.05, 0.1, 0.2), lambda _: (next(rows)["measures"], {}))
    assert made["best"] == 0.1
    assert made["close"] == [0.2]


def test_the_picture_has_both_distances() -> None:
    """Two panels where the kernel distance is there, one where it decides itself."""
    sizes = []
    for by in ("frechet/classifier", "kernel/classifier"):
        with Image.open(io.BytesIO(ema_lengths.picture(found([2.0, 1.0, 3.0], 0.1, by=by)))) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == pytest.approx(2 * sizes[1][0], abs=2)
    assert sizes[0][1] == sizes[1][1]
