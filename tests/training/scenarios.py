"""What the library writes, as scenarios to break, and what must be found afterwards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from langevin import data, models, training
from langevin.cli import sample
from langevin.storage import files
from langevin.tasks.compress import images
from langevin.training import checkpoint, snapshots
from langevin.training import logging as reports
from langevin.training.checkpoint import Progress
from langevin.training.learner import Learner
from tiny_runs import points, tiny

Tree = dict[str, bytes]
"""Contents by path."""


@functools.cache
def learner() -> tuple[Any, Any, Any]:
    """A learner of a thousand parameters, its configuration and its data."""
    info = points().info
    config = training.resolve_config(tiny(precision="float32"), info)
    config = replace(config, output=replace(config.output, checkpoint_every=1, keep=2))
    torch.manual_seed(0)
    denoiser, objective = training.build(config, info)
    return Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=8), config, info


def at_step(step: int) -> tuple[Any, Any, Any]:
    """The same after so many steps: every number in it is another."""
    made, config, info = learner()
    with torch.no_grad():
        for k, p in enumerate([*made.network.parameters(), *made.ema.network.parameters()]):
            p.copy_(torch.sin(torch.arange(p.numel()).reshape(p.shape) + 7.0 * step + k))
    return made, config, info


def model(step: int) -> Any:
    made, config, _ = at_step(step)
    return replace(made.average, config={"steps": step, "config": config.to_dict()})


def save(root: Path, step: int) -> None:
    """What a run does at a checkpoint, keeping two."""
    with files.lock(root / "run"):
        made, config, info = at_step(step)
        progress = Progress(step=step, skipped=step)  # an optimiser that has not begun
        checkpoint.save(root / "run", made, made.tensors(), progress, config, info)
        models.save(model(step), root / "run")


def averages(root: Path, step: int) -> None:
    """What a run does at a snapshot."""
    with files.lock(root / "run"):
        made, _, _ = at_step(step)
        weights = {name: p.detach() for name, p in made.network.named_parameters()}
        if not snapshots.place(root / "run", step).exists():
            snapshots.save(root / "run", step, {0.05: weights, 0.1: weights}, torch.float16)


def several(root: Path, *steps: int) -> None:
    for step in steps:
        save(root, step)


def samples(root: Path, seed: int) -> None:
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    sample.write(root / "samples", x, torch.arange(20) % 10, digits(), {"seed": seed}, [str(k) for k in range(10)])


def report(root: Path, text: str) -> None:
    page = (text * 5000).encode()
    files.publish(root, {"report.html": page, "report.json": files.as_json({"files": {"page": files.digest(page)}})})


@functools.cache
def digits() -> Any:
    return data.load("digits").info


def pictures(root: Path) -> None:
    levels = torch.arange(2 * 8 * 8).reshape(2, 1, 8, 8) % 17
    if not (root / "images").exists():
        images.write(root / "images", levels, [("a/one.png", 8, 8), ("b/two.png", 8, 8)], digits())


def remove(root: Path) -> None:
    with files.lock(root):
        if (root / "run").exists():
            files.remove(root / "run")


def metrics(root: Path, rows: int) -> None:
    row = {"step": 0.0, "loss": 0.1, "val_loss": None, "lr": 0.01, "skipped": 0.0}
    told = reports.Metrics(root, [{**row, "step": float(k)} for k in range(rows)])
    for k in range(rows, rows + 3):
        told.add({**row, "step": float(k)}, speed=1.0)


@dataclass(frozen=True)
class Scenario:
    """Something that writes, on something that is there.

    Args:
        name: as the table has it.
        act: writes; again, after it was killed, to the same end.
        before: makes what is there.
        sets: folders with the names of files that belong together: all of the old, or all of the new.
        torn: of a file that is appended to: allowed to end anywhere.
    """

    name: str
    act: Callable[[Path], Any]
    before: Callable[[Path], Any] = lambda root: None
    sets: tuple[tuple[str, tuple[str, ...]], ...] = ()
    torn: str = ""


MODEL = ("run", ("config.json", "model.safetensors", "data.safetensors"))
SCENARIOS = (
    Scenario("first checkpoint", lambda r: save(r, 4), sets=(MODEL,)),
    Scenario("second checkpoint", lambda r: save(r, 8), lambda r: save(r, 4), (MODEL,)),
    Scenario("checkpoint, pruning the oldest", lambda r: save(r, 12), lambda r: several(r, 4, 8), (MODEL,)),
    Scenario(
        "averages",
        lambda r: averages(r, 8),
        lambda r: averages(r, 4),
        (("run/averages/step-0000008", ("ema-050.safetensors", "ema-100.safetensors", "index.json")),),
    ),
    Scenario(
        "model over an older model",
        lambda r: models.save(model(8), r / "run"),
        lambda r: models.save(model(4), r / "run"),
        (MODEL,),
    ),
    Scenario(
        "samples over older samples",
        lambda r: samples(r, 1),
        lambda r: samples(r, 0),
        (("samples", ("samples.npz", "scatter.png", "sample.json")),),
    ),
    Scenario("samples", lambda r: samples(r, 1), sets=(("samples", ("samples.npz", "scatter.png", "sample.json")),)),
    Scenario(
        "report", lambda r: report(r, "new"), lambda r: report(r, "old"), ((".", ("report.html", "report.json")),)
    ),
    Scenario(
        "coded file",
        lambda r: files.replace(r / "far" / "x.lgv", b"new" * 9000),
        lambda r: files.replace(r / "far" / "x.lgv", b"old" * 7000),
        (("far", ("x.lgv",)),),
    ),
    Scenario("coded file in a new folder", lambda r: files.replace(r / "a" / "b" / "x.lgv", b"new" * 9000)),
    Scenario("decoded images", pictures, sets=(("images", ("a/one.png", "b/two.png")),)),
    Scenario("metrics.csv", lambda r: metrics(r, 4), lambda r: metrics(r, 2), torn="metrics.csv"),
    Scenario(
        "a directory removed",
        remove,
        lambda r: save(r, 4),
        (MODEL,),
    ),
)


# What must be found.


def tree(root: Path) -> Tree:
    """The files under final names."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(files.TEMPORARY) and name != files.NEXT]
        for name in names:
            if name != files.LOCK and not name.startswith(files.TEMPORARY):
                found[str((Path(folder) / name).relative_to(root))] = (Path(folder) / name).read_bytes()
    return found


