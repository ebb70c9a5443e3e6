"""Models by name: which directory a name is, what is said where there is none, and weights kept in half precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_model_parts import cascade, latent

import langevin
from conditioned import conditions, saved, untrained
from langevin import models, samplers
from langevin._errors import UserError
from langevin.generate import model_digest
from langevin.models import location, shipped
from langevin.storage import files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with ``first`` in it, and an empty folder to work in."""
    saved(tmp_path / "shelf" / "first")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv(shipped.VARIABLE, str(tmp_path / "shelf"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "shelf"


def test_a_name_is_a_model(folder: Path) -> None:
    """Wherever a path becomes a model: the loaders, the checksum of shards, the parts of others."""
    assert (shipped.names(), shipped.find("first")) == (["first"], folder / "first")
    assert location.find("first") == location.here("first") == folder / "first"
    assert langevin.load("first", device="cpu").shape == models.load("first", device="cpu").shape == (1, 8, 8)
    assert langevin.Pipeline.from_pretrained("first", device="cpu").model.shape == (1, 8, 8)
    assert model_digest("first") == model_digest(folder / "first")
    (folder / "notes").mkdir()
    (folder / "Second").mkdir()
    assert shipped.names() == ["first"]


def test_a_directory_of_that_name_comes_first(folder: Path) -> None:
    own = untrained(("label",))
    models.save(own, Path("first"))
    assert langevin.load("first", device="cpu").conditions() == ("label",)
    assert langevin.load(folder / "first", device="cpu").conditions() != ("label",)
    Path("second").write_text("a file")
    with pytest.raises(UserError, match="got the file second"):
        langevin.load("second")


def test_what_is_said_where_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no model directory 'frist'. Did you mean 'first'\? Models by name: first\.$"):
        langevin.load("frist")
    with pytest.raises(UserError, match=r"unknown model 'frist'. Did you mean 'first'\?"):
        shipped.described("frist")
    with pytest.raises(UserError, match="revision is of a repository of the Hub, got 'main'"):
        langevin.load("first@main")
    monkeypatch.setenv(shipped.VARIABLE, str(Path.cwd()))
    with pytest.raises(UserError, match=r"unknown model 'first': .*work holds no model$"):
        shipped.described("first")
    monkeypatch.setenv(shipped.VARIABLE, str(folder / "nowhere"))
    with pytest.raises(UserError, match=r"LANGEVIN_MODELS must be a directory of models, got '.*nowhere'"):
        langevin.load("first")


def test_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing beside it is taken for the repository's models, and the message says where these are."""
    place = tmp_path / "lib" / "python3" / "site-packages" / "langevin" / "models" / "shipped.py"
    place.parent.mkdir(parents=True)
    saved(tmp_path / "lib" / "models" / "first")
    saved(tmp_path / "lib" / "python3" / "models" / "first")
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    monkeypatch.chdir(place.parent)
    assert shipped.root() in (ROOT / "models", None)
    monkeypatch.setattr(shipped, "__file__", str(place))
    assert (shipped.root(), shipped.names(), shipped.find("first")) == (None, [], None)
    with pytest.raises(UserError, match=r"lie in a checkout of its repository.*LANGEVIN_MODELS=DIR"):
        langevin.load("first")
    with pytest.raises(UserError, match="LANGEVIN_MODELS=DIR"):
        shipped.described("first")


INDEX: dict[str, Any] = shipped.index(
    title="One", figure="", parameters=1, trained={"steps": 3}, stored={"weights": "float16"}, files={}
)
DAMAGED: dict[str, tuple[Any, str]] = {
    "no object": ([], "must hold a JSON object"),
    "another version": ({**INDEX, "langevin": 9}, "not an index this version"),
    "a key that is missing": ({k: v for k, v in INDEX.items() if k != "title"}, "lacks title"),
    "text for a number": ({**INDEX, "parameters": "many"}, "parameters"),
    "a file outside": ({**INDEX, "files": {"../x": {"bytes": 1, "sha256": "0"}}}, "files must be of"),
    "no list of files": ({**INDEX, "files": 3}, "must give bytes and sha256"),
    "nothing for files": ({**INDEX, "files": None}, "must give bytes and sha256"),
    "a file of its own": ({**INDEX, "files": {"config.json": 1}}, "must give bytes and sha256"),
}


@pytest.mark.parametrize(("value", "words"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_index_is_named(folder: Path, value: Any, words: str) -> None:
    assert shipped.described("first").title == ""
    (folder / "first" / shipped.INDEX).write_text(json.dumps(value))
    with pytest.raises(UserError, match=words) as told:
        shipped.described("first")
    assert str(folder / "first") in str(told.value)


KINDS: dict[str, Callable[[], Any]] = {"a network": untrained, "a latent": latent, "a cascade": cascade}


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, made: Callable[[], Any], stored: torch.dtype) -> None:
    """Weights are rounded once and loaded to float32: those of the file are half, those of the model their values.

    The file of weights has half of the bytes, but for its header, and samples are those of the network whose weights
    were rounded by hand, to the bit; by DDIM, which reads no moments of the data, since these are rounded too.
    """
    model = made()
    models.save(model, tmp_path / "half", weights=stored)
    models.save(model, tmp_path / "whole")
    kept = {file.relative_to(tmp_path / "half"): load_file(file) for file in tmp_path.glob("half/**/model.safetensors")}
    assert all(v.dtype == stored for tensors in kept.values() for v in tensors.values())
    for name in kept:
        size, whole = ((tmp_path / way / name).stat().st_size for way in ("half", "whole"))
        header = int.from_bytes((tmp_path / "half" / name).read_bytes()[:8], "little")
        assert size - header < 0.51 * whole
    loaded = models.load(tmp_path / "half", device="cpu")
    parts = loaded.parts if hasattr(loaded, "parts") else {"": loaded}
    for name, part in parts.items():
        own = (model.parts if name else {"": model})[name].network.state_dict()
        for key, value in part.network.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, own[key].to(stored).float(), rtol=0, atol=0)
            own[key].copy_(value)  # the model itself is rounded by hand
    given = conditions(4) if made is untrained else {"label": torch.arange(4)}
    draw = lambda model: langevin.sample(model.given(given), samplers.DDIM(), n=4, steps=3, seed=1)
    torch.testing.assert_close(draw(loaded), draw(model), rtol=0, atol=0)


def test_what_half_precision_cannot_keep(tmp_path: Path) -> None:
    model = untrained()
    with torch.no_grad():
        next(model.network.parameters()).flatten()[0] = 1e5  # float16 ends at 65,504
    with pytest.raises(UserError, match=r"has a weight of 1e\+05, which torch.float16 does not hold"):
        models.save(model, tmp_path / "model", weights=torch.float16)
    models.save(model, tmp_path / "model", weights=torch.bfloat16)
    with pytest.raises(UserError, match=r"weights must be torch.float32, torch.float16 or torch.bfloat16"):
        models.save(model, tmp_path / "model", weights=torch.float64)


def test_other_types_are_still_refused(tmp_path: Path) -> None:
    """Whole numbers or float64 in the place of weights are of another network."""
    saved(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    held = load_file(file)
    first = min(held)
    for dtype in (torch.float64, torch.int16):
        save_file({**held, first: held[first].to(dtype)}, file)
        with pytest.raises(UserError, match="the configuration says"):
            models.load(tmp_path / "model")


def shipped_here() -> list[str]:
    return sorted(p.name for p in (ROOT / "models").iterdir() if p.is_dir())


def test_the_repository_holds_few_bytes_of_models() -> None:
    """At most 20 MB of all files together: everybody who clones the repository fetches them."""
    held = [file.stat().st_size for file in (ROOT / "models").rglob("*") if file.is_file()]
    assert sum(held) <= shipped.MOST == 20_000_000


def test_every_shipped_model_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has an index, of all of its files; it is loaded, and its card names it."""
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    if shipped.root() != ROOT / "models":
        pytest.skip("the package that is tested is not that of the checkout")
    assert shipped.names() == shipped_here()
    for name in shipped.names():
        found = shipped.described(name)
        found.check()
        held = {p.relative_to(found.folder).as_posix() for p in found.folder.rglob("*") if p.is_file()}
        assert held - {files.LOCK} == {*found.held, shipped.INDEX}
        assert found.title
        assert f"# {name}\n" in (found.folder / shipped.CARD).read_text(encoding="utf-8")
        assert langevin.load(name, device="cpu").output is not None
