"""Writers killed at every call that writes, power lost after every call, disks that refuse from any call on.

``run`` does it in a process of its own, which has ``faults.c`` between itself and the C library where that can be
compiled; each try is a fork of it. ``python tests/training/kills.py`` prints the table.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults
import torch
from faults import AFTER, BEFORE, COUNT, FAIL, TORN
from power import Disk
from scenarios import SCENARIOS, Scenario, batched, check, everything, tree

from langevin import UserError, models, training
from langevin.cli import main
from langevin.storage import files
from langevin.training import checkpoint
from langevin.training.learner import Learner
from tiny_runs import points, tiny


def forked(what: Callable[[], Any]) -> str:
    """``done``, ``killed``, or what went wrong in a fork of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            what()
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as told:
        text = told.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == 9 else f"signal {os.WTERMSIG(status)}"
    return "done" if os.WEXITSTATUS(status) == 0 else text or "failed"


@dataclass
class Broken:
    """One process's work: tries, and what was found wrong."""

    shim: Any
    folder: Path
    tried: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def trial(self, kind: str, where: str) -> Iterator[None]:
        self.tried[kind] += 1
        try:
            yield
        except AssertionError as error:
            self.wrong.append(f"{kind}: {where}: {error}")
        except Exception:
            self.wrong.append(f"{kind}: {where}: {traceback.format_exc(limit=-4)}")

    def laid_out(self, scenario: Scenario) -> tuple[Path, Path, Path]:
        """A root to work in, what was there, and what will be."""
        root, old, new = (self.folder / name for name in ("root", "old", "new"))
        for path in (root, old, new):
            shutil.rmtree(path, ignore_errors=True)
        old.mkdir()
        scenario.before(old)
        shutil.copytree(old, new)
        scenario.act(new)
        return root, old, new

    def fresh(self, old: Path, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(old, root)

    def count(self, act: Callable[[Path], Any], root: Path, log: Path | None = None) -> int:
        """Calls that write, when nothing goes wrong."""
        told = self.folder / "count"

        def counted() -> None:
            with open(log or os.devnull, "wb") as journal:
                self.shim.arm(root, COUNT, log=journal.fileno() if log else -1)
                act(root)
            told.write_text(str(self.shim.seen))

        assert (outcome := forked(counted)) == "done", outcome
        return int(told.read_text())

    def kill(self, scenario: Scenario, share: float) -> None:
        """Kill the writer at a share of its calls, in each way."""
        root, old, new = self.laid_out(scenario)
        self.fresh(old, root)
        for at, how in some(self.count(scenario.act, root), (BEFORE, AFTER, TORN), share, scenario.name):
            self.fresh(old, root)

            def act(how: int = how, at: int = at) -> None:
                self.shim.arm(root, how, at)
                scenario.act(root)

            outcome = forked(act)
            with self.trial("kills", f"{scenario.name}, call {at}, way {how}"):
                assert outcome == "killed", outcome
                check(scenario, root, old, new)
                self.recover(scenario, root, new)

    def recover(self, scenario: Scenario, root: Path, new: Path) -> None:
        """The next writer gets there, and leaves nothing of what was broken."""
        scenario.act(root)
        assert tree(root) == tree(new), "the next writer does not get there"
        assert everything(root) == everything(new), f"left: {sorted(everything(root) ^ everything(new))}"

    def refuse(self, scenario: Scenario, share: float) -> None:
        """Let the disk refuse from a call on: one error that names a path and a cause, and nothing torn."""
        root, old, new = self.laid_out(scenario)
        self.fresh(old, root)
        numbers = (errno.ENOSPC, errno.EROFS, errno.EACCES)
        for at, number in some(self.count(scenario.act, root), numbers, share, scenario.name):
            self.fresh(old, root)

            def act(number: int = number, at: int = at) -> None:
                self.shim.arm(root, FAIL, at, number)
                try:
                    scenario.act(root)
                except UserError as error:
                    said = str(error)
                    if str(root) not in said or not said.endswith(f" cannot be written: {os.strerror(number)}"):
                        raise AssertionError(said) from error

            outcome = forked(act)
            with self.trial("refusals", f"{scenario.name}, call {at}, {errno.errorcode[number]}"):
                assert outcome == "done", outcome
                check(scenario, root, old, new)
                self.recover(scenario, root, new)

    def darken(self, scenario: Scenario, share: float) -> None:
        """Lose power after a call: nothing that was not flushed is there, or all names are but not their bytes."""
        if not isinstance(self.shim, faults.Library):
            return
        root, old, new = self.laid_out(scenario)
        self.fresh(old, root)
        log = self.folder / "log"
        count = self.count(scenario.act, root, log)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        for at, names in some(len(lines), (0, 1), share, scenario.name):
            disk = Disk(root, tree(old))
            for line in lines[:at]:
                disk.call(*line)
            disk.lay_out(self.folder / "after", names=bool(names))
            with self.trial("power cuts", f"{scenario.name}, after call {at} of {count}, names {names}"):
                check(scenario, self.folder / "after", old, new)
                if at == len(lines):  # it had said that it was done
                    done = self.folder / "after"
                    for folder, held in scenario.sets:
                        assert batched(done, folder, held) == batched(new, folder, held), "what was saved is lost"
                self.recover(scenario, self.folder / "after", new)

    def train(self, share: float) -> None:
        """Kill a training run at a share of its calls that write; resumed, it ends with the same checkpoint."""
        root = self.folder / "root"

        def act(where: Path) -> None:
            training.train(
                tiny(12), points(), where / "run", resume=bool(training.checkpoints(where / "run")), quiet=True
            )

        def last(where: Path) -> list[bytes]:
            path = training.checkpoints(where / "run")[-1]
            return [(path / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.AVERAGE, checkpoint.OPTIMISER)]

        for path in (root, self.folder / "new"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        act(self.folder / "new")
        for at, how in some(self.count(act, root), (BEFORE, AFTER, TORN), share, "train"):
            shutil.rmtree(root)
            root.mkdir()

            def killed(how: int = how, at: int = at) -> None:
                self.shim.arm(root, how, at)
                act(root)

            outcome = forked(killed)
            with self.trial("kills", f"a training run, call {at}, way {how}"):
                assert outcome == "killed", outcome
                for path in training.checkpoints(root / "run"):
                    checkpoint.restore(path, learner_of_run())
                if files.place(root / "run", "config.json").exists():
                    models.load(root / "run")
                act(root)
                assert last(root) == last(self.folder / "new"), "the resumed run is another"
                assert not [name for name in everything(root) if files.TEMPORARY in name or name.endswith(files.LOCK)]

    def commands(self, share: float) -> None:
        """Let the disk refuse to commands from a call on: one line that names path and cause; what was there is."""
        old, root, told = self.folder / "old", self.folder / "root", self.folder / "told"
        shutil.rmtree(old, ignore_errors=True)
        several = [["train", "digits", "--out", "{root}/run", "--steps", "4", *SMALL.split()], *COMMANDS[1:]]
        for words in several:  # what is there
            assert forked(lambda words=words: spoken(words, old, told)) == "done", told.read_text()
        for words in COMMANDS:
            self.fresh(old, root)
            count = self.count(lambda where, words=words: spoken(words, where, told), root)
            for at, number in some(count, (errno.ENOSPC, errno.EROFS, errno.EACCES), share, words[0]):
                self.fresh(old, root)

                def act(words: list[str] = words, at: int = at, number: int = number) -> None:
                    self.shim.arm(root, FAIL, at, number)
                    code, line = spoken(words, root, told, free=True)
                    cause = f" cannot be written: {os.strerror(number)}"
                    if code and not (line.startswith(f"langevin {words[0]}: ") and str(root) in line and cause in line):
                        raise AssertionError(f"code {code}: {told.read_text()}")

                outcome = forked(act)
                with self.trial("refusals to commands", f"{words[0]}, call {at}, {errno.errorcode[number]}"):
                    assert outcome == "done", outcome
                    intact(root)
                    assert forked(lambda words=words: spoken(words, root, told)) == "done", told.read_text()
                    intact(root)


SMALL = (
    "--batch 8 --network.name unet --network.options width 8 --output.validate-on 16 --output.sample-every 4 "
    "--output.checkpoint-every 2 --output.log-every 1"
)
COMMANDS = [
    words.split()
    for words in (
        "train digits --out {root}/run --resume --steps 8",
        "sample {root}/run -n 20 --steps 2 --out {root}/samples",
        "evaluate {root}/run -n 8 --steps 2 --features pixels",
        "compress digits -o {root}/x.lng --model {root}/run --limit 1",
    )
]


def spoken(words: list[str], root: Path, told: Path, free: bool = False) -> tuple[int, str]:
    """Run a command in a fork, with what it says in a file: its exit code and its last line."""
    with open(told, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = main([word.format(root=root) for word in words])
    if code and not free:
        raise AssertionError(f"exit code {code}")
    return code, told.read_text().splitlines()[-1]


def intact(root: Path) -> None:
    """Everything that the commands left is whole."""
    names = {checkpoint.MODEL, checkpoint.AVERAGE, checkpoint.OPTIMISER, checkpoint.STATE}
    kept = training.checkpoints(root / "run")
    assert kept, "no checkpoint is left"
    for path in kept:
        assert {k: files.digest((path / k).read_bytes()) for k in names} == files.manifest(path, names), path
    assert models.load(root / "run").config["steps"] in (4, 6, 8)
    record = files.read_json(files.place(root / "samples", "sample.json"))
    for name, wanted in record["files"].items():
        assert files.digest(files.place(root / "samples", name).read_bytes()) == wanted, name
    assert files.read_json(root / "run" / "evaluation.json")["measures"]
    assert len((root / "x.lng").read_bytes()) > 50


def learner_of_run() -> Any:
    """A learner that the checkpoints of ``tiny`` fit."""
    config = training.resolve_config(tiny(12), points().info)
    denoiser, objective = training.build(config, points().info)
    return Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=8)


def some(count: int, ways: tuple[int, ...], share: float, seed: str) -> list[tuple[int, int]]:
    """A share of the calls 1 … count in each way; the last is always among them."""
    chosen = random.Random(seed)
    return [(at, way) for way in ways for at in range(1, count + 1) if at == count or chosen.random() < share]


def work(share: float, folder: Path) -> dict[str, Any]:
    """All of it, in this process."""
    broken = Broken(faults.layer(), folder)
    for scenario in SCENARIOS:
        broken.kill(scenario, share)
        broken.refuse(scenario, share / 5)
        broken.darken(scenario, share / 5)
    broken.train(share / 5)
    if share >= 1:
        broken.commands(share / 50)
    return {"tried": broken.tried, "wrong": broken.wrong, "shim": type(broken.shim).__name__}


def run(long: bool = False, plain: bool = False) -> dict[str, Any]:
    """Tries of each kind and what went wrong, of every call (``long``) or of a share of them.

    Args:
        long: every call, in every way.
        plain: without ``faults.c``.

    Returns:
        ``tried`` by kind, ``wrong`` as sentences, and ``shim``: the layer that it was done with.
    """
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as name:
        library = None if plain else faults.compiled(Path(name))
        here = Path(__file__)
        paths = [str(Path(training.__file__).parents[2]), str(here.parent), str(here.parents[1])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        env |= {} if library is None else {"LD_PRELOAD": str(library)}
        words = [sys.executable, str(here), "9" if long else "0.07", name]
        done = subprocess.run(words, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


if __name__ == "__main__":
    if len(sys.argv) == 3:
        torch.set_num_threads(1)
        print(json.dumps(work(float(sys.argv[1]), Path(sys.argv[2]))))
    else:
        found = run(long="--long" in sys.argv)
        for kind, tried in found["tried"].items():
            print(f"{kind}: {tried - sum(line.startswith(kind) for line in found['wrong'])} survived of {tried}")
        print(*found["wrong"], sep="\n")
