"""``langevin edit``, ``purify`` and ``anomaly``: known pixels byte for byte, any size, resumed, bad input refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

from langevin import load, models


def picture(path: Path, height: int, width: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)
    return pixels


def mask(path: Path, height: int, width: int) -> np.ndarray:
    free = np.zeros((height, width), np.uint8)
    free[2:6, 1 : width - 2] = 255
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(free).save(path)
    return free > 0


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


FAST = ["--steps", 6, "--label", 3, "--strength", 2]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 21)])
def test_known_pixels_are_the_same_bytes(langevin: Run, model: Path, tmp_path: Path, height: int, width: int) -> None:
    given = picture(tmp_path / "a.png", height, width)[..., 0]
    free = mask(tmp_path / "m.png", height, width)
    out = tmp_path / "out"
    words = ["edit", tmp_path / "a.png", "--model", model, "--mask", tmp_path / "m.png", "--out", out, "-n", 2, *FAST]
    said = langevin(*words)
    assert said.code == 0, said.err
    assert f"{out}: edited by blend at σ/α = 2, 1 image in" in said.out
    for i in range(2):
        made = read(out / f"a-{i}.png")
        np.testing.assert_array_equal(made[~free], given[~free])
        assert (made[free] != given[free]).mean() > 0.5
    record = json.loads((out / "a.json").read_text())
    assert record["request"]["method"] == "Blend()"
    assert record["request"]["strength"] == 2
    assert set(record["files"]) == {"a-0.png", "a-1.png", "a-strip.png"}
    assert record["free"] == int(free.sum())
    assert Image.open(out / "a-strip.png").width > 4 * width
    # The same call has nothing to do, another one does not mix with it.
    before = (out / "a-0.png").stat().st_mtime_ns
    said = langevin(*words)
    assert said.code == 0, said.err
    assert "0 images in" in said.out
    assert "1 were there" in said.out
    assert (out / "a-0.png").stat().st_mtime_ns == before
    said = langevin(*words[:-1], 3)
    assert said.code == 2
    assert "out holds results of another request" in said.err
    assert "a.json: strength is 2.0 there and 3.0 here; choose another --out" in said.err
    mask(tmp_path / "m.png", height, width - 1)
    Image.fromarray(np.full((height, width), 255, np.uint8)).save(tmp_path / "m.png")
    assert "m.png is another file" in langevin(*words).err


def test_a_folder_goes_on(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Every picture below it, each with the mask of its name; what is there is skipped, and comes out the same."""
    for i, name in enumerate(("a", "deep/b", "deep/c")):
        picture(tmp_path / "in" / f"{name}.png", 8, 8 + i, i)
        mask(tmp_path / "masks" / f"{name}.png", 8, 8 + i)
    words = ["edit", tmp_path / "in", "--model", model, "--mask", tmp_path / "masks", "--out", tmp_path / "out", *FAST]
    assert langevin(*words).code == 0
    kept = {name: (tmp_path / "out" / f"{name}.png").read_bytes() for name in ("a", "deep/b", "deep/c")}
    (tmp_path / "out" / "deep" / "b.json").unlink()
    said = langevin(*words)
    assert said.code == 0, said.err
    assert "1 image in" in said.out
    assert "2 were there" in said.out
    assert {name: (tmp_path / "out" / f"{name}.png").read_bytes() for name in kept} == kept


def test_methods_and_guides(langevin: Run, model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 8)
    picture(tmp_path / "guide.png", 8, 8, 1)
    base = ["edit", tmp_path / "a.png", "--model", model, *FAST]
    for i, more in enumerate(
        (
            ["--guide", tmp_path / "guide.png", "--method-options", "repeats", 2],
            ["--method", "diffedit", "--source-label", 1, "--method-options", "noises", 2, "threshold", 0.3],
            ["--sampler", "ddim", "--grid", "log-snr", "--guidance-scale", 2],
        )
    ):
        said = langevin(*base, *more, "--out", tmp_path / f"out{i}")
        assert said.code == 0, said.err
    assert "SDEdit(repeats=2)" in (tmp_path / "out0" / "a.json").read_text()
    assert "DiffEdit(noises=2" in (tmp_path / "out1" / "a.json").read_text()


