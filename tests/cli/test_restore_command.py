"""``langevin restore``: known pixels byte for byte, figures against the truth, any size, bad input refused first."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

from langevin import UserError, operators
from langevin.cli.measurement import counts_as_picture, measured, noise_law
from langevin.cli.restore import figures
from langevin.tasks.restore import check_method, check_noise, default_method, fit


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


def test_the_help_names_every_task(langevin: Run) -> None:
    words = re.split(r"[^\w-]+", langevin("restore", "--help").out)
    assert {name for name in operators.NAMED if name not in words} == set()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 19)])
@pytest.mark.parametrize("simulate", [False, True])
def test_known_pixels_are_the_same_bytes(
    langevin: Run, model: Path, tmp_path: Path, height: int, width: int, simulate: bool
) -> None:
    given = picture(tmp_path / "a.png", height, width)
    free = mask(tmp_path / "m.png", height, width)
    out = tmp_path / "out"
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "inpaint", "--mask", tmp_path / "m.png"]
    words += ["--out", out, *FAST, *["--simulate"] * simulate]
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


def test_any_factor_of_any_size(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Simulated on an odd size it is measured in 4 × 5 pixels; what is 4 × 4 is an image of the model's 8 × 8."""
    picture(tmp_path / "a.png", 9, 11)
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "super-resolution=2.5", "--steps", 3, "-n", 1]
    said = langevin(*words, "--simulate", "--out", tmp_path / "whole")
    assert said.code == 0, said.err
    assert Image.open(tmp_path / "whole" / "a.png").size == (11, 9)
    for side, wanted in ((4, 8), (5, 12)):
        picture(tmp_path / "a.png", side, side)
        said = langevin(*words, "--out", tmp_path / f"small-{side}")
        assert said.code == 0, said.err
        assert Image.open(tmp_path / f"small-{side}" / "a.png").size == (wanted, wanted)


@pytest.mark.parametrize(
    "task", ["super-resolution=2", "blur=1", "jpeg=40", "uncrop=0.5", "fourier=2", "radon=6", "radon=6:90"]
)
def test_every_task_of_grey_pictures(langevin: Run, model: Path, tmp_path: Path, task: str) -> None:
    picture(tmp_path / "a.png", 8, 8)
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", task, "--simulate", "--out", tmp_path / "out"]
    said = langevin(*words, "--steps", 3, "-n", 4)
    assert said.code == 0, said.err
    assert f"restored by {'diffpir' if task.startswith('jpeg') else 'pigdm'}" in said.out
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["request"]["std"] == (0 if task.startswith("uncrop") else 0.02)
    assert 0 <= record["coverage_of_90_percent"] <= 1
    assert math.isfinite(record["psnr_of_the_mean"])


def test_uncropping_puts_the_picture_in_the_middle(langevin: Run, model: Path, tmp_path: Path) -> None:
    """The picture given is the middle part, whose bytes come back; one sample has no mean and no std."""
    given = picture(tmp_path / "a.png", 5, 8)
    out = tmp_path / "out"
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "uncrop=0.5", "--out", out]
    said = langevin(*words, "--steps", 3, "-n", 1)
    assert said.code == 0, said.err
    assert "1 sample each" in said.out
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} >= {"a.png", "a-strip.png", "a.json"}
    assert not (out / "a-mean.png").exists()
    made = np.asarray(Image.open(out / "a.png"))
    height, width = made.shape
    assert (round(0.5 * height), width) == (5, 16)
    top = (height - 5) // 2
    np.testing.assert_array_equal(made[top : top + 5, 4:12], given)


def test_what_does_not_fit_is_told(langevin: Run, model: Path, tmp_path: Path) -> None:
    """A solver that does not look at the measurement has a residual of many std; one that meets it has one or so."""
    picture(tmp_path / "a.png", 8, 8)
    words = ["restore", tmp_path / "a.png", "--model", model, "--task", "blur=1", "--simulate", "-n", 2, "--steps", 12]
    said = langevin(*words, "--method", "dps", "--method-options", "zeta", 0, "--out", tmp_path / "poor")
    assert said.code == 0, said.err
    assert "warning: a: " in said.err
    assert "the samples do not explain the measurement" in said.err
    assert "Take more steps than 12, another method" in said.err
    record = json.loads((tmp_path / "poor" / "a.json").read_text())
    assert record["residual_over_std"] > 3
    assert f"residual {record['residual_over_std']:.2f} std" in said.out
    said = langevin(*words, "--method", "ddrm", "--std", 0.2, "--out", tmp_path / "fine")
    record = json.loads((tmp_path / "fine" / "a.json").read_text())
    assert record["residual_over_std"] < 3
    assert "do not explain" not in said.err


