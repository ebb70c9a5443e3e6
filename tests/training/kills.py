"""Writers killed at every call that writes, power lost after every call, disks that refuse from any call on.

``run`` does it in a process of its own, which has ``faults.c`` between itself and the C library where that can be
compiled; each try is a fork of it. ``python tests/training/kills.py`` prints the table.
"""

from __future__ import annotations

import contextlib
import errno
import functools
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faults
import torch
from faults import AFTER, BEFORE, COUNT, FAIL, TORN
from tiny_runs import points, tiny

from langevin import UserError, data, training
from langevin.cli import main, sample
from langevin.tasks.compress import images
from langevin.training import checkpoint, files, reports
from langevin.training.checkpoint import Progress
from langevin.training.learner import Learner

Tree = dict[str, bytes]


# What is written.


@functools.cache
def learner() -> tuple[Any, Any, Any]:
    """A learner of a thousand parameters, its configuration and its data."""
    info = points().info
    config = training.settle(tiny(precision="float32"), info)
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
        training.save(model(step), root / "run")


def several(root: Path, *steps: int) -> None:
    for step in steps:
        save(root, step)


def samples(root: Path, seed: int) -> None:
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    sample.write(root / "samples", x, torch.arange(20) % 10, digits(), {"seed": seed})


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
    told = reports.Metrics(root, [{**row, "step": float(k)} for k in range(rows)], False)
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
        "model over an older model",
        lambda r: training.save(model(8), r / "run"),
        lambda r: training.save(model(4), r / "run"),
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


def together(root: Path, folder: str, names: tuple[str, ...]) -> list[bytes | None]:
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
        found = together(root, folder, names)
        assert found in (together(old, folder, names), together(new, folder, names)), f"{folder} is of two kinds"
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
        assert training.load(root / "run").config["steps"] in (4, 8, 12)


def weights(made: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.network.parameters()]


# How it is broken.


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
                        assert together(done, folder, held) == together(new, folder, held), "what was saved is lost"
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
                    training.load(root / "run")
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
    "--batch 8 --network.name unet --network.options width 8 --output.validate-on 16 --output.picture-every 4 "
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
    assert training.load(root / "run").config["steps"] in (4, 6, 8)
    record = files.read_json(files.place(root / "samples", "sample.json"))
    for name, wanted in record["files"].items():
        assert files.digest(files.place(root / "samples", name).read_bytes()) == wanted, name
    assert files.read_json(root / "run" / "evaluation.json")["measures"]
    assert len((root / "x.lng").read_bytes()) > 50


def learner_of_run() -> Any:
    """A learner that the checkpoints of ``tiny`` fit."""
    config = training.settle(tiny(12), points().info)
    denoiser, objective = training.build(config, points().info)
    return Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=8)


def some(count: int, ways: tuple[int, ...], share: float, seed: str) -> list[tuple[int, int]]:
    """A share of the calls 1 … count in each way; the last is always among them."""
    chosen = random.Random(seed)
    return [(at, way) for way in ways for at in range(1, count + 1) if at == count or chosen.random() < share]


# A disk whose power fails.


@dataclass
class Inode:
    """A file's bytes or a folder's names, as they are and as they were last flushed."""

    now: Any
    flushed: Any


class Disk:
    """What a disk holds of a log of calls, as ``faults.c`` writes it, when the power fails after them.

    A rename is one step, as in any journal; nothing else is more than POSIX says: a file's bytes are there after fsync
    of it, a name after fsync of its folder.
    """

    def __init__(self, root: Path, held: Tree) -> None:
        self.root, self.top = os.path.realpath(root), Inode({}, {})
        for name, content in held.items():
            folder = self.top
            for part in Path(name).parts[:-1]:
                folder = folder.now.setdefault(part, Inode({}, {}))
            folder.now[Path(name).name] = Inode(content, content)
        for folder in self._folders(self.top):
            folder.flushed = dict(folder.now)

    def _folders(self, folder: Inode) -> Iterator[Inode]:
        yield folder
        for inner in folder.now.values():
            if isinstance(inner.now, dict):
                yield from self._folders(inner)

    def _at(self, path: str) -> tuple[dict[str, Inode], str]:
        """The names of the folder that a path is in, and its own."""
        folder, (*parts, name) = self.top, Path(path).relative_to(self.root).parts or ("",)
        for part in parts:
            folder = folder.now[part]
        return folder.now, name

    def call(self, what: str, one: str, two: str, number: str) -> None:
        """One line of the log."""
        names, name = self._at(one)
        if what == "mkdir":
            names[name] = Inode({}, {})
        elif what in ("create", "truncate"):
            held = names.setdefault(name, Inode(b"", b""))
            if what == "truncate":
                held.now = held.flushed = b""
        elif what == "write":
            names[name].now = names[name].now[: int(number)] + bytes.fromhex(two)
        elif what == "resize":
            names[name].now = names[name].now[: int(number)]
        elif what == "fsync":
            held = names[name] if name else self.top
            held.flushed = dict(held.now) if isinstance(held.now, dict) else held.now
        elif what == "unlink":
            del names[name]
        elif what == "rename":
            others, other = self._at(two)
            others[other] = names.pop(name)
        else:
            raise ValueError(what)

    def lay_out(self, folder: Path, names: bool) -> None:
        """Make what is left, with all names or with those that were flushed alone; bytes only where they were."""
        shutil.rmtree(folder, ignore_errors=True)

        def lay(inode: Inode, path: Path) -> None:
            if isinstance(inode.now, dict):
                path.mkdir()
                for name, inner in (inode.now if names else inode.flushed).items():
                    lay(inner, path / name)
            else:
                path.write_bytes(inode.flushed)

        lay(self.top, folder)


# The way in.


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
        words = [sys.executable, str(here), "9" if long else "0.2", name]
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
