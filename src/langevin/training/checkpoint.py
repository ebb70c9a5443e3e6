"""Checkpoints: everything a run is, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from .. import nn
from .._errors import UserError
from .._untrusted import reading, settings, typed
from ..data import Data
from . import files
from .config import Config, check
from .learner import Learner
from .model import FORMAT

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d+)")
MODEL, AVERAGE, OPTIMISER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Progress:
    """Where a run is: what is not a tensor.

    Attributes:
        step: optimiser steps taken; the data's position is step · batch, since order is a function of it.
        seconds: on the clock.
        loss_sum, loss_count: of the losses since the last row.
        skipped: steps whose gradient was not finite.
        in_a_row: how many of them the run has just seen.
        rows: of metrics.csv.
    """

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    skipped: int = 0
    in_a_row: int = 0
    rows: list[dict[str, float | None]] = field(default_factory=list)


def found(out: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = out / FOLDER
    steps = ((m, p) for p in folder.glob("step-*") if (m := _NAME.fullmatch(p.name)) and p.is_dir())
    return [p for _, p in sorted((int(m[1]), p) for m, p in steps)]


def save(out: Path, learner: Learner, progress: Progress, config: Config, data: Data, keep: int) -> Path:
    """Write the checkpoint of a step and remove all but the last ``keep``.

    Raises:
        DiskError: if the disk is full or refuses; the checkpoints that were there stand.
    """
    path = out / FOLDER / f"step-{progress.step:07d}"
    if not path.exists():
        state = {
            "langevin": FORMAT,
            "kind": "checkpoint",
            "progress": asdict(progress),
            "objective": learner.objective.state(),
            "config": config.to_dict(),
            "data": data.to_dict(),
        }
        with files.directory(path) as folder:
            held = {
                MODEL: files.write(folder / MODEL, files.as_safetensors(learner.network.state_dict())),
                AVERAGE: files.write(folder / AVERAGE, files.as_safetensors(learner.ema.network.state_dict())),
                OPTIMISER: files.write(folder / OPTIMISER, files.as_safetensors(learner.optimiser_state())),
                STATE: files.write(folder / STATE, files.as_json(state)),
            }
            files.seal(folder, held)
    for old in found(out)[:-keep]:
        files.remove(old)
    files.sweep(path.parent)
    return path


def read_state(path: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint, checked.

    Raises:
        UserError: if it is missing, damaged or of an unknown version.
    """
    file = path / STATE
    with _whole(path, STATE):
        state = files.read_json(file)
    if state.get("langevin") != FORMAT or state.get("kind") != "checkpoint":
        raise UserError(f"{file}: format {state.get('langevin')!r} is unknown; this version of langevin reads {FORMAT}")
    files.only(file, state, {"langevin", "kind", "progress", "objective", "config", "data"})
    files.only(file, state["progress"], {f.name for f in fields(Progress)})
    with reading(file):
        settings(Progress, state["progress"], "progress")
        typed(dict, state["objective"], "objective")
        Data.from_dict(state["data"])
        low = min(state["progress"][name] for name in ("step", "seconds", "loss_count", "skipped", "in_a_row"))
        if low < 0:
            raise UserError(f"progress must hold counts of at least 0, got {low}")
    return state


def weighs(path: Path, config: Config) -> None:
    """Refuse a checkpoint whose configuration asks for another network than its weights are of.

    Raises:
        UserError: with the file; nothing has taken memory yet.
    """
    file = path / STATE
    with reading(file):
        network = nn.outline({"name": config.network.name, **config.network.options})
        check(config)
    # A schedule that learns is a part of the network, and of a fixed size.
    held = {name: v for name, v in files.outline(path / MODEL).items() if not name.startswith("schedule.")}
    files.fit(path / MODEL, held, network.state_dict())


@contextmanager
def _whole(path: Path, *names: str) -> Iterator[None]:
    """Hold files of a checkpoint against its manifest, once they have been read.

    Raises:
        UserError: if it is damaged, which no crash can do: what is lost is not passed over, but told with the way on.
    """
    try:
        held = files.manifest(path, {MODEL, AVERAGE, OPTIMISER, STATE})
        yield
        files.agree(path, {name: held[name] for name in names})
    except UserError as error:
        kept = found(path.parent.parent)
        before = kept[: kept.index(path)] if path in kept else []
        way = f"remove {path} to go on from {before[-1].name}" if before else "there is none before it; train anew"
        raise UserError(f"{error} ({way})") from None


def restore(path: Path, learner: Learner) -> Progress:
    """Put a checkpoint's weights, average, optimiser and history into a learner.

    Raises:
        UserError: if a file is missing, truncated or does not match; it names the file.
    """
    state = read_state(path)
    with _whole(path, MODEL, AVERAGE, OPTIMISER):
        return _restore(path, state, learner)


def _restore(path: Path, state: dict[str, Any], learner: Learner) -> Progress:
    for name, network in ((MODEL, learner.network), (AVERAGE, learner.ema.network)):
        tensors = files.read_safetensors(path / name)
        files.fit(path / name, tensors, network.state_dict())
        network.load_state_dict(tensors)
    moments = files.read_safetensors(path / OPTIMISER)
    if moments:
        like = {"exp_avg": None, "exp_avg_sq": None, "step": torch.zeros(())}
        wanted = {f"{name}/{k}": p if v is None else v for name, p in learner.named.items() for k, v in like.items()}
        files.fit(path / OPTIMISER, moments, wanted)
    learner.restore_optimiser(moments)
    with reading(path / STATE):
        learner.objective.restore(state["objective"])
    return Progress(**state["progress"])
