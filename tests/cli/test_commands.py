"""Each command does what it says, on a tiny model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

import langevin as library
from langevin.storage import files


def samples(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as held:
        return {name: held[name] for name in held.files}


def test_train_leaves_a_model_and_says_what_to_type_next(langevin: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--network.options", "width", 8, "--batch", 8, "--output.sample-every", 0, "--seed", 5]
    said = langevin("train", "digits", "--out", out, "--steps", 2, "--limit", 100, *words)
    assert said.code == 0
    assert f"the model is in {out}" in said.err
    assert f"langevin sample {out}" in said.out
    assert f"langevin evaluate {out}" in said.out
    model = library.load(out)
    assert model.config["steps"] == 2
    assert model.config["config"]["seed"] == 5
    assert model.data.source == {"source": "digits", "limit": 100}
    # The data are found again as they were read.
    assert langevin("evaluate", out, "-n", 20, "--steps", 1).code == 0
    assert json.loads((out / "evaluation.json").read_text())["data"] == model.data.to_dict()
    assert json.loads((out / "evaluation.json").read_text())["measures"]["memorisation"]["protocol"]["train"] == 100


@pytest.mark.parametrize(
    "words",
    [
        ["--process.name", "cosine", "--prediction.variance", "range", "--objective.name", "hybrid"],
        ["--process.name", "ddpm", "--prediction.variance", "posterior", "--objective.name", "vlb"],
        ["--process.name", "vp", "--prediction.name", "levels"],
    ],
    ids=["hybrid", "vlb", "levels"],
)
def test_train_what_has_a_bound(langevin: Run, tmp_path: Path, words: list[str]) -> None:
    """A variance by L_hybrid, by L_vlb with times by importance, a law of levels: trained, read, bounded."""
    out = tmp_path / "run"
    if "vlb" in words:
        words = [*words, "--objective.times", "importance", "--objective.times-options", "of", "table", "bins", "10"]
    size = ["--network.options", "width", 8, "--batch", 8, "--output.sample-every", 0, "--output.validate-on", 8]
    said = langevin("train", "digits", "--out", out, "--steps", 2, "--limit", 20, *size, *words)
    assert said.code == 0, said.err
    model = library.load(out)
    assert model.variance == (words[3] if "--prediction.variance" in words else None)
    found = library.likelihood.bound(model, library.data.load("digits").test.all()["x"][:2], steps=2)
    assert bool(found.nats.isfinite().all())
    assert found.units.levels == 17


def test_ctrl_c_says_how_to_resume_and_resuming_ends_the_run(
    langevin: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langevin.training.logging import Bar

    out = tmp_path / "run"
    words = [
        "train",
        "digits",
        "--out",
        out,
        "--network.options",
        "width",
        8,
        "--batch",
        8,
        "--output.sample-every",
        0,
    ]
    plain = Bar.step

    def interrupted(bar: Bar, step: int, *more: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        plain(bar, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "step", interrupted)
        said = langevin(*words, "--steps", 6)
    assert said.code == 130
    message = said.err.splitlines()[-1]
    assert message.startswith("langevin train: stopped at step 4;")
    command = message.partition("go on with: langevin ")[2].split()
    assert command == ["train", "digits", "--out", str(out), "--resume"]
    assert langevin(*command).code == 0
    assert library.load(out).config["steps"] == 6


def test_sample_writes_samples_a_picture_and_the_record(langevin: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    said = langevin("sample", model, "-n", 23, "--steps", 3, "--sampler", "ddim", "--grid", "log-snr", "--out", out)
    assert said.code == 0
    found = samples(out)
    assert found["x"].shape == (23, 1, 8, 8)
    assert found["x"].dtype == np.float32
    assert np.abs(found["x"]).max() <= 1
    assert found["label"].dtype == np.int64
    assert found["label"].tolist() == [k % 10 for k in range(23)]
    with Image.open(out / "grid.png") as picture:
        # A column for each class under its name, three rows of 23 samples; 8 pixels and a line of one, by 12.
        assert picture.size == ((10 * 9 + 1) * 12, (3 * 9 + 1) * 12 + 20)
        names = np.asarray(picture)[:20]
        assert all((names[:, 12 + 108 * k : 108 * (k + 1)] < 128).any() for k in range(10))
    record = json.loads((out / "sample.json").read_text())
    assert {k: record[k] for k in ("n", "label", "sampler", "rule", "grid", "steps", "evaluations", "seed")} == {
        "n": 23,
        "label": "in turn",
        "sampler": "ddim",
        "rule": "DDIM(eta=0.0)",
        "grid": "log-snr",
        "steps": 3,
        "evaluations": 3,
        "seed": 0,
    }
    assert record["model"] == str(model)
    assert record["trained_steps"] == 3
    assert record["versions"]["torch"] == torch.__version__
    denoiser = library.load(model).given(label=torch.arange(23) % 10)
    wanted = library.sample(denoiser, "ddim", n=23, steps=3, grid="log-snr", seed=0).clamp(-1, 1)
    assert np.array_equal(found["x"], wanted.numpy())


def test_samples_do_not_depend_on_the_batch_nor_on_how_many(langevin: Run, model: Path, tmp_path: Path) -> None:
    for name, words in {
        "a": ["-n", 20],
        "b": ["-n", 20, "--batch", 7],
        "c": ["-n", 12],
        "d": ["-n", 20, "--seed", 1],
    }.items():
        assert langevin("sample", model, *words, "--steps", 2, "--out", tmp_path / name).code == 0
    a, b, c, d = (samples(tmp_path / name)["x"] for name in "abcd")
    # Float32 convolutions of batches of other sizes add in another order: a few units of 2^-24 a layer.
    assert np.abs(a - b).max() < 1e-4
    assert np.abs(a[:12] - c).max() < 1e-4
    assert np.abs(a - d).max() > 100 * 1e-4
    assert json.loads((tmp_path / "b" / "sample.json").read_text())["evaluations"] == 2


def test_a_guided_step_counts_both_its_parts(langevin: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert langevin("sample", model, "-n", 9, "--batch", 4, "--steps", 3, "--guidance-scale", 2, "--out", out).code == 0
    assert json.loads((out / "sample.json").read_text())["evaluations"] == 6


def test_another_process_at_equal_signal_to_noise_ratio(langevin: Run, model: Path, tmp_path: Path) -> None:
    words = ["-n", 4, "--sampler", "ddpm", "--process", "ddpm", "--grid", "trailing", "--steps", 5]
    assert langevin("sample", model, *words, "--out", tmp_path).code == 0
    record = json.loads((tmp_path / "sample.json").read_text())
    assert record["process"] == "DDPM(betas=0.0001…0.02, N=1000)"
    assert record["evaluations"] == 5


def test_a_label_by_index_and_by_name(langevin: Run, model: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    shutil.copytree(model, named)
    config = json.loads((named / "config.json").read_text())
    # A name wins over the index that reads the same: here class 7 is called "2".
    config["data"]["classes"] = ["zero", "one", "two", "three", "four", "five", "six", "2", "eight", "nine"]
    (named / "config.json").write_text(json.dumps(config))
    for asked, label in {"three": 3, "3": 3, "2": 7}.items():
        assert langevin("sample", named, "-n", 4, "--steps", 1, "--label", asked, "--out", tmp_path / "out").code == 0
        assert samples(tmp_path / "out")["label"].tolist() == [label] * 4
    said = langevin("sample", named, "--label", "thre", "--out", tmp_path / "no")
    assert said.code == 2
    assert "Did you mean 'three'?" in said.err


def test_an_earlier_call_is_overwritten_whole(langevin: Run, model: Path, tmp_path: Path) -> None:
    for n in (12, 5):
        assert langevin("sample", model, "-n", n, "--steps", 1, "--out", tmp_path).code == 0
    assert len(samples(tmp_path)["x"]) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.png", "sample.json", "samples.npz"]


def test_single_images_by_class(langevin: Run, model: Path, tmp_path: Path) -> None:
    """One PNG a sample, of its pixels, under its class; whole with the rest, gone with it, and never over another's."""
    out = tmp_path / "out"
    named = tmp_path / "named"
    shutil.copytree(model, named)
    config = json.loads((named / "config.json").read_text())
    config["data"]["classes"] = ["zero/0", "..", "drei ß", *"3456789"]
    (named / "config.json").write_text(json.dumps(config))
    assert langevin("sample", named, "-n", 12, "--steps", 1, "--images", "--out", out).code == 0
    found = sorted(p.name for p in (out / "images").iterdir())
    assert found[:4] == ["00000-zero_0.png", "00001-...png", "00002-drei_ß.png", "00003-3.png"]
    assert len(found) == 12
    held = samples(out)["x"]
    for i, name in enumerate(found):
        with Image.open(out / "images" / name) as picture:
            assert (picture.mode, picture.size) == ("L", (8, 8))
            assert (np.asarray(picture) == ((held[i, 0] + 1) * 127.5).round()).all()
    assert json.loads((out / "sample.json").read_text())["images"] == 12
    assert langevin("sample", named, "-n", 3, "--label", "3", "--steps", 1, "--images", "--out", out).code == 0
    assert sorted(p.name for p in (out / "images").iterdir()) == ["00000-3.png", "00001-3.png", "00002-3.png"]
    (out / "images" / "mine.png").write_bytes(b"my own")
    said = langevin("sample", named, "-n", 3, "--steps", 1, "--images", "--out", out)
    assert said.code == 2
    assert "which this command did not write; choose another --out" in said.err
    (out / "images" / "mine.png").unlink()
    assert langevin("sample", named, "-n", 3, "--steps", 1, "--out", out).code == 0
    assert sorted(p.name for p in out.iterdir()) == ["grid.png", "sample.json", "samples.npz"]
    said = langevin("sample", named, "-n", 256, "--shard-size", 256, "--images", "--out", tmp_path / "no")
    assert (said.code, (tmp_path / "no").exists()) == (2, False)
    assert "leave out --images, or --shard-size" in said.err


