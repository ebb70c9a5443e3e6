"""Kill processes that fill one directory with shards, go on, and compare with what nobody interrupted.

    python benchmarks/shards.py [--kills 100] [--ranks 2]

Every round starts ``langevin sample --shard-size … --rank …`` for each rank, kills all of them by SIGKILL after a
random time, and looks at what is there: a shard that was whole must not have been written again. After the last kill
the same calls run to their end, and every file must be, byte for byte, that of a call of one process that nobody
killed. Shards are small, so that a good share of the kills falls into a write.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from langevin.cli import main as command
from langevin.storage import files

N, SIZE, BATCH = 600, 8, 4
"""75 shards, whose writing takes about as long as their drawing."""

TRAIN = "train digits --steps 1 --batch 8 --network.options width 8 --output.validate-on 8 --output.sample-every 0"


def start(words: Sequence[str]) -> int:
    """A child process that runs a command line and says nothing."""
    child = os.fork()
    if child:
        return child
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os._exit(command(words))
    finally:
        os._exit(1)


def sampling(model: Path, out: Path, rank: int, ranks: int) -> list[str]:
    """The command line of a rank."""
    sizes = f"-n {N} --steps 1 --batch {BATCH} --shard-size {SIZE}"
    return ["sample", str(model), *sizes.split(), "--rank", f"{rank}/{ranks}", "--out", str(out)]


def written(out: Path) -> dict[str, tuple[int, int]]:
    """The shards in a directory, each with what changes when it is written again."""
    stats = {path.name: path.stat() for path in out.glob("shard-*.npz")}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}


def torture(folder: Path, kills: int, ranks: int, seed: int = 0) -> list[tuple[str, int, int]]:
    """Kill, go on, compare.

    Returns:
        Rows ``(what, good, tried)``: kills after which every shard that was there stayed as it was, and shards that are
        what an uninterrupted call writes.
    """
    torch.set_num_threads(1)  # threads of a parent are not there in a child
    model, alone, out = folder / "model", folder / "alone", folder / "out"
    if command([*TRAIN.split(), "--out", str(model)]) != 0:
        raise RuntimeError("no model")
    begun = time.monotonic()
    if os.waitstatus_to_exitcode(os.waitpid(start(sampling(model, alone, 0, 1)), 0)[1]) != 0:
        raise RuntimeError("no samples")
    whole = time.monotonic() - begun
    chance, kept, struck = random.Random(seed), 0, 0
    before = written(out)
    while struck < kills:
        children = [start(sampling(model, out, rank, ranks)) for rank in range(ranks)]
        time.sleep(chance.uniform(0, 1.5 * whole * max(8 / kills, 0.1)))
        for child in children:
            os.kill(child, signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in children]
        now = written(out)
        if any(os.WIFSIGNALED(end) for end in ends):
            struck += 1
            kept += all(now.get(name) == was for name, was in before.items())
        if len(now) == len(list(alone.glob("shard-*.npz"))):  # done before the last kill: begin again
            if not same(alone, out, model, ranks):
                return [("kills of `langevin sample`", 0, struck)]
            for path in out.iterdir():
                path.unlink()
            now = {}
        before = now
    good, tried = compared(alone, out, model, ranks)
    return [("kills of `langevin sample` that changed no whole shard", kept, struck), ("shards kept", good, tried)]


def compared(alone: Path, out: Path, model: Path, ranks: int) -> tuple[int, int]:
    """Run what is left to its end; how many shards are those of the uninterrupted call, and of how many."""
    for rank in range(ranks):
        if os.waitstatus_to_exitcode(os.waitpid(start(sampling(model, out, rank, ranks)), 0)[1]) != 0:
            raise RuntimeError("a restarted call failed")
    wanted = {path.name: path.read_bytes() for path in alone.iterdir()}
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    if found.keys() != wanted.keys() or any(name.startswith(files.TEMPORARY) for name in found):
        raise RuntimeError(f"left over or lost: {sorted(found.keys() ^ wanted.keys())}")
    return sum(found[name] == wanted[name] for name in wanted), len(wanted)


def same(alone: Path, out: Path, model: Path, ranks: int) -> bool:
    """Whether all of it is."""
    good, tried = compared(alone, out, model, ranks)
    return good == tried


def run(long: bool = False) -> list[tuple[str, int, int]]:
    """Rows ``(what, good, tried)`` of one and of three processes: 20 kills each, or 200."""
    rows = []
    for ranks in (1, 3):
        with tempfile.TemporaryDirectory() as folder:
            for what, good, tried in torture(Path(folder), 200 if long else 20, ranks):
                rows.append((f"{what}, {ranks} process{'es' * (ranks > 1)}", good, tried))
    return rows


@dataclass
class Settings:
    """What to do."""

    kills: int = 100
    """Rounds that end with a kill."""
    ranks: int = 2
    """Processes that share the work."""


def main(settings: Settings) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        for what, good, tried in torture(Path(folder), settings.kills, settings.ranks):
            print(f"{what:55} {good:5} of {tried}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
