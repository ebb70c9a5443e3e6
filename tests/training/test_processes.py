"""Several processes, under ``torchrun`` and under ``accelerate launch``, do what one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from launched import command, environment, launch, made
from safetensors.torch import load_file

from langevin import models, training
from langevin._errors import UserError
from langevin.distributions import Noise
from langevin.training import Learner, budget, snapshots
from tiny_runs import same_files

STEPS = 9
UNIT = 2.0**-24
"""Rounding of float32: half the distance from 1 to the next number."""


def alone(out: Path, **asked: Any) -> Path:
    config, dataset = made(**asked)
    training.train(config, dataset, out, device="cpu", quiet=True)
    return out


def apart(a: Path, b: Path) -> float:
    """The largest difference of two models' weights."""
    one, two = (load_file(run / "model.safetensors") for run in (a, b))
    assert one.keys() == two.keys()
    return max(float((one[key] - two[key]).abs().max()) for key in one)


def floor(folder: Path, **asked: Any) -> float:
    """How far the order of float additions alone moves the weights: one process that cuts its batches in other ways."""
    whole = alone(folder / "whole", **asked)
    ways = [alone(folder / f"in-{k}", accumulate=k, **asked) for k in (2, 3, 4, 8)]
    return max(apart(whole, way) for way in ways)


