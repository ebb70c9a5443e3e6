"""Checkpoints: everything a run is, written whole or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import nn
from .._errors import UserError
from ..data import DataInfo
from ..models.directory import FORMAT
from ..models.timing import CLOCK
from ..storage import files
from ..storage.untrusted import reading
from .config import Config
from .learner import Learner
from .logging import COLUMNS
from .resolve import check
from .snapshots import WIDTHS, stem

FOLDER = "checkpoints"
PARTS = ("schedule.", "discriminator.")
"""What objectives add to the network while it learns."""

_NAME = re.compile(r"step-(\d+)")
MODEL, AVERAGE, OPTIMISER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Clock:
    """What depends on the clock, and so is the one thing in which two runs of the same bits differ.

    Attributes:
        seconds: spent so far.
        rows: seconds and images/s at the steps of metrics.csv.
    """

    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Progress:
    """Where a run is: what is not a tensor.

    Attributes:
        step: optimiser steps taken; the data's position is step · batch, since order is a function of it.
        loss_sum, loss_count: of the losses since the last row.
        skipped: steps whose gradient was not finite.
        in_a_row: how many of them the run has just seen.
        division: of the work of a step, in words.
        rows: of metrics.csv.
        clock: in a file of its own.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    skipped: int = 0
    in_a_row: int = 0
    division: str = ""
    rows: list[dict[str, float | None]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def state(self) -> dict[str, Any]:
        """As plain JSON, without the clock."""
        return {key: value for key, value in asdict(self).items() if key != "clock"}

    @classmethod
    def of(cls, state: Mapping[str, Any], clock: Mapping[str, Any], path: Path) -> Progress:
        """The inverse of ``state``, checked; ``path`` is that of the checkpoint, for what is said.

        Raises:
            UserError: for a value that no run can have.
        """
        whole = lambda v: type(v) is int and v >= 0
        real = lambda v: v is None or (type(v) in (int, float) and math.isfinite(v))

        def need(ok: bool, name: str, value: Any) -> None:
            if not ok:
                raise UserError(f"{path / STATE}: progress.{name} cannot be {value!r}")

        for name in ("step", "loss_count", "skipped", "in_a_row"):
            need(whole(state[name]), name, state[name])
        need(path.name == f"step-{state['step']:07d}", "step", state["step"])
        need(state["in_a_row"] <= state["skipped"] <= state["step"], "skipped", state["skipped"])
        need(type(state["loss_sum"]) is float and real(state["loss_sum"]), "loss_sum", state["loss_sum"])
        rows = state["rows"]
        need(isinstance(state["division"], str), "division", state["division"])
        need(isinstance(rows, list), "rows", rows)
        for row in rows:
            need(isinstance(row, dict) and row.keys() == set(COLUMNS) and all(map(real, row.values())), "rows", row)
        steps = [row["step"] for row in rows]
        need(all(map(whole, steps)) and steps == sorted(set(steps)) and steps[-1:] <= [state["step"]], "rows", steps)
        if not real(clock["seconds"]) or clock["seconds"] is None or not isinstance(clock["rows"], list):
            raise UserError(f"{path / CLOCK}: no seconds and rows in {str(clock)[:80]}")
        return cls(**state, clock=Clock(**clock))


def found(out: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = out / FOLDER
    steps = ((m, p) for p in folder.glob("step-*") if (m := _NAME.fullmatch(p.name)) and p.is_dir())
    return [p for _, p in sorted((int(m[1]), p) for m, p in steps)]


def place(out: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return out / FOLDER / f"step-{step:07d}"


def save(
    out: Path,
    learner: Learner,
    tensors: Mapping[str, Mapping[str, Tensor]],
    progress: Progress,
    config: Config,
    data: DataInfo,
) -> Path:
    """Write the checkpoint of a step, with ``learner.tensors()``, and remove all but the last ``keep``.

    What an interrupt left between two checkpoints that were due goes with the next, so that a run that was interrupted
    keeps the same checkpoints as one that was not.

    Raises:
        DiskError: if the disk is full or refuses; the checkpoints that were there stand.
    """
    path = place(out, progress.step)
    if not path.exists():
        state = {
            "langevin": FORMAT,
            "kind": "checkpoint",
            "progress": progress.state(),
            "objective": learner.objective.state(),
            "scale": learner.scale.state(),
            "players": {turn.name: turn.taken for turn in learner.turns},
            "config": config.to_dict(),
            "data": data.to_dict(),
        }
        with files.directory(path) as folder:
            files.write(folder / CLOCK, files.as_json(vars(progress.clock)))
            held = {
                name: files.write(folder / name, files.as_safetensors(tensors[name.partition(".")[0]]))
                for name in (MODEL, AVERAGE, *_beside(learner), OPTIMISER)
            }
            # Without the clock, which no two runs share.
            files.seal(folder, {**held, STATE: files.write(folder / STATE, files.as_json(state))})
    every, before = config.output.checkpoint_every, found(out)[:-1]
    due = [p for p in before if every and int(p.name[len("step-") :]) % every == 0]
    for old in sorted(set(before) - set(due[max(0, len(due) + 1 - config.output.keep) :])):
        files.remove(old)
    files.sweep(path.parent)
    return path


def _beside(learner: Learner) -> list[str]:
    """The files of the averages that are tracked for snapshots."""
    return [f"{name}.safetensors" for name in learner.beside]


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
    files.only(file, state, {"langevin", "kind", "progress", "objective", "scale", "players", "config", "data"})
    for part in ("progress", "objective", "scale", "players", "config", "data"):
        if not isinstance(state[part], dict):
            raise UserError(f"{file}: {part} must be an object, got {type(state[part]).__name__}")
    files.only(file, state["progress"], {f.name for f in fields(Progress)} - {"clock"})
    with reading(file):
        DataInfo.from_dict(state["data"])
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
    # A schedule that learns and a discriminator are parts of the network, and held against it once it is made.
    held = {name: v for name, v in files.outline(path / MODEL).items() if not name.startswith(PARTS)}
    files.fit(path / MODEL, held, network.state_dict())


@contextmanager
def _whole(path: Path, *names: str) -> Iterator[None]:
    """Hold files of a checkpoint against its manifest, once they have been read.

    Raises:
        UserError: if it is damaged, which no crash can do: what is lost is not passed over, but told with the way on.
    """
    try:
        tracked = {f"{stem(width)}.safetensors" for width in WIDTHS}
        there = {name for name in tracked if (path / name).exists()}
        held = files.manifest(path, {MODEL, AVERAGE, OPTIMISER, STATE} | there)
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
    with _whole(path, MODEL, AVERAGE, *_beside(learner), OPTIMISER):
        return _restore(path, state, learner)


def _check_players(path: Path, players: dict[str, Any], learner: Learner, progress: Progress) -> None:
    """Take over how many steps each player has taken, if that can be."""
    if players.keys() != {turn.name for turn in learner.turns}:
        raise UserError(f"{path / STATE}: players must be {[turn.name for turn in learner.turns]}, got {list(players)}")
    for turn in learner.turns:
        turn.taken = players[turn.name]
        # Players take turns of their own, and one may skip a step that another takes.
        alone, most = len(learner.turns) == 1, progress.step // turn.player.every
        fits = type(turn.taken) is int and 0 <= turn.taken <= most
        if not fits or (alone and turn.taken != progress.step - progress.skipped):
            raise UserError(f"{path / STATE}: players.{turn.name} cannot be {turn.taken!r}")


def _restore(path: Path, state: dict[str, Any], learner: Learner) -> Progress:
    clock = files.read_json(path / CLOCK)
    files.only(path / CLOCK, clock, {f.name for f in fields(Clock)})
    progress = Progress.of(state["progress"], clock, path)
    for name, network, load in (
        (MODEL, learner.network, learner.load),
        (AVERAGE, learner.ema.network, learner.ema.load),
        *((f"{name}.safetensors", own.network, own.load) for name, own in learner.beside.items()),
    ):
        tensors = files.read_safetensors(path / name)
        files.fit(path / name, tensors, learner.kept(network))
        if not files.is_finite(tensors):
            raise UserError(f"{path / name} holds weights that are not finite")
        load(tensors)
    moments = files.read_safetensors(path / OPTIMISER)
    _check_players(path, state["players"], learner, progress)
    wanted: dict[str, Tensor] = {}
    for turn in learner.turns:
        own = [(name, p) for name, p in learner.named.items() if any(p is q for q in turn.parameters)]
        if turn.taken:
            wanted |= {f"{name}/{key}": v for name, p in own for key, v in turn.optimiser.like(p).items()}
        steps = {float(moments[key]) for name, _ in own if (key := f"{name}/step") in moments}
        if steps - {float(turn.taken)}:
            taken = f"it has taken {sorted(steps)} steps, not {turn.taken}"
            raise UserError(f"{path / OPTIMISER} is not that of {path / STATE}: {taken}")
    files.fit(path / OPTIMISER, moments, wanted)
    if not files.is_finite(moments):
        raise UserError(f"{path / OPTIMISER} holds numbers that are not finite")
    learner.restore_optimiser(moments)
    for part, keeps in (("objective", learner.objective), ("scale", learner.scale)):
        with reading(path / STATE):
            keeps.restore(state[part])
        if keeps.state() != state[part]:
            raise UserError(f"{path / STATE}: {part} is not what this run keeps: {', '.join(state[part]) or 'nothing'}")
    return progress
