"""Bad input: one clear line, exit code 2, and nothing done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from said import Run, Said

from langevin import UserError


def refused(said: Said, command: str, *phrases: str) -> None:
    """Exit code 2 and one line on standard error that holds the phrases."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith(f"langevin {command}: ")
    for phrase in phrases:
        assert phrase in said.err


TRAIN = [
    (["digts"], "unknown data 'digts'", "Did you mean 'digits'?"),
    (["digits", "--steps", "0"], "steps must be an integer of at least 1, got 0"),
    (["digits", "--minutes", "0"], "minutes must be a number > 0, got 0"),
    (["digits", "--minutes", "nan"], "minutes must be a number > 0, got nan"),
    (["digits", "--steps", "5", "--minutes", "1"], "steps or minutes, not both"),
    (["digits", "--stpes", "5"], "unknown option '--stpes'", "Did you mean '--steps'?"),
    (["digits", "--batch", "0"], "batch must be an integer of at least 1, got 0"),
    (["digits", "--size", "9"], "digits", "size"),
    (["digits", "--network.options", "multipliers", "[1,2,2,2,2]"], "image 8x8", "divisible by 16"),
    (["digits", "--network.name", "unt"], "unknown network 'unt'", "Did you mean 'unet'?"),
    (["digits", "--process.name", "vpp"], "unknown process 'vpp'", "Did you mean 'vp'?"),
    (["digits", "--prediction.name", "epsilon"], "unknown prediction 'epsilon'", "eps"),
    (["digits", "--process.name", "flow", "--prediction.name", "eps"], "'eps' cannot be read", "RectifiedFlow"),
    (["digits", "--process.name", "absorbing"], "absorbing"),
    (["digits", "--objective.name", "min_snr"], "unknown", "Did you mean 'min-snr'?"),
    (["digits", "--device", "nowhere"], "device 'nowhere' cannot be used"),
    (["digits", "--resume"], "no checkpoint to resume from"),
]