def gradient(parts: int, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    """The sum over rows of the gradient, by micro-batches, and of the loss."""
    config, dataset = made(steps=1)
    resolved = training.resolve_config(config, dataset.info)
    torch.manual_seed(0)
    denoiser, objective = training.build(resolved, dataset.info)
    for p in denoiser.network.parameters():  # a new network ends in zeros, which no gradient passes
        p.data.add_(0.1 * torch.randn_like(p))
    optimiser = replace(resolved.optimiser, clip=None)
    learner = Learner(denoiser, objective, optimiser=optimiser, ema=resolved.ema, batch=len(rows), parts=parts)
    batch, adam = dataset.train.batch(rows), learner.turns[0].optimiser
    with mock.patch.object(adam, "step"), mock.patch.object(adam, "zero_grad"):
        _, loss = learner.step(batch, Noise(0, rows, 1), number=1, rate=1e-3)
    return {name: len(rows) * p.grad for name, p in learner.named.items()}, len(rows) * loss  # type: ignore[operator]


def test_the_order_of_additions_is_bounded() -> None:
    """The same terms, added up in another order: ‖Δg‖ ≤ 2 γ_n Σ‖g_i‖, γ_n = nu/(1 − nu) (Higham 2002, eq. 4.4).

    n counts the additions on the way to one number: the B rows, and as matrix products of another height may add in
    another order too, the terms of each of them, forth and back. The loss is a sum of B numbers in float64; they come
    of float32. A row with another weight would be off by a share of 1/B.
    """
    rows = torch.arange(8)
    whole, loss = gradient(1, rows)
    single = [gradient(1, rows[i : i + 1])[0] for i in rows.tolist()]
    n = len(rows) + sum(sum(v.shape) for v in whole.values() if v.ndim == 2)
    gamma = n * UNIT / (1 - n * UNIT)
    for parts in (2, 3, 8):
        split, other = gradient(parts, rows)
        assert abs(other - loss) <= 2 * gamma * loss
        ratios = [
            float((split[name] - g).norm() / sum(row[name].norm() for row in single)) for name, g in whole.items()
        ]
        assert 0 < max(ratios) <= 2 * gamma < 1e-4, ratios  # 0: these would not be other sums


def alike(a: Path, b: Path) -> None:
    """The logged losses of two runs agree to the last digits of float32: each is a mean over rows in float64."""
    rows = [(run / "metrics.csv").read_text().splitlines()[1:] for run in (a, b)]
    assert len(rows[0]) == len(rows[1])
    for one, two in zip(*rows):
        for x, y in zip(one.split(","), two.split(",")):
            assert (x == y) if not (x and y) else float(x) == pytest.approx(float(y), rel=16 * UNIT)


def test_accumulation_is_one_batch(tmp_path: Path) -> None:
    """Dropout, hidden labels, times and their history are those of the whole batch: another seed moves 10⁴ as much."""
    moved = floor(tmp_path)
    assert 0 < moved < 1e-7
    other = alone(tmp_path / "other", seed=1)
    assert apart(tmp_path / "whole", other) > 1e4 * moved
    alike(tmp_path / "whole", tmp_path / "in-3")


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes(tmp_path: Path, every: int) -> None:
    """Two processes are, bit for bit, one that accumulates twice; interrupted by a signal that one of them sees in any
    step they leave a checkpoint, and end with the same files as if they had not been."""
    out = lambda name: str(tmp_path / name)
    runs: list[dict[str, Any]] = [{"out": out("two")}, {"out": out("sharded"), "shard_weights": True}]
    for step in range(1, STEPS, every):
        runs += [{"out": out(f"stop-{step}"), "bad": {"what": int(signal.SIGTERM), "rank": step % 2, "step": step}}]
        runs += [{"out": out(f"stop-{step}")}]
    said = launch(2, *runs)
    moved = floor(tmp_path)
    assert (tmp_path / "two/model.safetensors").read_bytes() == (tmp_path / "in-2/model.safetensors").read_bytes()
    # Averages are taken in another order than sums: as far as orders of additions go, and ten times that.
    assert apart(tmp_path / "whole", tmp_path / "sharded") <= 10 * moved
    alike(tmp_path / "two", tmp_path / "whole")
    for step in range(1, STEPS, every):
        same_files(tmp_path / "two", tmp_path / f"stop-{step}")
    assert said.count("divided anew") == 0


@pytest.mark.slow
def test_two_processes_store_averages(tmp_path: Path) -> None:
    """The same bits as one process that accumulates twice; spread over both, as far as orders of additions go, and the
    same bits where a run was interrupted between a snapshot and the next checkpoint."""
    out = lambda name: str(tmp_path / name)
    spread: dict[str, Any] = {"shard_weights": True, "snapshots": 4}
    stop = {"bad": {"what": int(signal.SIGTERM), "rank": 1, "step": 5}}
    runs: list[dict[str, Any]] = [{"out": out("two"), "snapshots": 4}, {"out": out("sharded"), **spread}]
    launch(2, *runs, {"out": out("stop"), **spread, **stop}, {"out": out("stop"), **spread})
    alone(tmp_path / "one", accumulate=2, snapshots=4)
    moved = floor(tmp_path)
    same_files(tmp_path / "sharded", tmp_path / "stop")
    one, two, sharded = (snapshots.found(tmp_path / name) for name in ("one", "two", "sharded"))
    assert len(one) == 2 * 4
    for a, b, c in zip(one, two, sharded, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()
        whole, parts = a.read(), c.read()
        assert whole.keys() == parts.keys()
        assert max(float((value - parts[name]).abs().max()) for name, value in whole.items()) <= 10 * moved


@pytest.mark.slow
def test_a_budget_is_chosen_by_all(tmp_path: Path) -> None:
    """Each has its own clock, and they take the same number of steps: what is measured is agreed on to the last bit."""
    out = tmp_path / "run"
    launch(2, {"out": str(out), "kind": "photos"})
    one, two = (float(Path(f"{out}-measured-{rank}").read_text()) for rank in (0, 1))
    assert one == two > 0
    made = json.loads((out / "config.json").read_text())["training"]
    # In half a second, of which a share is kept for what is no step; two digits of it, and six steps at least.
    assert made["config"]["budget"]["steps"] == max(6, budget._plain(int(budget.SPARE * 0.5 / one)))
    assert made["steps"] == made["config"]["budget"]["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_three_processes(tmp_path: Path, launcher: str) -> None:
    """A batch of 8 is shared 2, 3, 3, and each row has the same weight. Interrupted, resumed, and resumed by fewer."""
    out = lambda name: str(tmp_path / name)
    stop = lambda step: {"what": int(signal.SIGINT), "rank": 2, "step": step}
    runs: list[dict[str, Any]] = [
        {"out": out("three")},
        {"out": out("cut"), "accumulate": 2},
        {"out": out("ahead"), "workers": 2},
    ]
    runs += [
        {"out": out("sharded"), "shard_weights": True},
        {"out": out("both"), "shard_weights": True, "accumulate": 2},
    ]
    for step in (1, 4, 8):
        runs += [{"out": out(f"stop-{step}"), "bad": stop(step)}, {"out": out(f"stop-{step}")}]
        runs += [{"out": out(f"part-{step}"), "bad": stop(step), "shard_weights": True}]
        runs += [{"out": out(f"part-{step}"), "shard_weights": True}]
    runs += [{"out": out("fewer"), "bad": stop(5), "shard_weights": True}]
    launch(3, *runs, launcher=launcher)
    moved = floor(tmp_path)
    for name in ("three", "cut", "ahead", "sharded", "both"):
        assert apart(tmp_path / "whole", tmp_path / name) <= 10 * moved, name
        alike(tmp_path / name, tmp_path / "whole")
    assert (tmp_path / "ahead/model.safetensors").read_bytes() == (tmp_path / "three/model.safetensors").read_bytes()
    for step in (1, 4, 8):
        same_files(tmp_path / "three", tmp_path / f"stop-{step}")
        same_files(tmp_path / "sharded", tmp_path / f"part-{step}")
    # What three shared is gone on with by one, and by two: the same up to the order of additions.
    shutil.copytree(tmp_path / "fewer", tmp_path / "by-two")
    resumed = training.checkpoints(tmp_path / "fewer")[-1]
    division = "3 processes, accumulate 1, weights spread"
    assert json.loads((resumed / "state.json").read_text())["progress"]["division"] == division
    training.train(training.Config(), made()[1], tmp_path / "fewer", device="cpu", quiet=True, resume=True)
    assert apart(tmp_path / "whole", tmp_path / "fewer") <= 10 * moved
    said = launch(2, {"out": out("by-two"), "shard_weights": True}, launcher=launcher)
    assert f"divided anew (before: {division}; now: 2 processes, accumulate 1, weights spread)" in said
    assert apart(tmp_path / "whole", tmp_path / "by-two") <= 10 * moved


@pytest.mark.slow
def test_every_kind_of_model_is_shared(tmp_path: Path) -> None:
    """Networks of every build, energies and losses with second derivatives, a schedule that learns."""
    kinds = [
        "images",
        "levels",
        "tokens",
        "tokens-history",
        "phase",
        "energy",
        "variance",
        "sliced",
        "learned",
        "float16",
    ]
    whole = ["energy", "sliced", "learned"]  # refused: see below
    out = lambda kind, way: str(tmp_path / kind / way)
    asked = lambda kind: {"kind": kind, "steps": 4}
    runs: list[dict[str, Any]] = [{"out": out(kind, "two"), **asked(kind)} for kind in kinds]
    runs += [{"out": out(kind, "sharded"), "shard_weights": True, **asked(kind)} for kind in kinds if kind not in whole]
    launch(2, *runs)
    for kind in kinds:
        alone(tmp_path / kind / "in-2", accumulate=2, **asked(kind))
        for way in ("two", "sharded")[: 1 + (kind not in whole)]:
            # Two processes add what one adds that accumulates twice, and bits are the same but for averages of sums.
            assert apart(tmp_path / kind / "in-2", tmp_path / kind / way) <= (0 if way == "two" else 1e-6), (kind, way)


def test_weights_are_not_spread_where_they_cannot_be(tmp_path: Path) -> None:
    config, dataset = made(shard_weights=True)
    with pytest.raises(UserError, match="shard-weights spreads weights over several processes"):
        training.train(config, dataset, tmp_path, quiet=True)


TRAIN = [
    "-m",
    "langevin",
    "train",
    "digits",
    "--limit",
    "40",
    "--steps",
    "150",
    "--batch",
    "9",
    "--network.name",
    "unet",
]
TRAIN += ["--network.options", "width", "8", "blocks", "1", "multipliers", "[1,1]", "--precision", "float32"]
TRAIN += ["--output.sample-every", "0", "--output.validate-every", "0", "--output.checkpoint-every", "20"]


def started(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, env=environment(), stdout=log.open("wb"), stderr=subprocess.STDOUT)


def wait_for(ready: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def said(log: Path) -> list[str]:
    """The lines of langevin itself."""
    return [line for line in log.read_text().splitlines() if line.startswith("langevin train:")]


def workers(parent: int) -> list[int]:
    """The processes a launcher started, by rank."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout.split()
    ranked = []
    for pid in map(int, listed):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranked += [(int(w[5:]), pid) for w in words if w.startswith(b"RANK=")]
    return [pid for _, pid in sorted(ranked)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes of a launcher by /proc")
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_of_the_launcher(tmp_path: Path, launcher: str, number: signal.Signals) -> None:
    """It passes the signal on; one process says what is left, and the command line goes on to the same files."""
    whole, parts, log = tmp_path / "whole", tmp_path / "parts", tmp_path / "log"
    process = started(command(2, *TRAIN, "--out", str(parts), launcher=launcher), log)
    wait_for(lambda: training.checkpoints(parts), process, log)
    if number == signal.SIGINT:  # as a terminal does: to everybody, and the launcher passes it on once more
        for pid in workers(process.pid):
            os.kill(pid, number)
    process.send_signal(number)
    process.wait(60)
    (line,) = said(log)
    assert "the checkpoint of step" in line
    assert "is whole; go on with: langevin train digits" in line
    step = int(training.checkpoints(parts)[-1].name[5:])
    assert f"stopped at step {step}" in line
    assert 20 <= step < 150
    for out, more in ((parts, ["--resume"]), (whole, [])):
        done = started(command(2, *TRAIN, "--out", str(out), *more, launcher=launcher), log)
        assert done.wait(300) == 0, log.read_text()
        assert log.read_text().count("langevin sample") == 1  # one process says what to type next
    same_files(whole, parts)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes of a launcher by /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_stops_the_others(tmp_path: Path, rank: int) -> None:
    """Within seconds, with one sentence, and with the last checkpoint as it was."""
    out, log = tmp_path / "run", tmp_path / "log"
    process = started(command(3, *TRAIN, "--out", str(out)), log)
    wait_for(lambda: training.checkpoints(out), process, log)
    os.kill(workers(process.pid)[rank], signal.SIGKILL)
    begun = time.monotonic()
    assert process.wait(60) != 0
    assert time.monotonic() - begun < 20
    (line,) = said(log)
    assert "waits in vain for another, which has stopped" in line
    models.load(out, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_says_why(tmp_path: Path, rank: int) -> None:
    """The one that fails speaks; the others do not add their own troubles."""
    bad = {"what": "raise", "rank": rank, "step": 5}
    told = launch(2, {"out": str(tmp_path / "run"), "bad": bad}, fails=True)
    assert told.count("No space left on device") >= 1
    assert "waits in vain" not in told
    assert told.count("Traceback (most recent call last):") <= 3  # of one process, and of the launcher


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["energy", "sliced", "learned"])
def test_weights_that_are_not_spread(tmp_path: Path, kind: str) -> None:
    told = launch(2, {"out": str(tmp_path / "run"), "kind": kind, "shard_weights": True}, fails=True)
    assert "shard-weights cannot spread a" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_request_that_cannot_be_met_is_refused_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for more, words in ((["--batch", "1"], "batch must have a row for each part"), (["--network.name", "unt"], "unet")):
        assert started(command(2, *TRAIN, "--out", str(tmp_path / "run"), *more), log).wait(120) != 0
        (line,) = said(log)
        assert words in line
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_number_that_one_process_sees(tmp_path: Path) -> None:
    """A step whose loss is not finite on one process alone is skipped on all: weights, average and moments stand."""
    for what in ("nan", "inf", "1e30"):
        out = tmp_path / what
        bad = {"what": what, "rank": 1, "step": 5}
        launch(2, {"out": str(out), "bad": bad, "steps": 6})
        state = json.loads((training.checkpoints(out)[-1] / "state.json").read_text())
        assert (state["progress"]["skipped"], state["progress"]["in_a_row"]) == (1, 0)
        steps = load_file(training.checkpoints(out)[-1] / "optimizer.safetensors")
        assert {float(v) for name, v in steps.items() if name.endswith("/step")} == {5.0}
        assert (out / "metrics.csv").read_text().splitlines()[-1].endswith(",1")