def test_images_are_written_whole_or_not_at_all(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sample", model, "--steps", 1, "--images", "--out", tmp_path]
    assert langevin(*words, "-n", 3).code == 0
    before, plain = samples(tmp_path)["x"], files.write

    def full(path: Path, content: bytes) -> dict[str, object]:
        if path.name == "00001-1.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return plain(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        assert langevin(*words, "-n", 5).code == 1
    assert len(list((tmp_path / "images").iterdir())) == 3
    assert np.array_equal(samples(tmp_path)["x"], before)
    # Killed between the last steps: the next writer ends them.
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: pytest.fail("killed") if Path(b).name == "images" else replace(a, b)
    )
    with pytest.raises(pytest.fail.Exception):
        langevin(*words, "-n", 5)
    monkeypatch.undo()
    with files.lock(tmp_path):
        assert len(list((tmp_path / "images").iterdir())) == 5
    assert len(samples(tmp_path)["x"]) == 5


def test_a_full_disk_is_said_and_leaves_the_earlier_samples(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert langevin("sample", model, "-n", 3, "--steps", 1, "--out", tmp_path).code == 0
    before = samples(tmp_path)["x"]

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    said = langevin("sample", model, "-n", 4, "--steps", 1, "--out", tmp_path)
    assert said.code == 1
    assert "No space left on device" in said.err
    assert said.err.count("\n") == 1
    assert np.array_equal(samples(tmp_path)["x"], before)


def test_points_without_labels_are_a_scatter(langevin: Run, tmp_path: Path) -> None:
    run, out, file = tmp_path / "run", tmp_path / "out", tmp_path / "points.npy"
    np.save(file, np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    words = ["--steps", 2, "--batch", 8, "--network.options", "width", 16, "--output.sample-every", 0]
    assert langevin("train", file, "--out", run, *words).code == 0
    assert langevin("sample", run, "-n", 50, "--steps", 2, "--out", out).code == 0
    assert sorted(p.name for p in out.iterdir()) == ["sample.json", "samples.npz", "scatter.png"]
    assert samples(out).keys() == {"x"}
    assert samples(out)["x"].shape == (50, 3)
    for words, phrase in (
        (["--label", 1], "trained without labels"),
        (["--guidance-scale", 2], "needs a condition to guide by"),
    ):
        said = langevin("sample", run, *words, "--out", tmp_path / "no")
        assert said.code == 2
        assert phrase in said.err
    assert langevin("evaluate", run, "-n", 40, "--steps", 2).code == 0
    found = json.loads((run / "evaluation.json").read_text())["measures"]
    assert "sliced-wasserstein" in found
    assert "label-agreement" not in found


def test_evaluate_finds_the_data_and_keeps_the_protocol(langevin: Run, model: Path, tmp_path: Path) -> None:
    kept, out = tmp_path / "kept", tmp_path / "new" / "found.json"
    words = ["-n", 60, "--steps", 2, "--seed", 4]
    said = langevin("evaluate", model, *words, "--features", "pixels", "--out", out)
    assert said.code == 0
    found = json.loads(out.read_text())
    assert found["model"] == str(model)
    assert found["samples"]["n"] == 60
    assert found["samples"]["evaluations"] == 2
    assert found["data"]["name"] == "digits"
    measures = found["measures"]
    assert measures.keys() >= {"frechet/pixels", "label-agreement", "train-synthetic-test-real", "memorisation"}
    assert not any(name.endswith("/classifier") for name in measures)
    for name, measure in measures.items():
        assert measure["protocol"]["split"] == "test"
        assert measure["protocol"]["seed"] == 4
        assert name in said.out
    # The same samples by way of a file give the same numbers.
    assert langevin("sample", model, *words, "--out", kept).code == 0
    again = tmp_path / "again.json"
    words = ["--samples", kept / "samples.npz", "--seed", 4, "--features", "pixels", "--out", again]
    assert langevin("evaluate", model, *words).code == 0
    assert json.loads(again.read_text())["measures"] == measures


def test_evaluate_against_other_data_of_the_same_shape(langevin: Run, model: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "other.npz", tmp_path / "found.json"
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8)).astype(np.uint8)
    np.savez(file, x=x, label=np.arange(120) % 10)
    assert langevin("evaluate", model, "-n", 20, "--steps", 1, "--data", file, "--out", out).code == 0
    assert json.loads(out.read_text())["data"]["name"] == "other"


def test_evaluate_says_what_so_few_pictures_cannot_tell(langevin: Run, model: Path, tmp_path: Path) -> None:
    """A sentence for each figure that would mislead, in the table and in the file; none at all against a handful."""
    file, out = tmp_path / "few.npz", tmp_path / "found.json"
    x, label = library.data.load("digits").train.batch(torch.arange(250)).values()
    np.savez(file, x=((x + 1) * 127.5).round().to(torch.uint8).numpy()[:, 0], label=label.numpy())
    words = ["-n", 20, "--steps", 1, "--data", file, "--features", "pixels", "--out", out]
    said = langevin("evaluate", model, *words)
    assert said.code == 0
    found = json.loads(out.read_text())
    frechet = found["measures"]["frechet/pixels"]
    assert frechet["value"] is None
    assert "examples on each side" in frechet["note"]
    row = next(line for line in said.out.splitlines() if "frechet/pixels" in line)
    assert "–" in row
    mark = row[row.index("[") : row.index("]") + 1]
    assert f"{mark} {frechet['note']}" in said.out.splitlines()
    assert "95 % interval" in said.out
    assert "noise" in said.out
    assert found["note"] in said.out
    assert found["note"].startswith("There are only ")
    np.savez(file, x=((x[:40] + 1) * 127.5).round().to(torch.uint8).numpy()[:, 0], label=label[:40].numpy())
    said = langevin("evaluate", model, *words[:-1], tmp_path / "no.json")
    assert said.code == 2
    assert "held-out examples, and measures need at least 8; measure against more data" in said.err
    assert not (tmp_path / "no.json").exists()


def test_methods_are_those_of_the_registry(langevin: Run) -> None:
    rows = json.loads(langevin("methods", "--json").out)
    assert rows == [method.row() for method in library.methods()]
    table = langevin("methods", "--category", "grids").out
    assert all(f"grids/{method.name} " in table for method in library.methods("grids"))
    assert "samplers/ddim" not in table
    assert table.splitlines()[0].split() == ["id", "name", "arXiv", "where", "proof"]


def test_info_of_a_model_and_of_the_environment(langevin: Run, model: Path) -> None:
    found = json.loads(langevin("info", model, "--json").out)
    network = library.load(model).network
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["network"]["width"] == 8
    assert found["process"]["name"] == "edm"
    assert found["data"]["source"] == {"source": "digits"}
    assert found["training"]["steps"] == 3
    assert "process     name edm" in langevin("info", model).out
    here = json.loads(langevin("info", "--json").out)
    assert here["versions"]["torch"] == torch.__version__
    assert "ddim" in here["samplers"]
    assert here["machine"]["cores"] >= 1