@pytest.mark.parametrize(
    ("words", "phrases"), [(row[0], row[1:]) for row in TRAIN], ids=[" ".join(r[0]) for r in TRAIN]
)
def test_train(langevin: Run, tmp_path: Path, words: list[str], phrases: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    refused(langevin("train", *words, "--out", out), "train", *phrases)
    assert not out.exists()


def test_train_on_folders_that_hold_no_picture(langevin: Run, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    refused(langevin("train", photos, "--size", 8, "--out", out), "train", str(photos), "holds no file")
    (photos / "a.png").write_bytes(b"no picture")
    refused(langevin("train", photos, "--size", 8, "--out", out), "train", str(photos), "no readable image", "a.png")
    assert not out.exists()


def test_train_on_arrays_that_cannot_be_learned(langevin: Run, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 40 * 64, dtype=np.float32).reshape(40, 1, 8, 8)
    out, file = tmp_path / "run", tmp_path / "data.npz"
    np.savez(file, x=np.where(np.arange(8) == 3, np.nan, x))
    refused(langevin("train", file, "--out", out), "train", str(file), "no finite")
    np.savez(file, x=x, label=np.full(40, -1))
    refused(langevin("train", file, "--out", out), "train", str(file), "labels")
    file.write_bytes(file.read_bytes()[:200])
    refused(langevin("train", file, "--out", out), "train", str(file))
    assert not out.exists()


def test_train_where_a_run_is_already(langevin: Run, model: Path) -> None:
    before = sorted(model.rglob("*"))
    refused(langevin("train", "digits", "--out", model), "train", "already holds a run", "--resume")
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize("command", ["train", "sample", "demo"])
def test_a_file_in_the_place_of_a_directory(langevin: Run, model: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    what = {"train": ["digits"], "sample": [model], "demo": []}[command]
    refused(langevin(command, *what, "--out", file), command, "out must be a directory", str(file))
    refused(langevin(command, *what, "--out", file / "below"), command, "out cannot be", f"{file} is a file")
    assert file.read_text() == "mine"


def test_a_directory_that_may_not_be_written_to(langevin: Run, model: Path, tmp_path: Path, monkeypatch) -> None:
    # Root may write anywhere: what the system answers to others is put in its mouth.
    monkeypatch.setattr("langevin.cli.options.os.access", lambda path, mode: False)
    refused(langevin("sample", model, "--out", tmp_path / "out"), "sample", "may not be written to", str(tmp_path))
    refused(langevin("evaluate", model, "--out", tmp_path / "x.json"), "evaluate", "may not be written to")


SAMPLE = [
    (["--sampler", "dpmpp2m"], "unknown sampler 'dpmpp2m'", "Did you mean 'dpmpp-2m'?", "methods --category samplers"),
    (["--sampler", "ddim", "--sampler-options", "eta", "2"], "eta must lie in [0, 1] or be 'hat', got 2"),
    (
        ["--sampler", "ddim", "--sampler-options", "etaa", "1"],
        "'ddim' has no option 'etaa'. Did you mean 'eta'?",
        "eta",
    ),
    (["--sampler", "ddim", "--sampler-options", "eta", "[1]"], "eta must lie in [0, 1] or be 'hat', got [1]"),
    (["--sampler", "multistep", "--sampler-options", "oder", "2"], "no option 'oder'. Did you mean 'order'?"),
    (["--sampler-options", "eta", "1"], "settings of a named sampler"),
    (["--grid", "karas"], "unknown grid 'karas'", "Did you mean 'karras'?"),
    (["--grid", "leading"], "grid 'leading' is a sub-sequence of a table, which EDM is not"),
    (["--process", "ddpn"], "unknown process 'ddpn'", "Did you mean 'ddpm'?"),
    (["--process", "gamma"], "process", "αx_0 + σε"),
    (["--steps", "0"], "steps must be an integer of at least 1, got 0"),
    (["-n", "0"], "n must be an integer of at least 1, got 0"),
    (["-n", "-4"], "n must be an integer of at least 1, got -4"),
    (["-n", "many"], "'many'"),
    (["--batch", "0"], "batch must be an integer of at least 1, got 0"),
    (["--seed", "-1"], "seed must be an integer in [0, 2**64), got -1"),
    (["--label", "10"], "label must lie in [0, 10), got 10"),
    (["--label", "-1"], "label must lie in [0, 10), got -1"),
    (["--label", "three"], "unknown label 'three'"),
    (["--guidance-scale", "inf"], "guidance-scale must be a finite number"),
    (["--guidence-scale", "2"], "unknown option '--guidence-scale'", "Did you mean '--guidance-scale'?"),
    (["--device", "nowhere"], "device 'nowhere' cannot be used"),
]


@pytest.mark.parametrize(
    ("words", "phrases"), [(row[0], row[1:]) for row in SAMPLE], ids=[" ".join(r[0]) for r in SAMPLE]
)
def test_sample(langevin: Run, model: Path, tmp_path: Path, words: list[str], phrases: tuple[str, ...]) -> None:
    out = tmp_path / "samples"
    refused(langevin("sample", model, *words, "--out", out), "sample", *phrases)
    assert not out.exists()


@pytest.mark.parametrize("command", ["sample", "evaluate", "info"])
def test_directories_that_hold_no_whole_model(langevin: Run, model: Path, tmp_path: Path, command: str) -> None:
    refused(langevin(command, tmp_path / "nothing"), command, "no model directory", "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights, config = broken / "model.safetensors", broken / "config.json"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(langevin(command, broken), command, str(weights), "truncated")
    weights.unlink()
    refused(langevin(command, broken), command, f"{weights} is missing")
    config.write_text(json.dumps({**json.loads(config.read_text()), "langevin": 99}))
    refused(langevin(command, broken), command, str(config), "format 99 is unknown")
    config.unlink()
    refused(langevin(command, broken), command, f"{broken} is no model directory: it holds no config.json")


def test_guidance_of_a_model_that_never_learned_without_labels(langevin: Run, model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(model, kept)
    config = json.loads((kept / "config.json").read_text())
    config["training"]["config"]["objective"]["dropout"] = {"label": 0}
    (kept / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    refused(langevin("sample", kept, "--guidance-scale", 2, "--out", out), "sample", "objective.dropout label 0")
    assert langevin("sample", kept, "-n", 2, "--steps", 1, "--out", out).code == 0


EVALUATE = [
    (["-n", "4"], "n must be at least 8 to be measured, got 4"),
    (["-n", "0"], "n must be an integer of at least 1, got 0"),
    (["--steps", "0"], "steps must be an integer of at least 1, got 0"),
    (["--features", "pixel"], "unknown features 'pixel'", "Did you mean 'pixels'?"),
    (["--data", "digts"], "unknown data 'digts'", "Did you mean 'digits'?"),
    (["--data", "moons"], "data must have shape (1, 8, 8) as the model has, got (2,)"),
    (["--samples", "nothing.npz"], "nothing.npz is not a readable NumPy file"),
    (["--samples", "x.npz", "-n", "9", "--steps", "4", "--label", "3"], "leave out --n, --label, --steps"),
]


@pytest.mark.parametrize(
    ("words", "phrases"), [(row[0], row[1:]) for row in EVALUATE], ids=[" ".join(r[0]) for r in EVALUATE]
)
def test_evaluate(langevin: Run, model: Path, tmp_path: Path, words: list[str], phrases: tuple[str, ...]) -> None:
    out = tmp_path / "found.json"
    refused(langevin("evaluate", model, *words, "--out", out), "evaluate", *phrases)
    assert not out.exists()


def test_evaluate_files_that_hold_no_samples(langevin: Run, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.npz"
    good = np.zeros((20, 1, 8, 8), np.float32)
    bad = {
        "needs an array 'x'": {"y": good},
        "x must be floats": {"x": good.astype(np.uint8)},
        "samples must have the data's shape, (N, 1, 8, 8)": {"x": good[:, :, :4]},
        "values that are no finite float32": {"x": np.full_like(good, np.nan)},
        "label must be 20 integers, one a sample, got float64": {"x": good, "label": np.zeros(20)},
        "label must be 20 integers, one a sample, got int64 (7,)": {"x": good, "label": np.zeros(7, np.int64)},
        "labels must lie in [0, 10), got [12]": {"x": good, "label": np.full(20, 12)},
        "never read": {"x": np.array([object()] * 20)},
    }
    for phrase, arrays in bad.items():
        np.savez(file, **arrays)
        refused(langevin("evaluate", model, "--samples", file), "evaluate", phrase)
    file.write_bytes(b"PK\x03\x04 cut off")
    refused(langevin("evaluate", model, "--samples", file), "evaluate", "cannot be read")


def test_evaluate_when_the_data_have_gone(langevin: Run, model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["source"] = {"source": str(tmp_path / "photos"), "size": 8}
    (moved / "config.json").write_text(json.dumps(config))
    refused(langevin("evaluate", moved), "evaluate", "this model was trained on", "photos", "--data")


def test_evaluate_and_calibrate_fetch_no_data_that_only_the_model_names(
    langevin: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory may be anybody's: its data on the Hub are fetched once the caller has named them."""
    fetched = []
    monkeypatch.setattr("langevin.data.hub._splits", lambda name, _: fetched.append(name) or _gone(name))
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["source"] = {"source": "hf:somebody/tracked"}
    (moved / "config.json").write_text(json.dumps(config))
    said = ("hf:somebody/tracked, are on the Hub", "only if asked for")
    refused(langevin("evaluate", moved), "evaluate", *said, "name them with --data hf:somebody/tracked")
    refused(langevin("calibrate", moved), "calibrate", *said, "name them with hf:somebody/tracked as DATA")
    assert fetched == []
    refused(langevin("evaluate", moved, "--data", "hf:somebody/tracked"), "evaluate", "gone")
    assert fetched == ["somebody/tracked"]


def _gone(name: str) -> None:
    raise UserError(f"{name} is gone")


def test_names_in_a_model_directory_move_no_cursor(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Class names, the name of the data and the record of training are whoever made the directory's."""
    foreign = tmp_path / "foreign"
    shutil.copytree(model, foreign)
    config = json.loads((foreign / "config.json").read_text())
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\nmodel  mine"
    config["data"]["name"] += evil
    config["data"]["classes"][0] += evil
    config["training"]["note"] = evil
    (foreign / "config.json").write_text(json.dumps(config))
    said = langevin("info", foreign)
    assert said.code == 0
    assert all(c.isprintable() for c in said.out.replace("\n", ""))
    assert [line.split()[0] for line in said.out.splitlines()].count("model") == 1
    said = langevin("info", foreign, "--json")
    assert all(c.isprintable() for c in said.out.replace("\n", ""))
    assert json.loads(said.out)["training"]["note"] == evil
    out = tmp_path / "out"
    for words in (
        ["sample", foreign, "-n", 8, "--steps", 1, "--out", out],
        ["evaluate", foreign, "-n", 8, "--steps", 1],
    ):
        said = langevin(*words)
        assert all(c.isprintable() for c in (said.out + said.err).replace("\n", "")), said


def test_methods_and_info(langevin: Run) -> None:
    refused(
        langevin("methods", "--category", "sampler"),
        "methods",
        "unknown category 'sampler'",
        "Did you mean 'samplers'?",
    )


DEMO = [
    (["--steps", "5", "--minutes", "1"], "steps or minutes, not both"),
    (["--steps", "0"], "steps must be an integer of at least 1, got 0"),
    (["--minutes", "-1"], "minutes must be a number > 0, got -1"),
    (["--samples", "50"], "samples must be at least 100, got 50"),
    (["--quick", "--steps", "9"], "quick has a budget of its own"),
    (["--seed", "-2"], "seed must be an integer in [0, 2**64), got -2"),
]


@pytest.mark.parametrize(("words", "phrases"), [(row[0], row[1:]) for row in DEMO], ids=[" ".join(r[0]) for r in DEMO])
def test_demo(langevin: Run, tmp_path: Path, words: list[str], phrases: tuple[str, ...]) -> None:
    out = tmp_path / "demo"
    refused(langevin("demo", *words, "--out", out), "demo", *phrases)
    assert not out.exists()