def everything(root: Path) -> set[str]:
    """All names, unfinished ones too."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def batched(root: Path, folder: str, names: tuple[str, ...]) -> list[bytes | None]:
    """A set as its readers find it."""
    paths = [files.place(root / folder, name) for name in names]
    return [path.read_bytes() if path.exists() else None for path in paths]


def check(scenario: Scenario, root: Path, old: Path, new: Path) -> None:
    """Old or new, whole, and loadable.

    Raises:
        AssertionError: with what is not.
    """
    had, will = tree(old), tree(new)
    for name, content in tree(root).items():
        if name == scenario.torn:
            assert any(content.startswith(t[name]) or t[name].startswith(content) for t in (had, will)), name
        else:
            assert content in (had.get(name), will.get(name)), f"{name} is neither old nor new: {len(content)} bytes"
    for folder, names in scenario.sets:
        found = batched(root, folder, names)
        assert found in (batched(old, folder, names), batched(new, folder, names)), f"{folder} is of two kinds"
    kept, before, after = (training.checkpoints(where / "run") for where in (root, old, new))
    if kept or (before and after):
        newest = {steps[-1].name for steps in (before, after) if steps}
        assert kept, "no checkpoint is left"
        assert kept[-1].name in newest, f"the newest checkpoint is {kept[-1].name}"
        for path in kept:
            made, _, _ = at_step(0)
            assert checkpoint.restore(path, made).step == int(path.name[5:])
            assert all(torch.equal(a, b) for a, b in zip(weights(made), weights(at_step(int(path.name[5:]))[0])))
    if files.place(root / "run", "config.json").exists():
        assert models.load(root / "run").config["steps"] in (4, 8, 12)


def weights(made: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.network.parameters()]
