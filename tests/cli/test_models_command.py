"""``langevin models``: a run becomes a model by name, which every command takes, and which trains again to the byte."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import Run

from langevin import models
from langevin.cli import main
from langevin.cli.entry import COMMANDS
from langevin.models import shipped

TITLE = "Digits of 8x8 pixels"


@pytest.fixture(scope="module")
def shelf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with ``digits-8`` in it, of the tiny run."""
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(shipped.VARIABLE, str(folder))
        words = ["add", str(model), "digits-8", "--title", TITLE, "--figure", "none", "--steps", "2", "-n", "12"]
        assert main(["models", *words]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shipped.VARIABLE, str(shelf))
    monkeypatch.chdir(tmp_path)


def test_a_run_is_added(model: Path, shelf: Path) -> None:
    """Half of the bytes, and everything that is said of it; what only the run needs stays with the run."""
    folder = shelf / "digits-8"
    found = shipped.described("digits-8")
    found.check()
    assert {p.name for p in folder.iterdir()} == {*found.held, "index.json"}
    assert not {"checkpoints", "pictures", "clock.json"} & {p.name for p in folder.iterdir()}
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (model / "model.safetensors").stat().st_size
    assert found.title == TITLE
    assert found.trained["steps"] == 3
    assert found.trained["seconds"] > 0
    assert 0 < found.stored["moved"] < 1 / 255
    assert Image.open(folder / "samples.png").width > 100
    assert str(model) not in "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))


def test_its_command_trains_it_again(model: Path, langevin: Run) -> None:
    """Every choice that was made for the data is said in words: the same files to the byte, configuration included."""
    recipe = json.loads((shipped.described("digits-8").folder / "recipe.json").read_text())
    program, *words = shlex.split(recipe["commands"][""])
    assert program == "langevin"
    assert langevin(*words).code == 0
    for name in ("model.safetensors", "data.safetensors", "config.json", "metrics.csv"):
        assert (Path("runs/digits-8") / name).read_bytes() == (model / name).read_bytes(), name


def test_list_show_and_path(shelf: Path, langevin: Run) -> None:
    said = langevin("models")
    assert said.code == 0
    assert "digits-8" in said.out
    assert "0.05 M" in said.out
    assert "3 steps" in said.out
    (row,) = json.loads(langevin("models", "list", "--json").out)
    assert (row["name"], row["title"]) == ("digits-8", TITLE)
    assert row["bytes"] == sum(p.stat().st_size for p in (shelf / "digits-8").iterdir())
    shown = langevin("models", "show", "digits-8")
    assert f"# digits-8\n\n{TITLE}" in shown.out
    assert "files as they were written" in shown.out
    assert langevin("models", "path", "digits-8").out == f"{shelf / 'digits-8'}\n"


def test_a_changed_file_is_named(shelf: Path, langevin: Run) -> None:
    file = shelf / "digits-8" / "metrics.csv"
    held = file.read_bytes()
    file.write_bytes(held.replace(b"1", b"2"))
    try:
        said = langevin("models", "show", "digits-8")
    finally:
        file.write_bytes(held)
    assert said.code == 2
    assert f"{file} is damaged" in said.err


OF_A_MODEL = [
    "anomaly in.png --model",
    "calibrate",
    "cascade NAME other --out out",
    "compare",
    "compress in.png --out out --model",
    "disco NAME encoder cat --out out",
    "edit in.png --model",
    "evaluate",
    "export --out out",
    "guide",
    "info",
    "likelihood NAME in.npy",
    "play --no-browser",
    "publish --to me/digits",
    "purify in.png --model",
    "restore in.png --task blur=1 --model",
    "sample",
    "tune --steps 2",
]
"""Every command that takes a model directory, with what else it must be given; NAME is the model's, or stands last."""


@pytest.mark.parametrize("words", OF_A_MODEL, ids=[words.split()[0] for words in OF_A_MODEL])
def test_every_command_looks_for_the_name(langevin: Run, words: str) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("in.png")
    asked = words.split() if "NAME" in words else [*words.split(), "NAME"]
    said = langevin(*("digits-9" if word == "NAME" else word for word in asked))
    assert said.code == 2
    assert "no model directory 'digits-9'. Did you mean 'digits-8'? Models by name: digits-8." in said.err


def test_every_command_is_in_the_list() -> None:
    """Those that take a path to a model say so in their help; the others have none or another kind."""
    others = {"audit", "completion", "convert", "data", "decompress", "demo", "league", "methods", "models", "replay"}
    assert {words.split()[0] for words in OF_A_MODEL} == set(COMMANDS) - others - {"train"}


def test_commands_take_the_name(langevin: Run) -> None:
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("in.png")
    for words in (
        "sample digits-8 -n 2 --steps 1 --out s",
        "guide digits-8 --label 3 --scale 2 -n 2 --steps 1 --out g",
        "restore in.png --model digits-8 --task blur=1 --steps 2 --out r",
        "edit in.png --model digits-8 --strength 0.5 --label 3 --steps 2 --out e",
        "publish digits-8 --to me/digits --out p",
        "info digits-8",
    ):
        said = langevin(*words.split())
        assert said.code == 0, (words, said.err)
    drawn = np.load("s/samples.npz")["x"]
    assert langevin("sample", shipped.described("digits-8").folder, "-n", 2, "--steps", 1, "--out", "t").code == 0
    np.testing.assert_array_equal(np.load("t/samples.npz")["x"], drawn)


