"""The model directory: what is written is read back, and every way it can be damaged is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import langevin.nn
from langevin import models, processes
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.storage import files
from tiny_runs import points


def made(data: object = None) -> NetworkDenoiser:
    torch.manual_seed(0)
    network = langevin.nn.create_network(
        {"name": "mlp", "channels": 2, "width": 8, "depth": 1, "conditions": {"label": 3}}
    )
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    config = {"steps": 7, "note": "größer"}
    return NetworkDenoiser(
        network, processes.VP(0.2, 18.0), AffineParameterization("v", 0.7), (2,), data=data, config=config
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.save(made(points().info), tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(folder: Path) -> None:
    denoiser, loaded = made(points().info), models.load(folder, device="cpu")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "data.safetensors"}
    assert (loaded.process, loaded.parameterization, loaded.shape) == (
        denoiser.process,
        denoiser.parameterization,
        denoiser.shape,
    )
    assert loaded.data == denoiser.data
    assert loaded.config == denoiser.config
    assert not loaded.network.training
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    assert torch.equal(loaded.given(label=1)(x, t).mean, denoiser.given(label=1)(x, t).mean)


@pytest.mark.parametrize("process", [processes.DDPM(), processes.EDM(), processes.RectifiedFlow(), processes.Cosine()])
def test_processes_round_trip(process: processes.ScalarGaussian, tmp_path: Path) -> None:
    denoiser = NetworkDenoiser(made().network, process, AffineParameterization("x0"), (2,), config={})
    models.save(denoiser, tmp_path)
    assert models.load(tmp_path).process == process
    assert not (tmp_path / "data.safetensors").exists()


def test_foreign_network_is_refused(tmp_path: Path) -> None:
    denoiser = NetworkDenoiser(torch.nn.Linear(2, 2), processes.VP(), AffineParameterization("x0"), (2,))
    with pytest.raises(UserError, match=r"only networks made by langevin.nn can be saved, got Linear"):
        models.save(denoiser, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_directories_of_diffusers_are_called_so(tmp_path: Path) -> None:
    """A pipeline has its index at the top, a model its class in config.json; both say who reads them."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(UserError, match=r"is a pipeline of diffusers \(model_index.json\): langevin.load reads it"):
        models.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0"}))
    with pytest.raises(UserError, match=r"is a UNet2DModel of diffusers \(config.json\): langevin.load reads it"):
        models.load(tmp_path)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        edited(lambda c: c.pop("files"))(folder)  # which may be left out

    return edit


