"""Runs of several processes: what ``torchrun`` and ``accelerate launch`` start, and how tests start them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# --multi_gpu is what makes accelerate start several processes by torchrun; on a machine without GPUs they use gloo.
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def command(count: int, *words: str, launcher: str = "torchrun") -> list[str]:
    """The words that start ``count`` processes of a script, or with ``-m`` first of a module."""
    if launcher == "torchrun":
        return [*TORCHRUN, "--nproc_per_node", str(count), *words]
    return [*ACCELERATE, "--num_processes", str(count), *words]


def environment() -> dict[str, str]:
    """That of the processes: one thread each, on the CPU."""
    source = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def launch(count: int, *runs: dict[str, Any], launcher: str = "torchrun", fails: bool = False) -> str:
    """Train as ``train`` is asked to, run after run in the same ``count`` processes; what they said."""
    words = [str(Path(__file__)), json.dumps(runs)]
    done = subprocess.run(
        command(count, *words, launcher=launcher), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stderr


def made(kind: str = "everything", steps: int = 9, **changes: Any) -> tuple[Any, Any]:
    """A configuration and its data, by plain JSON."""
    from test_resume import MODEL_TYPES, OUTPUT, everything

    from langevin.training import BudgetConfig, EMAConfig, ParallelConfig
    from tiny_runs import points, tiny

    dataset, settings = MODEL_TYPES.get(kind, (points(), {}))
    if kind == "photos":
        from test_budget import asked, photos

        return asked(), photos()
    config = everything() if kind == "everything" else replace(tiny(steps, output=OUTPUT), **settings)
    if (count := changes.pop("snapshots", 0)) > 0:
        changes["ema"] = EMAConfig(snapshots=count)
    work = {k: changes.pop(k) for k in ("accumulate", "workers", "shard_weights") if k in changes}
    return replace(config, budget=BudgetConfig(steps=steps), work=ParallelConfig(**work), **changes), dataset


def train(out: str, bad: dict[str, Any] | None = None, **asked: Any) -> None:
    """Train; with ``bad`` one process does something else in a step. A run that is there is gone on with."""
    from langevin import training
    from langevin.training import Learner

    config, dataset = made(**asked)
    plain = Learner.step

    def step(self: Learner, x0: Any, *given: Any, **named: Any) -> Any:
        if bad is not None and named["number"] == bad["step"] and self.team.rank == bad["rank"]:
            match bad["what"]:
                case "raise":
                    raise OSError(28, "No space left on device")
                case int(number):
                    os.kill(os.getpid(), number)
                case factor:
                    x0 = x0 * float(factor)
        return plain(self, x0, *given, **named)

    with mock.patch.object(Learner, "step", step), short(asked.get("kind") == "photos", out):
        going = bool(training.checkpoints(Path(out)))
        training.train(config, dataset, out, device="cpu", quiet=False, resume=going)


@contextlib.contextmanager
def short(wanted: bool, out: str) -> Iterator[None]:
    """A budget chosen by the speed of the third step, of half a second; each process notes what it measured."""
    from langevin.training import budget

    plain = budget.choose

    def choose(config: Any, shape: Any, examples: int, seconds: float) -> Any:
        Path(f"{out}-measured-{os.environ['RANK']}").write_text(repr(seconds))
        return plain(config, shape, examples, seconds)

    measured = lambda marks: None if len(marks) < 3 else marks[-1] - marks[-2]
    new = {"FEWEST": 6, "time_goal": lambda *_: 0.5, "measured": measured, "choose": choose} if wanted else {}
    with mock.patch.multiple(budget, **new) if new else contextlib.nullcontext():
        yield


def main(runs: list[dict[str, Any]]) -> None:
    """One run after another; what is interrupted is gone on with by a later one."""
    import torch

    torch.set_num_threads(1)
    for run in runs:
        try:
            train(**run)
        except (KeyboardInterrupt, SystemExit) as stop:
            if getattr(stop, "code", 130) != 130:
                raise


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    main(json.loads(sys.argv[1]))