REFUSED = {
    "show": "NAME must be given to `langevin models show`",
    "digits-8": "`langevin models show digits-8` prints the card",
    "shew digits-8": "unknown action 'shew'. Did you mean 'show'? Known: add, list, path, show.",
    "show digit-8": "unknown model 'digit-8'. Did you mean 'digits-8'? Known: digits-8.",
    "list digits-8": "list takes no NAME, got 'digits-8'",
    "path digits-8 more": "path takes one NAME, got 'more' too",
    "add nowhere new --title T": "add takes the directory of a finished run or a model, got 'nowhere'",
    "add digits-8": "add takes the directory of a run and a NAME",
    "add digits-8 New --title T": "name must be lower-case letters",
    "add digits-8 new": "title must say what the model does",
    "add digits-8 new --title T -n 0": "n must be an integer of at least 1, got 0",
}


@pytest.mark.parametrize("words", ["tune NAME --steps 2", "calibrate NAME"])
def test_what_writes_into_a_model_wants_a_copy(shelf: Path, langevin: Run, words: str) -> None:
    """By its name or by its path; a copy elsewhere is one's own, and so is a directory without an index."""
    held = sorted(path.name for path in (shelf / "digits-8").iterdir())
    for name in ("digits-8", str(shelf / "digits-8")):
        said = langevin(*words.replace("NAME", name).split())
        assert said.code == 2
        assert "model 'digits-8' comes with langevin" in said.err
        assert "copy the directory" in said.err
    assert sorted(path.name for path in (shelf / "digits-8").iterdir()) == held
    shutil.copytree(shelf / "digits-8", "own")
    assert shipped.check_own(Path("own")) == Path("own")
    shutil.copytree(shelf / "digits-8", shelf / "no-index", ignore=shutil.ignore_patterns("index.json"))
    assert shipped.check_own(shelf / "no-index")
    shutil.rmtree(shelf / "no-index")


def test_evaluate_writes_into_the_working_folder(langevin: Run) -> None:
    """Of a model by name, whose directory has an index."""
    assert langevin("evaluate", "digits-8", "-n", 16, "--steps", 1, "--features", "pixels").code == 0
    assert json.loads(Path("evaluation.json").read_text())["model"] == "digits-8"
    shipped.described("digits-8").check()


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_refused(langevin: Run, words: str, message: str) -> None:
    said = langevin("models", *words.split())
    assert said.code == 2
    assert message in said.err


def test_adding_is_bounded_and_spares_what_is_there(
    shelf: Path, langevin: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All models together have a limit, what somebody else wrote is not overwritten, and an old index's files go."""
    monkeypatch.setenv(shipped.VARIABLE, str(tmp_path))
    source = shelf / "digits-8"
    add = lambda: langevin("models", "add", source, "again", "--title", "T", "--steps", 1, "-n", 2)
    (tmp_path / "again").mkdir()
    assert "is there and was not written by `langevin models add`" in add().err
    (tmp_path / "again").rmdir()
    (tmp_path / "solver").mkdir()
    assert add().code == 0
    index = json.loads((tmp_path / "again" / "index.json").read_text())
    (tmp_path / "again" / "old.csv").write_text("")
    index["files"]["old.csv"] = {"bytes": 0, "sha256": ""}
    (tmp_path / "again" / "index.json").write_text(json.dumps(index))
    assert add().code == 0
    assert not (tmp_path / "again" / "old.csv").exists()
    assert models.load("again", device="cpu").shape == (1, 8, 8)
    monkeypatch.setattr(shipped, "MOST", 10_000)
    assert "is more than the 0.01 MB that models of the repository may have together" in add().err


def test_a_latent_model_is_added_with_its_parts(langevin: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both parts in half precision, a command for each, the log and the time of the run."""
    small = ["--steps", "2", "--batch", "8", "--output.validate-on", "8", "--output.sample-every", "0"]
    vae = ["--network.name", "vae", "--network.options", "width", "8", "blocks", "1", "latent", "2"]
    assert langevin("train", "digits", "--limit", 40, "--out", "codec", *small, *vae).code == 0
    unet = ["--network.options", "width", "8", "multipliers", "[1]", "attention", "[]"]
    latent = langevin("train", "digits", "--limit", 40, "--codec", "codec", "--out", "latent", *small, *unet)
    assert latent.code == 0, latent.err
    monkeypatch.setenv(shipped.VARIABLE, str(tmp_path))
    said = langevin("models", "add", "latent", "latent-8", "--title", TITLE, "--steps", 2, "-n", 4)
    assert said.code == 0, said.err
    found = shipped.described("latent-8")
    found.check()
    assert {"denoiser/model.safetensors", "codec/model.safetensors", "metrics.csv", "samples.png"} <= set(found.held)
    assert found.trained["seconds"] > 0
    recipe = json.loads((found.folder / "recipe.json").read_text())
    assert "--codec runs/latent-8/codec" in recipe["commands"]["denoiser"]
    assert "--network.name vae" in recipe["commands"]["codec"]
    assert found.stored["weights"] in ("float16", "bfloat16")
    assert langevin("sample", "latent-8", "-n", 2, "--steps", 1, "--out", "s").code == 0


def test_without_a_checkout(langevin: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shipped.VARIABLE)
    monkeypatch.setattr(shipped, "__file__", "/a/b/site-packages/langevin/models/shipped.py")
    assert "LANGEVIN_MODELS=DIR names the folder" in langevin("models").out
    assert "LANGEVIN_MODELS=DIR names the folder" in langevin("models", "add", "x", "y").err