def flipped(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((c := (folder / name).read_bytes())[:-1] + bytes([c[-1] ^ 1]))


def cut(name: str, size: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no model directory: it holds no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no moments": (lambda f: (f / "data.safetensors").unlink(), "data.safetensors is missing"),
    "cut config": (cut("config.json", 40), "config.json cannot be read"),
    "cut weights": (cut("model.safetensors", 900), "model.safetensors is truncated"),
    "cut header": (cut("model.safetensors", 20), "model.safetensors is truncated"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors is truncated"),
    "cut moments": (cut("data.safetensors", 30), "data.safetensors is truncated"),
    "a pickle": (pickled, "no safetensors file"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json must hold a JSON object"),
    "version": (edited(lambda c: c.update(langevin=99)), "config.json: format 99 is unknown"),
    "no version": (edited(lambda c: c.pop("langevin")), "config.json: format None is unknown"),
    "kind": (edited(lambda c: c.update(kind="denoisr")), "kind 'denoisr' is unknown"),
    "kind of another": (edited(lambda c: c.update(kind="codec")), "config.json has unknown parameterization"),
    "unknown key": (edited(lambda c: c.update(extra=1)), "config.json has unknown extra"),
    "lacking key": (edited(lambda c: c.pop("process")), "config.json lacks process"),
    "type": (edited(lambda c: c.update(network=3)), "network must be a JSON dict"),
    "network": (edited(lambda c: c["network"].update(name="mpl")), "config.json: unknown network 'mpl'"),
    "option": (edited(lambda c: c["network"].update(widht=1)), "config.json: unknown option"),
    "huge": (edited(lambda c: c["network"].update(width=10**9)), "config.json: width"),
    "process": (edited(lambda c: c["process"].update(name="vq")), "config.json: unknown process 'vq'"),
    "setting": (edited(lambda c: c["process"].update(gamma=1)), "config.json: process 'vp'"),
    "parameterization": (
        edited(lambda c: c["parameterization"].update(prediction="w")),
        "config.json: unknown prediction 'w'",
    ),
    "parameterization key": (edited(lambda c: c["parameterization"].update(w=1)), "config.json has unknown w"),
    "variance": (edited(lambda c: c.update(variance="big")), "config.json: unknown variance 'big'"),
    "shape": (edited(lambda c: c.update(shape=[3])), "config.json: shape"),
    "data": (edited(lambda c: c["data"].update(colour=1)), "config.json: a data description"),
    "other data": (edited(lambda c: c["data"].update(shape=[1, 2])), "config.json: "),
    "lost tensor": (weights(lambda w: w.pop("stem.bias")), "missing: stem.bias"),
    "new tensor": (weights(lambda w: w.update(more=torch.zeros(1))), "unknown: more"),
    "wrong shape": (weights(lambda w: w.update({"stem.bias": torch.zeros(9)})), r"stem.bias is (9,) float32"),
    "wrong dtype": (weights(lambda w: w.update({"stem.bias": torch.zeros(8).double()})), "stem.bias is (8,) float64"),
    "one bit": (flipped("model.safetensors"), "model.safetensors is damaged: its SHA-256"),
    "one bit of the moments": (flipped("data.safetensors"), "data.safetensors is damaged: its SHA-256"),
    "no checksums": (
        edited(lambda c: c.update(files={"model.safetensors": {"bytes": "1"}})),
        "config.json: files must",
    ),
    "not finite": (weights(lambda w: w["stem.bias"].fill_(torch.nan)), "weights that are not finite"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(folder: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as error:
        models.load(folder)
    assert words in str(error.value)
    assert str(folder) in str(error.value)


def test_no_such_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(made(), tmp_path / "runs" / "digits")
    for path in ("runs/digtis", str(tmp_path / "runs" / "digtis")):  # never asks the Hub: runs/ is a folder here
        with pytest.raises(UserError, match=r"no model directory .*Did you mean '.*runs/digits'"):
            models.load(path)
    for path in ("digits", "./x/y", "a/b/c", "~/nowhere/at/all"):
        with pytest.raises(UserError, match="no model directory") as told:
            models.load(path)
        assert "Got:" not in str(told.value)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="/empty is no model directory: it holds no config"):
        models.load(".")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="got the file"):
        models.load("runs/digits/config.json")


def test_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is asked of the Hub for JSON and safetensors only; a refusal is one sentence."""
    import huggingface_hub

    asked: list[Any] = []

    def download(repo: str, **named: Any) -> str:
        asked.append((repo, named))
        if repo == "someone/else":
            raise OSError("offline\nsecond line")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models.load("someone/digits").shape == (2,)
    assert asked == [("someone/digits", {"revision": None, "allow_patterns": ["*.json", "*.safetensors"]})]
    with pytest.raises(UserError, match=r"no such model could be had from the Hub: offline$"):
        models.load("someone/else")


def test_writes_are_whole_or_not_at_all(tmp_path: Path) -> None:
    files.replace(tmp_path / "a", b"old")

    class Full(Exception):
        pass

    def fail(path: Path, content: bytes) -> dict[str, Any]:
        path.write_bytes(content[:2])
        raise Full

    plain, files.write = files.write, fail  # type: ignore[assignment]
    try:
        with pytest.raises(Full):
            files.replace(tmp_path / "a", b"newer")
    finally:
        files.write = plain
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]

    def fill(folder: Path) -> None:
        files.write(folder / "x", b"1")
        raise Full

    with pytest.raises(Full), files.directory(tmp_path / "d") as folder:
        fill(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    # What a killed process left behind is no obstacle.
    left = tmp_path / f"{files.TEMPORARY}1-d"
    left.mkdir()
    (left / "half").write_bytes(b"?")
    with files.directory(tmp_path / "d") as folder:
        files.write(folder / "x", b"1")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["x"]
    assert {p.name for p in tmp_path.iterdir()} == {"a", "d"}


def test_tensors_come_in_one_order(tmp_path: Path) -> None:
    """By name: processes that put spread tensors together must do so in one order, and safetensors' own is random."""
    names = [f"{k}" for k in range(20)]  # one of 20! orders by chance
    files.write(tmp_path / "t.safetensors", files.as_safetensors({name: torch.zeros(2) for name in names}))
    assert list(files.read_safetensors(tmp_path / "t.safetensors")) == sorted(names)