def test_bad_input(langevin: Run, model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 8)
    picture(tmp_path / "small.png", 7, 9)
    mask(tmp_path / "m9.png", 8, 9)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    picture(tmp_path / "in" / "a.png", 8, 8)
    mask(tmp_path / "masks" / "b.png", 8, 8)
    a, out = tmp_path / "a.png", tmp_path / "out"
    for words, phrase in (
        ([a, "--mask", tmp_path / "m9.png"], "must have the size of the image, 8 × 8 pixels, got 9 × 8"),
        ([a, "--mask", tmp_path / "text.png"], "text.png"),
        ([a, "--mask", tmp_path / "black.png"], "black.png is black everywhere: nothing may change"),
        ([a, "--source-label", "3"], "source-label is not taken by method 'sdedit'"),
        ([a, "--method", "diffedit", "--source-label", "33"], "source-label must lie in [0, 10), got 33"),
        ([a, "--mask", tmp_path / "none.png"], "mask must be a picture or a folder of them"),
        ([a, "--method", "blend"], "mask must be given for method 'blend'"),
        ([a, "--method", "blent"], "unknown edit 'blent'. Did you mean 'blend'"),
        ([a, "--method-options", "repeat", "2"], "has no option 'repeat'"),
        ([a, "--strength", "1e9"], "strength must be a noise level σ/α from"),
        ([a, "--label", "eleven"], "unknown label 'eleven'"),
        ([a, "--given", "caption=x"], "caption"),
        ([a, "-n", "0"], "n must be an integer of at least 1"),
        ([a, "--guide", tmp_path / "small.png"], "guide must have the shape of the image"),
        ([tmp_path / "small.png"], "has 9 × 7 pixels; this model needs at least 8 × 8"),
        ([tmp_path / "text.png"], "text.png"),
        ([tmp_path / "nowhere.png"], "input must be a picture or a folder of them"),
        ([tmp_path / "in", "--mask", tmp_path / "masks"], "holds none for a"),
        ([tmp_path / "in", "--out", tmp_path / "in" / "edited"], "must not lie in the folder of the pictures"),
    ):
        more = [] if "--out" in words else ["--out", out]
        said = langevin("edit", *words, "--model", model, "--steps", 4, *more)
        assert said.code == 2, words
        assert phrase in said.err, said.err
        assert said.err.count("\n") == 1
        assert not out.exists(), words


