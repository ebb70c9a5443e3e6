"""``langevin restore``: known pixels byte for byte, figures against the truth, any size, bad input refused first."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

from langevin.cli.restore import figures


def picture(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)
    return pixels


def mask(path: Path, height: int, width: int) -> np.ndarray:
    free = np.zeros((height, width), np.uint8)
    free[2:6, 1 : width - 2] = 255
    Image.fromarray(free).save(path)
    return free > 0


FAST = ["--steps", 4, "-n", 2]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 19)])
@pytest.mark.parametrize("simulate", [False, True])
def test_known_pixels_are_the_same_bytes(
    langevin: Run, model: Path, tmp_path: Path, height: int, width: int, simulate: bool
) -> None:
    given = picture(tmp_path / "a.png", height, width)
    free = mask(tmp_path / "m.png", height, width)
    out = tmp_path / "out"
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "inpaint", "--mask", tmp_path / "m.png"]
    words += ["--std", 0, "--out", out, *FAST, *["--simulate"] * simulate]
    said = langevin(*words)
    assert said.code == 0, said.err
    assert f"{out}: 1 image restored by pigdm, 2 samples each" in said.out
    assert ("PSNR" in said.out) == simulate
    for i in range(2):
        made = np.asarray(Image.open(out / f"a-{i}.png"))
        np.testing.assert_array_equal(made[~free], given[~free])
        assert (made[free] != given[free]).mean() > 0.5
    record = json.loads((out / "a.json").read_text())
    assert set(record["files"]) == {"a-0.png", "a-1.png", "a-mean.png", "a-std.png", "a-strip.png"}
    assert record["request"]["task"] == "inpaint"
    assert ("psnr_of_the_mean" in record) == simulate
    assert not np.asarray(Image.open(out / "a-std.png"))[~free].any()
    said = langevin(*words)
    assert "0 images restored" in said.out
    said = langevin(*words, "--seed", 1)
    assert said.code == 2
    assert "out holds results of another request" in said.err


def test_a_smaller_picture_is_enlarged(langevin: Run, model: Path, tmp_path: Path) -> None:
    """The picture given is the measurement: 8×8 by a factor of 2 becomes 16×16, in tiles of the model's 8×8."""
    picture(tmp_path / "a.png", 8, 8)
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "super-resolution=2", "--out", tmp_path / "out"]
    said = langevin(*words, *FAST)
    assert said.code == 0, said.err
    assert Image.open(tmp_path / "out" / "a-0.png").size == (16, 16)
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["size"] == [1, 16, 16]
    assert "psnr_of_the_mean" not in record


@pytest.mark.parametrize("task", ["super-resolution=2", "blur=1", "jpeg=40", "uncrop=0.5", "fourier=2", "radon=6"])
def test_every_task_of_grey_pictures(langevin: Run, model: Path, tmp_path: Path, task: str) -> None:
    picture(tmp_path / "a.png", 8, 8)
    method = ["--method", "dps"] if task.startswith("jpeg") else []
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", task, "--simulate", "--out", tmp_path / "out"]
    said = langevin(*words, *method, "--steps", 3, "-n", 4)
    assert said.code == 0, said.err
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert 0 <= record["coverage_of_90_percent"] <= 1
    assert math.isfinite(record["psnr_of_the_mean"])


def test_a_folder_goes_on(langevin: Run, model: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "deep/b")):
        picture(tmp_path / "in" / f"{name}.png", 8, 8, i)
    words = ["restore", tmp_path / "in", "--model", model, "--task", "blur=1", "--out", tmp_path / "out", *FAST]
    assert langevin(*words).code == 0
    kept = (tmp_path / "out" / "deep" / "b-0.png").read_bytes()
    (tmp_path / "out" / "deep" / "b.json").unlink()
    said = langevin(*words)
    assert said.code == 0, said.err
    assert "1 image restored" in said.out
    assert "1 were there" in said.out
    assert (tmp_path / "out" / "deep" / "b-0.png").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "inpaint"], "mask must be given for the task inpaint"),
        (["--task", "blur=1", "--mask", "m.png"], "for no other task"),
        (["--task", "blr=1"], "Did you mean 'blur'?"),
        (["--task", "super-resolution=3", "--simulate"], "factor"),
        (["--task", "radon=6"], "simulate must be given"),
        (["--task", "blur=1", "--method", "pigd"], "Did you mean 'pigdm'?"),
        (["--task", "blur=1", "--std", "-1"], "std must be >= 0"),
        (["--task", "blur=1", "--method-options", "stride", "3"], "has no option 'stride'"),
        (["--task", "blur=1", "-n", "0"], "n must be"),
        (["--task", "colourise", "--simulate"], "(3, height, width)"),
        (["--task", "inpaint", "--mask", "small.png"], "must have the size of the image"),
    ],
)
def test_bad_input(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", 8, 8)
    mask(tmp_path / "m.png", 8, 8)
    mask(tmp_path / "small.png", 8, 7)
    said = langevin("restore", "a.png", "--model", model, *words, "--out", "out")
    assert said.code == 2, said.out
    assert message in said.err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_a_picture_smaller_than_the_model(langevin: Run, model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 6, 8)
    said = langevin("restore", tmp_path / "a.png", "--model", model, "--task", "blur=1", "--out", tmp_path / "out")
    assert said.code == 2
    assert "at least 8 × 8 pixels" in said.err


def test_coverage_is_that_of_a_normal_posterior() -> None:
    """Nine in ten pixels, where truth and samples are draws of one normal law, for 8 samples a pixel.

    The truth less the mean over std·√(1 + 1/n) is a Student variable with n − 1 degrees of freedom; of 40,000 pixels
    the standard error is 0.0015.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 200, 200, generator=g)
    truth = torch.randn(1, 200, 200, generator=g)
    found = figures(x, x.mean(0), x.std(0, correction=0), truth, None)
    assert abs(found["coverage_of_90_percent"] - 0.9) < 4.5 * math.sqrt(0.9 * 0.1 / 40_000)
    wrong = figures(x, x.mean(0), 0.8 * x.std(0, correction=0), truth, None)
    assert wrong["coverage_of_90_percent"] < 0.87
    assert figures(x, x.mean(0), x.std(0), None, None) == {}