def test_counts(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Poisson noise in place of a std: the record has it, and no pixel is kept, since none is known exactly."""
    picture(tmp_path / "a.png", 8, 8)
    mask(tmp_path / "m.png", 8, 8)
    for i, words in enumerate(
        (["--task", "blur=1", "--simulate"], ["--task", "inpaint", "--mask", tmp_path / "m.png"])
    ):
        out = tmp_path / f"{i}"
        words = ["restore", tmp_path / "a.png", "--model", model, *words, "--noise", "poisson=40", "--out", out, *FAST]
        said = langevin(*words)
        assert said.code == 0, said.err
        assert "1 image restored by daps" in said.out
        record = json.loads((out / "a.json").read_text())
        assert record["request"]["noise"] == "poisson=40"
        assert "std" not in record["request"]
        assert "residual_over_range" not in record
        assert "0 images restored" in langevin(*words).out
    made = [np.asarray(Image.open(tmp_path / "1" / f"a-{i}.png")) for i in range(2)]
    assert (made[0] != made[1])[6:].any()


@dataclass
class Asking:
    """Options that a measurement depends on."""

    simulate: bool
    task: str = "blur=1"
    seed: int = 5


def test_the_law_of_the_noise() -> None:
    """A std of 0 is one that was given; known pixels have no noise; no measurement that is no picture has counts."""
    assert noise_law(None, None, "blur") == operators.GaussianNoise(0.02)
    assert noise_law(None, 0.0, "blur") == operators.GaussianNoise(0.0)
    assert noise_law(None, None, "random") == operators.GaussianNoise(0.0)
    assert noise_law(None, 0.3, "random") == operators.GaussianNoise(0.3)
    assert noise_law(" poisson = 5 ", None, "blur") == operators.PoissonNoise(5.0)
    with pytest.raises(UserError, match="std is of Gaussian noise, got 0 beside --noise poisson=5"):
        noise_law("poisson=5", 0.0, "blur")
    for task in ("compressed-sensing", "fourier", "coils", "radon", "phase"):
        with pytest.raises(UserError, match=f"got --task {task}; take --std"):
            noise_law("poisson=5", None, task)


def test_the_method_of_a_noise() -> None:
    """A law of Gaussian noise is as good as its std; those that are named instead take this operator and this noise."""
    blur, counts = operators.gaussian_blur(1.0), operators.PoissonNoise(5.0)
    assert default_method(blur, operators.GaussianNoise(0.1)) == default_method(blur, 0.1) == "pigdm"
    assert default_method(operators.Saturate(2.0), operators.GaussianNoise(0.1)) == "diffpir"
    assert default_method(blur, counts) == "daps"
    with pytest.raises(UserError) as refused:
        check_noise("pigdm", blur, counts)
    named = str(refused.value).partition("methods of any noise: ")[2].split(", ")
    assert set(named) >= {"daps", "smc"}
    assert not {"exact", "pigdm", "psld"} & set(named)  # the exact posterior is one of worlds alone
    for name in named:
        check_noise(name, blur, counts)
        check_method(name, blur)


def test_a_picture_says_its_counts() -> None:
    """A pixel stands for gain·(x + 1) photons, to the nearest; of a whole picture they are drawn."""
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(1, 8, 8)
    law, blur = noise_law("poisson=50", None, "blur"), operators.gaussian_blur(1.0)
    y = measured(Asking(False), law, blur, x, (1, 8, 8))
    torch.testing.assert_close(y[0], torch.round(50 * (x + 1)))
    assert float((counts_as_picture(y[0], law) - x).abs().max()) <= 0.5 / 50 + 1e-12
    drawn = measured(Asking(True), law, blur, x, (1, 8, 8))
    assert torch.equal(drawn, operators.measure(blur, x[None], operators.PoissonNoise(50.0), 5).y)
    exact = fit(operators.Measurement(blur, law.rate(blur(x[None])), law), x[None])
    assert exact.residual < 1e-12


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
        (["--task", "inpant", "--mask", "m.png"], "unknown task 'inpant'. Did you mean 'inpaint'?"),
        (["--task", "inpaint", "--mask", "m.png", "--method", "smc"], "such as 0.05 (--std 0.05)"),
        (["--task", "blr=1"], "Did you mean 'blur'?"),
        (["--task", "super-resolution=9", "--simulate"], "factor must be at most the height and the width, 8 × 8"),
        (["--task", "radon=6"], "simulate must be given"),
        (["--task", "blur=1", "--method", "pigd"], "Did you mean 'pigdm'?"),
        (["--task", "blur=1", "--std", "-1"], "std must be >= 0"),
        (["--task", "blur=1", "--method-options", "stride", "3"], "has no option 'stride'"),
        (["--task", "blur=1", "-n", "0"], "n must be"),
        (["--task", "colourise", "--simulate"], "colourise needs a model of colour images"),
        (["--task", "inpaint", "--mask", "black.png"], "is black everywhere: nothing is to be restored"),
        (["--task", "inpaint", "--mask", "white.png"], "is white everywhere: nothing is known"),
        *((["--task", task], "take --task inpaint --mask") for task in ("random", "strokes=0.2", "box")),
        (["--task", "blur=1", "--noise", "poison=3"], "noise must be poisson=GAIN"),
        (["--task", "blur=1", "--noise", "poisson=0"], "got 'poisson=0'; Gaussian noise is --std"),
        (["--task", "blur=1", "--noise", "poisson=5", "--std", "0.1"], "got 0.1 beside --noise poisson=5"),
        (["--task", "radon=6", "--simulate", "--noise", "poisson=5"], "got --task radon; take --std"),
        (
            ["--task", "blur=1", "--noise", "poisson=5", "--method", "dps"],
            "noise must be Gaussian for method 'dps', got PoissonNoise(gain=5.0, offset=1.0); methods of any noise: ",
        ),
        (["--task", "radon=6:200", "--simulate"], "operator radon=6:200: degrees must lie in (0, 180]"),
        (["--task", "blur=1", "--method", "smc", "--method-options", "particle", "8"], "It takes particles."),
        (["--task", "blur=1", "--method", "smc", "--method-options", "particles", "0"], "particles must be an integer"),
        (["--task", "blur=-1"], "operator blur=-1: std must be > 0"),
        (["--task", "super-resolution=0"], "operator super-resolution=0: factor must be >= 1"),
        (["--task", "uncrop=2"], "operator uncrop=2: box must"),
        (["--task", "jpeg=20", "--method", "pigdm"], "Those of any operator: dps, "),
        (["--task", "blur=1", "--method", "repaint", "--steps", "4"], "at least 6 with jump = 1"),
        (["--task", "blur=1", "--method", "split-gibbs", "--steps", "4"], "steps must be at least 10"),
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
    for name, grey in (("black", 0), ("white", 255)):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{name}.png")
    said = langevin("restore", "a.png", "--model", model, *words, "--out", "out")
    assert said.code == 2, said.out
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_a_picture_smaller_than_the_model(langevin: Run, model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 6, 8)
    said = langevin("restore", tmp_path / "a.png", "--model", model, "--task", "blur=1", "--out", tmp_path / "out")
    assert said.code == 2
    assert "at least 8 × 8 pixels" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "--task", "inpaint", "--mask", "m.png"],
        ["restore", "--task", "blur=1"],
        ["edit", "--mask", "m.png"],
        ["purify"],
        ["anomaly", "--label", "3", "--truth", "m.png"],
    ],
)
def test_what_is_no_picture_is_one_sentence(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A text file in place of the picture, whichever command looks at its size first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("x = 1\n")
    mask(tmp_path / "m.png", 8, 8)
    said = langevin(words[0], "mine.py", "--model", model, *words[1:], "--out", "out")
    assert (said.code, said.out) == (2, "")
    assert "mine.py: not a picture Pillow can read" in said.err
    assert said.err.count("\n") == 1


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