def test_purify(langevin: Run, model: Path, tmp_path: Path) -> None:
    for i, size in enumerate((8, 13)):
        picture(tmp_path / "in" / f"{i}.png", size, 9, i)
    words = ["purify", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--strength", 0.3, "--steps", 6]
    said = langevin(*words)
    assert said.code == 0, said.err
    assert "purified at σ/α = 0.3, 2 images in" in said.out
    assert read(tmp_path / "out" / "1.png").shape == (13, 9)
    assert json.loads((tmp_path / "out" / "1.json").read_text())["mean_change"] > 0
    assert "0 images in" in langevin(*words).out


def test_anomaly(langevin: Run, model: Path, tmp_path: Path) -> None:
    """The map has the picture's size and the scale of the data; with the truth, its AUROC."""
    picture(tmp_path / "a.png", 9, 12)
    mask(tmp_path / "truth.png", 9, 12)
    out = tmp_path / "out"
    words = ["anomaly", tmp_path / "a.png", "--model", model, "--out", out, "--label", 3, "--steps", 12]
    said = langevin(*words, "--truth", tmp_path / "truth.png")
    assert said.code == 0, said.err
    assert read(out / "a.png").shape == (9, 12)
    record = json.loads((out / "a.json").read_text())
    assert read(out / "a.png").max() == min(255, round(record["largest"] / 2 * 255))
    assert record["white"] == 2
    assert 0 <= record["auroc"] <= 1
    assert record["largest"] >= record["mean"] > 0
    assert f"AUROC {record['auroc']:.4f}" in said.out
    assert f"the largest difference is {record['largest']:.3g}; white in the maps is 2" in said.out


@pytest.mark.parametrize("command", ["purify", "anomaly"])
def test_given_is_what_the_model_is_told(langevin: Run, model: Path, tmp_path: Path, command: str) -> None:
    """A label by its name and by ``--given`` are one condition, another class another picture; twice is refused."""
    picture(tmp_path / "a.png", 8, 8)
    moved = load(model)  # an untrained network does not listen to its label
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in moved.network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise))
    models.save(moved, tmp_path / "model")
    model, made = tmp_path / "model", {}
    for name, how in {
        "label": ["--label", 3],
        "given": ["--given", "label=3"],
        "other": ["--given", "label=4"],
    }.items():
        said = langevin(command, tmp_path / "a.png", "--model", model, "--out", tmp_path / name, "--steps", 6, *how)
        assert said.code == 0, said.err
        made[name] = read(tmp_path / name / "a.png")
    np.testing.assert_array_equal(made["label"], made["given"])
    assert (made["other"] != made["given"]).any()
    words = [command, tmp_path / "a.png", "--model", model, "--out", tmp_path / "twice"]
    assert "label was given twice" in langevin(*words, "--label", 3, "--given", "label=3").err


def test_anomaly_goes_on(langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the second of three pictures, the first is not made again, and the AUROC is that of all three."""
    anomaly = importlib.import_module("langevin.tasks.anomaly")
    for i, name in enumerate(("a", "b", "deep/c")):
        picture(tmp_path / "in" / f"{name}.png", 8, 8, i)
        mask(tmp_path / "truth" / f"{name}.png", 8, 8)
    out, plain, asked = tmp_path / "out", anomaly.anomaly, []

    def stopped(*words: object, **more: object) -> object:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*words, **more)

    monkeypatch.setattr(anomaly, "anomaly", stopped)
    words = ["anomaly", tmp_path / "in", "--model", model, "--label", 3, "--steps", 8, "--truth", tmp_path / "truth"]
    assert langevin(*words, "--out", out).code == 130
    assert (out / "a.json").exists()
    assert not (out / "b.json").exists()
    when = (out / "a.png").stat().st_mtime_ns
    said = langevin(*words, "--out", out)
    assert said.code == 0, said.err
    assert "2 images in" in said.out
    assert "1 were there" in said.out
    assert len(asked) == 4
    assert (out / "a.png").stat().st_mtime_ns == when
    whole = langevin(*words, "--out", tmp_path / "whole")
    for name in ("a", "b", "deep/c"):
        assert (out / f"{name}.png").read_bytes() == (tmp_path / "whole" / f"{name}.png").read_bytes()
    told = said.out[said.out.index("the largest difference") :]
    assert "on average" in told
    assert told == whole.out[whole.out.index("the largest difference") :]
    again = langevin(*words, "--out", out).out
    assert "0 images in" in again
    assert again.endswith(told)
    other = langevin(*words, "--out", out, "--strength", 2)
    assert "out holds results of another request" in other.err


def test_anomaly_refuses_what_shows_nothing(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Without the healthy class the map is one of rounding; a truth of one colour has no AUROC."""
    picture(tmp_path / "a.png", 8, 8)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    words = ["anomaly", tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", "--steps", 12]
    for more, phrase in (
        ([], "label must be given, the class that is healthy, such as --label 0"),
        (["--label", 3, "--truth", tmp_path / "black.png"], "black.png must have white places and others"),
        (["--label", 3, "--scale", 1000], "scale must lie in [-100, 100], got 1000"),
    ):
        said = langevin(*words, *more)
        assert said.code == 2, said.out
        assert phrase in said.err, said.err
        assert "guidance-scale" not in said.err
        assert not (tmp_path / "out").exists()
