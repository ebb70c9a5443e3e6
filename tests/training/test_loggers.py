"""What TensorBoard and Weights & Biases are told of a run, read back from the files that they wrote offline."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langevin import training
from langevin._errors import UserError
from langevin.training import OutputConfig
from tiny_runs import killed, points, tiny

OUTPUT = OutputConfig(log_every=2, validate_every=4, validate_on=20, sample_every=0, checkpoint_every=4)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file.

    After a header of 7 bytes it is a log of LevelDB: blocks of 32 KiB of pieces, each of CRC (4 bytes), length (2) and
    type (1: whole, 2: first, 3: middle, 4: last); a record is a message of protobuf.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, held = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        held += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


def sent(out: Path) -> list[dict[str, Any]]:
    """Of each part of a run, in order: the run's ``id``, ``project`` and ``name``, ``config``, and ``rows``."""
    parts = []
    for file in sorted(out.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        part: dict[str, Any] = {"config": {}, "rows": {}}
        for record in records(file):
            if record.WhichOneof("record_type") == "run":
                part |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
            for item in record.config.update:
                part["config"][item.key or item.nested_key[0]] = json.loads(item.value_json)
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if row:
                part["rows"][record.history.step.num] = {k: v for k, v in row.items() if not k.startswith("_")}
        parts.append(part)
    return parts


def rows(out: Path) -> list[dict[str, float]]:
    """Of ``metrics.csv``, without what is empty."""
    lines = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    return [{k: float(v) for k, v in zip(lines[0], line) if v} for line in lines[1:]]


def resolved_config(out: Path) -> dict[str, Any]:
    """The configuration of the last checkpoint."""
    return json.loads((training.checkpoints(out)[-1] / "state.json").read_text())["config"]


def test_weights_and_biases_is_told_what_the_run_says(tmp_path: Path, offline: None) -> None:
    """Every row of metrics.csv, the pictures and the resolved configuration; and the model is the same as without."""
    out = tmp_path / "run"
    config = tiny(6, output=replace(OUTPUT, sample_every=6))
    training.train(config, points(), tmp_path / "plain", quiet=True)
    training.train(replace(config, output=replace(config.output, wandb=True)), points(), out, quiet=True)
    (part,) = sent(out)
    assert (part["id"], part["project"], part["name"]) == (
        (out / "wandb/id.txt").read_text().strip(),
        "langevin",
        "run",
    )
    numbers = lambda row: {k: v for k, v in row.items() if not k.startswith(("samples", "images_per_second"))}
    assert {step: numbers(row) for step, row in part["rows"].items()} == {
        int(row.pop("step")): row for row in rows(out)
    }
    assert [step for step, row in part["rows"].items() if "samples.path" in row] == [6]
    assert all(row["images_per_second"] > 0 for row in part["rows"].values())
    (picture,) = out.glob("wandb/offline-run-*/files/" + part["rows"][6]["samples.path"])
    assert picture.read_bytes() == (out / "pictures/step-0000006.png").read_bytes()
    resolved = resolved_config(out)
    assert {key: part["config"][key] for key in resolved} == resolved
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path, offline: None) -> None:
    """Its last part begins after the checkpoint; a run begun anew in the same place is another."""
    out, config = tmp_path / "run", tiny(8, output=replace(OUTPUT, wandb=True, wandb_project="mine"))
    with killed(3):
        training.train(config, points(), out, quiet=True)
    with killed(7):
        training.train(config, points(), out, quiet=True)
    training.train(config, points(), out, quiet=True, resume=True)
    begun, first, last = sent(out)
    assert begun["id"] != first["id"] == last["id"] == (out / "wandb/id.txt").read_text().strip()
    assert {part["project"] for part in (first, last)} == {"mine"}
    assert (list(first["rows"]), list(last["rows"])) == ([2, 4, 6], [6, 8])
    # The row that is done again is the same: what W&B keeps of the two does not matter.
    clockless = lambda row: {k: v for k, v in row.items() if k != "images_per_second"}
    assert clockless(first["rows"][6]) == clockless(last["rows"][6])


def test_a_row_that_is_there_is_not_sent_again(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B tells a run that is resumed online at which step it stands. There is no server here, so it is said for it."""
    from wandb.sdk.wandb_run import Run

    out, config = tmp_path / "run", tiny(8, output=replace(OUTPUT, wandb=True))
    with killed(7):
        training.train(config, points(), out, quiet=True)
    monkeypatch.setattr(Run, "step", 7)
    training.train(config, points(), out, quiet=True, resume=True)
    assert list(sent(out)[-1]["rows"]) == [8]


def test_what_is_refused(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    config = tiny(4, output=replace(OUTPUT, wandb=True))

    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty).")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"not configured.*wandb login.*offline"):
        training.train(config, points(), tmp_path / "a", quiet=True)
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_MODE", "offline")
    with killed(3):
        training.train(replace(config, output=replace(config.output, checkpoint_every=1)), points(), tmp_path / "b")
    (tmp_path / "b/wandb/id.txt").write_text("../other\n")
    with pytest.raises(UserError, match=r"id\.txt must hold the id of a run"):
        training.train(tiny(4), points(), tmp_path / "b", quiet=True, resume=True)
    # A folder of the name is no package: W&B leaves one where it is run.
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [n for n in sys.modules if n.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r'needs the package wandb: pip install "langevin\[log\]"'):
        training.train(config, points(), tmp_path / "c", quiet=True)
    assert not (tmp_path / "c/metrics.csv").exists()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = tiny(4, output=OutputConfig(sample_every=4, log_every=2, tensorboard=True))
    training.train(config, points(), tmp_path, quiet=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {event.step: event.value for event in board.Scalars("loss")} == pytest.approx(
        {int(row["step"]): row["loss"] for row in rows(tmp_path)}, rel=2**-23
    )
    assert [event.step for event in board.Images("samples")] == [4]
    text = board.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert json.loads(text) == resolved_config(tmp_path)
