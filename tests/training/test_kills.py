"""Files under fire: killed writers, lost power, disks that refuse. ``kills.py`` does it; here stand the figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import faults
import kills
import pytest
from power import Disk
from scenarios import model, tree

from langevin import UserError, models, training
from langevin.storage import files
from langevin.training import checkpoint
from tiny_runs import points, tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and signals")


def test_nothing_breaks_at_a_share_of_all_calls(tmp_path: Path) -> None:
    """A share of the calls that write, in three ways; of refusals; of power cuts, where there is a C compiler."""
    found = kills.run()
    assert found["wrong"] == []
    assert found["tried"]["kills"] >= 60
    assert found["tried"]["refusals"] >= 12
    if faults.compiled(tmp_path):
        assert found["shim"] == "Library"
        assert found["tried"]["power cuts"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["every call of the C library", "every call of os"])
def test_nothing_breaks_at_any_call(plain: bool) -> None:
    found = kills.run(long=True, plain=plain)
    assert found["wrong"] == []
    assert found["tried"]["kills"] >= 1000


def test_a_power_cut_is_modelled(tmp_path: Path) -> None:
    """What was not flushed is gone: a rename that reached the disk before the bytes leaves an empty file."""
    (tmp_path / "a").write_bytes(b"old")
    disk = Disk(tmp_path, {"a": b"old"})
    beside, path = str(tmp_path / "b"), str(tmp_path / "a")
    disk.call("create", beside, "", "0")
    disk.call("write", beside, b"new".hex(), "0")
    disk.call("rename", beside, path, "0")
    for names, left in ((True, b""), (False, b"old")):
        disk.lay_out(tmp_path / "after", names=names)
        assert tree(tmp_path / "after") == {"a": left}


# What is damaged, not torn.


def flip(path: Path) -> None:
    content = path.read_bytes()
    at = content.rindex(b"8") if path.suffix == ".json" else len(content) - 9
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_an_error_that_names_the_way_on(tmp_path: Path, name: str) -> None:
    """One bit is enough. It is never passed over: steps that were paid for are not lost without a word."""
    training.train(tiny(), points(), tmp_path, quiet=True)
    early, late = training.checkpoints(tmp_path)
    flip(late / name)
    with pytest.raises(UserError, match=rf"step-0000012/{name} is damaged: .*remove .*12 to go on from step-0000008\)"):
        training.train(tiny(), points(), tmp_path, resume=True, quiet=True)
    files.remove(late)
    flip(early / name)
    with pytest.raises(UserError, match=rf"step-0000008/{name} is damaged: .*there is none before it"):
        training.train(tiny(), points(), tmp_path, resume=True, quiet=True)


def test_the_manifest_is_held_to(tmp_path: Path) -> None:
    training.train(tiny(4), points(), tmp_path, quiet=True)
    (path,) = training.checkpoints(tmp_path)
    held = json.loads((path / "manifest.json").read_text())["files"]
    more = {**held, "x": held["state.json"]}
    for listed, said in (({}, " lacks ema"), (more, ": files must be of ema"), ([], ": files must give")):
        (path / "manifest.json").write_text(json.dumps({"langevin": 1, "kind": "manifest", "files": listed}))
        with pytest.raises(UserError, match=rf"manifest.json{said}"):
            checkpoint.read_state(path)
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest.json is missing"):
        checkpoint.read_state(path)


def test_a_model_read_while_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader between two renames of a run finds the old model whole, or the new one: it looks again."""
    models.save(model(4), tmp_path)
    new = model(8)
    read, seen = files.read_safetensors, []

    def meanwhile(path: Path) -> Any:
        if not seen:  # config.json was read; then a run saves
            seen.append(path)
            models.save(new, tmp_path)
        return read(path)

    monkeypatch.setattr(files, "read_safetensors", meanwhile)
    assert models.load(tmp_path).config["steps"] == 8


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    """What a live process is writing is not swept away; what a dead one left is."""
    with files.directory(tmp_path / "a") as unfinished:
        files.replace(tmp_path / "b", b"1")
        assert unfinished.is_dir()
        files.write(unfinished / "x", b"1")
    dead = tmp_path / f"{files.TEMPORARY}123-x"
    dead.write_bytes(b"half")
    files.replace(tmp_path / "b", b"2")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ordered by the clock: not checkpoints, not what is kept of them, not the budget."""
    import time

    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: next(now))
    training.train(tiny(4), points(), tmp_path / "a", quiet=True)
    training.train(tiny(8), points(), tmp_path / "b", quiet=True)
    for k, path in enumerate(training.checkpoints(tmp_path / "b")):
        os.utime(path, (10**9 - 10**6 * k,) * 2)
    training.train(tiny(12), points(), tmp_path / "a", resume=True, quiet=True)
    training.train(tiny(12), points(), tmp_path / "b", resume=True, quiet=True)
    for out in "ab":
        assert [p.name for p in training.checkpoints(tmp_path / out)] == ["step-0000008", "step-0000012"]
    monkeypatch.undo()
    before = time.monotonic()
    budget = training.BudgetConfig(minutes=0.01)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    training.train(tiny(budget=budget), points(), tmp_path / "c", quiet=True)
    assert 0.6 <= time.monotonic() - before < 6
