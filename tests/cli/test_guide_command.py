"""``langevin guide``: the samples are those of the library's guidance, and the record says which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET
from said import Run

import conditioned
import langevin as lib
from langevin.cli import main
from langevin.tasks.guide import METHODS


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of noisy digits after three steps, on the process of ``model``."""
    out = tmp_path_factory.mktemp("guide") / "classifier"
    small = ["--batch", "8", "--objective.name", "cross-entropy", "--network.options", "width", "8"]
    assert main(["train", "digits", "--out", str(out), "--steps", "3", *small, *QUIET]) == 0
    return out


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of digits without labels."""
    place = tmp_path_factory.mktemp("guide")
    x = lib.data.load("digits").train.batch(torch.arange(64))["x"]
    np.save(place / "x.npy", x.numpy())
    small = ["--batch", "8", "--network.name", "unet", "--network.options", "width", "8"]
    words = ["train", str(place / "x.npy"), "--out", str(place / "run"), "--steps", "3", *small, *QUIET]
    assert main(words) == 0
    return place / "run"


FAST = ["-n", 4, "--steps", 4]


@pytest.mark.parametrize(
    ("words", "make"),
    [
        (
            ["--scale", 2, "--rescale", 0.5, "--label", 3],
            lambda m: lib.guidance.classifier_free(m, label=3, guidance_scale=2.0, rescale=0.5),
        ),
        (
            ["--scale", 2, "--label", 3, "--negative-label", 5],
            lambda m: lib.guidance.classifier_free(m, label=3, guidance_scale=2.0, negative={"label": 5}),
        ),
        (
            ["--scale", 2, "--label", 3, "--interval", 0.3, 5],
            lambda m: lib.guidance.classifier_free(m, label=3, guidance_scale=2.0, interval=(0.3, 5.0)),
        ),
        (
            ["--method", "apg", "--scale", 4, "--label", 3],
            lambda m: lib.guidance.apg(m, label=3, guidance_scale=4.0),
        ),
        (
            ["--method", "cfg-zero-star", "--scale", 4, "--label", 3, "--threshold", 0.9],
            lambda m: lib.guidance.threshold(lib.guidance.cfg_zero_star(m, label=3, guidance_scale=4.0), 0.9),
        ),
        (
            ["--method", "conjunction", "--scale", 1, "--label", 3, "--also", "5"],
            lambda m: lib.guidance.conjunction(m, [{"label": 3}, {"label": 5}], [1.0, 1.0]),
        ),
    ],
)
def test_the_samples_are_the_library_s(langevin: Run, model: Path, tmp_path: Path, words: list[object], make) -> None:
    out = tmp_path / "out"
    said = langevin("guide", model, *words, *FAST, "--sampler", "ddim", "--out", out)
    assert said.code == 0, said.err
    loaded = lib.load(str(model))
    x = lib.sample(make(loaded), lib.samplers.DDIM(), n=4, steps=4, seed=0).clamp(-1, 1)
    with np.load(out / "samples.npz") as file:
        np.testing.assert_allclose(file["x"], x.numpy(), rtol=0, atol=1e-5)  # rounding of float32 in another order
        assert file["label"].tolist() == [3] * 4
    record = json.loads((out / "sample.json").read_text())
    assert record["guidance"]["method"] in said.out
    assert record["guidance"]["scale"] == words[words.index("--scale") + 1]
    assert "guidance_scale" not in record  # the scale of guidance stands in one place


def test_cfg_plus_plus_by_itself(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Without a scale and a sampler it is the published one: 0.6, DDIM, the grid of its steps."""
    words = ["--method", "cfg-plus-plus", "--label", 3, *FAST]
    said = langevin("guide", model, *words, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "4 samples by cfg-plus-plus guidance at 0.6 in" in said.out
    assert said.out.endswith(", 8 network evaluations each (sampler ddim).\n")
    loaded, rule = lib.load(str(model)), lib.samplers.DDIM()
    times = lib.samplers.resolve(loaded, rule, steps=4).grid
    guided = lib.guidance.cfg_plus_plus(loaded, label=3, scale=0.6, grid=times)
    x = lib.sample(guided, rule, n=4, steps=4, seed=0).clamp(-1, 1)
    with np.load(tmp_path / "out" / "samples.npz") as file:
        np.testing.assert_allclose(file["x"], x.numpy(), rtol=0, atol=1e-5)


def test_by_a_classifier(langevin: Run, model: Path, unconditional: Path, classifier: Path, tmp_path: Path) -> None:
    """Of a model that takes labels, and of one that does not; classes in turn where none is given."""
    for i, place in enumerate((model, unconditional)):
        words = ["guide", place, "--method", "classifier", "--classifier", classifier, "--scale", 2, *FAST]
        said = langevin(*words, "--out", tmp_path / f"{i}")
        assert said.code == 0, said.err
        with np.load(tmp_path / f"{i}" / "samples.npz") as file:
            assert file["label"].tolist() == [0, 1, 2, 3]
            assert np.isfinite(file["x"]).all()
    loaded, judge = lib.load(str(unconditional)), lib.load(str(classifier))
    guided = lib.guidance.classifier(loaded, judge, label=torch.arange(4), scale=2.0)
    x = lib.sample(guided, n=4, steps=4, seed=0).clamp(-1, 1)
    with np.load(tmp_path / "1" / "samples.npz") as file:
        np.testing.assert_allclose(file["x"], x.numpy(), rtol=0, atol=1e-4)


def test_particles(langevin: Run, unconditional: Path, classifier: Path, tmp_path: Path) -> None:
    words = ["guide", unconditional, "--method", "classifier", "--classifier", classifier, "--label", 3, *FAST]
    said = langevin(*words, "--particles", 16, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    record = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert len(record["guidance"]["ess"]) == 5
    assert all(1 <= ess <= 16 for ess in record["guidance"]["ess"])
    with np.load(tmp_path / "out" / "samples.npz") as file:
        assert file["x"].shape == (4, 1, 8, 8)
        assert file["label"].tolist() == [3] * 4


def test_autoguidance_by_the_model_itself_is_the_model(langevin: Run, model: Path, tmp_path: Path) -> None:
    """By one sampler: the default would be made for guidance of scale 3."""
    drawn = [*FAST, "--sampler", "dpmpp-2m"]
    words = ["guide", model, "--method", "autoguidance", "--weak", model, "--scale", 3, "--label", 3, *drawn]
    assert langevin(*words, "--out", tmp_path / "a").code == 0
    assert langevin("sample", model, "--label", 3, *drawn, "--out", tmp_path / "b").code == 0
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        np.testing.assert_allclose(a["x"], b["x"], rtol=0, atol=1e-4)


def test_an_interval_without_a_step_is_told(langevin: Run, model: Path, tmp_path: Path) -> None:
    words = ["guide", model, "--label", 3, *FAST, "--out", tmp_path / "out"]
    said = langevin(*words, "--interval", 1000, 2000)
    assert said.code == 0, said.err
    assert said.err.count("interval 1000 2000 holds no step") == 1
    assert "holds no step" not in langevin(*words, "--interval", 0.3, 5).err


def test_a_finished_request_is_left(langevin: Run, model: Path, classifier: Path, tmp_path: Path) -> None:
    """The same call draws nothing; another one, or one whose files are not whole any more, draws anew."""
    out = tmp_path / "out"
    base = ["guide", model, "--label", 3, "-n", 2, "--steps", 2, "--out", out]
    other = tmp_path / "classifier"
    shutil.copytree(classifier, other)
    by_classifier = ["--method", "classifier", "--classifier", other]

    def drew(*more: object) -> bool:
        said = langevin(*base, *more)
        assert said.code == 0, said.err
        there = f"{out}: the 2 samples of this request are there; nothing was drawn.\n"
        assert said.out == there or "2 samples by" in said.out
        return said.out != there

    assert drew()
    first = (out / "samples.npz").read_bytes()
    when = (out / "sample.json").stat().st_mtime_ns
    assert not drew("--scale", 3, "--batch", 2)  # the default, and what changes no sample
    assert (out / "sample.json").stat().st_mtime_ns == when
    base_samples = tmp_path / "base"
    shutil.copytree(out, base_samples)
    changes = (["--scale", 2], ["--seed", 1], ["--label", 4], ["--threshold", 0.9], ["--interval", 0.3, 5])
    for more in (*changes, ["--negative-label", 1], ["--sampler", "ddim"], by_classifier):
        shutil.rmtree(out)  # so that what is there differs from what is asked for in this one thing
        shutil.copytree(base_samples, out)
        assert drew(*more)
        assert not drew(*more)
    assert drew(*by_classifier, "--particles", 8)
    assert not drew(*by_classifier, "--particles", 8)
    assert drew(*by_classifier)
    with open(other / "config.json", "a", encoding="utf-8") as file:
        file.write("\n")
    assert drew(*by_classifier)
    assert drew("--images")
    assert not drew("--images")
    next((out / "images").iterdir()).unlink()
    (out / "images").rename(tmp_path / "images")
    assert drew("--images")
    assert drew()
    assert (out / "samples.npz").read_bytes() == first
    (out / "samples.npz").write_bytes(first[:-1])
    assert drew()
    assert (out / "samples.npz").read_bytes() == first


def test_a_request_is_of_its_number_its_model_and_its_conditions(langevin: Run, tmp_path: Path) -> None:
    """Samples of a model that was trained on, or given another vector, are other samples."""
    conditioned.saved(tmp_path / "model")
    words = ["guide", tmp_path / "model", "--label", 1, "--steps", 1, "--out", tmp_path / "out"]

    def drew(n: int, *more: object) -> bool:
        said = langevin(*words, "-n", n, *more)
        assert said.code == 0, said.err
        return "nothing was drawn" not in said.out

    assert drew(2)
    assert drew(3)
    assert drew(3, "--given", "vector=0.5,1")
    assert not drew(3, "--given", "vector=0.5,1")
    assert drew(3, "--given", "vector=0.5,2")
    with open(tmp_path / "model" / "config.json", "a", encoding="utf-8") as file:
        file.write("\n")
    assert drew(3, "--given", "vector=0.5,2")


def test_one_scale_in_the_help(langevin: Run) -> None:
    said = langevin("guide", "--help")
    assert "--scale W" in said.out
    assert "--guidance-scale" not in said.out
    assert "--sampler NAME" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "apgg"], "Did you mean 'apg'?"),
        *(
            (["--method", method, "--scale", "nan"], "guide: scale must be a finite number, got nan")
            for method in METHODS
        ),
        (["--scale", "1000"], "guide: scale must lie in [-100, 100]"),
        (["--method", "cfg-plus-plus", "--scale", "3"], "scale must lie in [0, 1] for guidance 'cfg-plus-plus', got 3"),
        (["--method", "classifier"], "--classifier DIR"),
        (["--method", "autoguidance"], "--weak DIR"),
        (["--method", "conjunction", "--label", "3"], "--also LABEL"),
        (["--also", "3"], "also (labels) is not taken by guidance 'classifier-free'"),
        (["--weak", "MODEL"], "weak is not taken by guidance 'classifier-free'"),
        (["--method", "apg", "--classifier", "MODEL"], "classifier is not taken by guidance 'apg'"),
        (["--negative-label", "11"], "negative-label must lie in [0, 10), got 11"),
        (["--method", "conjunction", "--also", "11"], "also must lie in [0, 10), got 11"),
        (["--threshold", "1.5"], "threshold must lie in (0, 1]"),
        (["--method", "apg", "--rescale", "0.5"], "rescale is not taken"),
        (["--interval", "5", "0.3"], "interval"),
        (["--label", "3", "--interval", "nan", "2"], "interval[0] must be a finite number, got nan"),
        (["--rescale", "nan"], "rescale must be a finite number, got nan"),
        (["--threshold", "nan"], "threshold must lie in (0, 1], a share such as 0.995, got nan"),
        (["--particles", "8"], "particles are for --method classifier"),
        (["--particles", "0"], "particles must be"),
        (["--label", "ten"], "unknown label"),
        (["--guidance-scale", "2"], "unknown option '--guidance-scale'. Did you mean '--scale'?"),
        (["--method", "classifier", "--classifier", "MODEL"], "must be a classifier of noisy data"),
    ],
)
def test_bad_input(langevin: Run, model: Path, tmp_path: Path, words: list[str], message: str) -> None:
    asked = [model if word == "MODEL" else word for word in words]
    said = langevin("guide", model, *asked, *FAST, "--out", tmp_path / "out")
    assert said.code == 2, said.out
    assert message in said.err
    assert not (tmp_path / "out" / "sample.json").exists()
