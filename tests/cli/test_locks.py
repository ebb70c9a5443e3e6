"""Two processes on one directory, and disks that refuse: one sentence, and what was there is."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from said import Run

from langevin import UserError
from langevin.storage import files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of a POSIX kernel")

HOLD = """
import contextlib, os, signal, sys
from pathlib import Path
from langevin.storage import files
sys.argv = ["/usr/bin/langevin", "train", "digits"]
stack = contextlib.ExitStack()
for line in sys.stdin:
    stack.enter_context(files.lock(Path(line.strip())))
    if os.fork() == 0:  # a worker, that outlives its parent
        signal.pause()
    print("held", flush=True)
"""


@pytest.fixture(scope="module")
def holder() -> Iterator[tuple[int, Callable[[Path], None]]]:
    """A process that holds what it is told to, and its number."""
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert held.stdin
    assert held.stdout

    def hold(folder: Path) -> None:
        held.stdin.write(f"{folder}\n")  # type: ignore[union-attr]
        held.stdin.flush()  # type: ignore[union-attr]
        assert held.stdout.readline() == "held\n"  # type: ignore[union-attr]

    yield held.pid, hold
    os.killpg(held.pid, signal.SIGKILL)
    held.wait()


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    return shutil.copytree(model, tmp_path / "own")


COMMANDS = {
    "train": ["train", "digits", "--out", "{out}", "--steps", "2"],
    "train --resume": ["train", "digits", "--out", "{model}", "--resume", "--steps", "4"],
    "sample": ["sample", "{model}", "-n", "8", "--out", "{out}"],
    "likelihood": ["likelihood", "{model}", "digits", "-n", "8", "--bound", "--steps", "2", "--out", "{out}"],
    "demo": ["demo", "--out", "{out}", "--quick"],
    "tune": ["tune", "{model}", "--steps", "3", "-n", "8"],
    "calibrate": ["calibrate", "{model}", "-n", "16"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_the_second_process_is_refused(
    langevin: Run, own: Path, tmp_path: Path, holder: tuple[int, Callable[[Path], None]], words: list[str]
) -> None:
    """Before its work, with the first one's number; nothing is written, and the first goes on."""
    pid, hold = holder
    out = tmp_path / "out"
    for folder in (out, own):
        hold(folder)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    said = langevin(*(word.format(model=own, out=out) for word in words))
    assert said.code == 2
    folder = own if "{out}" not in words else out
    host = os.uname().nodename
    start = f"langevin {words[0]}: {folder} is in use by process {pid} on {host} (langevin train digits); wait until"
    assert said.err.startswith(start), said.err
    assert said.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_killed_process_holds_nothing(langevin: Run, model: Path, tmp_path: Path) -> None:
    """Nor do the workers that it forked; its lock file is no obstacle, and is gone in the end."""
    out = tmp_path / "out"
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert held.stdin
    assert held.stdout
    held.stdin.write(f"{out}\n")
    held.stdin.flush()
    assert held.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {held.pid} "), files.lock(out):
        pass
    held.kill()
    held.wait()
    assert (out / files.LOCK).exists()
    said = langevin("sample", model, "-n", 8, "--out", out)
    os.killpg(held.pid, signal.SIGKILL)
    assert said.code == 0, said.err
    assert sorted(p.name for p in out.iterdir()) == ["grid.png", "sample.json", "samples.npz"]


def test_a_lock_leaves_nothing(tmp_path: Path) -> None:
    """Within a process it is one; a folder that it made and nothing was put into is gone again."""
    folder = tmp_path / "a" / "b"
    with files.lock(folder), files.lock(tmp_path / "a" / "." / "b"):
        assert (folder / files.LOCK).read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / "a").exists()
    with pytest.raises(KeyError), files.lock(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_owner_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file may go between the opening and the locking: a lock of a file without a name keeps nobody out."""
    real, first = files.fcntl.flock, []

    def flock(handle: int, what: int) -> None:
        if not first:
            first.append(handle)
            os.unlink(tmp_path / files.LOCK)
        real(handle, what)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.lock(tmp_path):
        assert (tmp_path / files.LOCK).exists()


def test_parts_of_one_directory(tmp_path: Path, holder: tuple[int, Callable[[Path], None]]) -> None:
    """Processes that share a directory lock a name each; one that needs all of it locks the directory."""
    with files.lock(tmp_path, ".lock-0-of-2"):
        with files.lock(tmp_path, ".lock-1-of-2"), files.lock(tmp_path):
            assert len(list(tmp_path.iterdir())) == 3
        assert [p.name for p in tmp_path.iterdir()] == [".lock-0-of-2"]
    holder[1](tmp_path)
    with files.lock(tmp_path, ".lock-0-of-2"), pytest.raises(UserError, match="in use by"), files.lock(tmp_path):
        pass


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and work goes on."""

    def none(handle: int, what: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", none)
    with pytest.warns(UserWarning, match=f"{tmp_path} has no file locks: nothing keeps two processes apart"):
        files.publish(tmp_path, {"a": b"1"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


WRITERS = {
    "train": ["train", "digits", "--out", "{model}", "--resume", "--steps", "4"],
    "sample": ["sample", "{model}", "-n", "8", "--steps", "2", "--out", "{out}"],
    "evaluate": ["evaluate", "{model}", "-n", "8", "--steps", "2", "--features", "pixels", "--out", "{out}.json"],
    "compress": ["compress", "digits", "-o", "{out}.lng", "--model", "{model}", "--limit", "1"],
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_refuses(
    langevin: Run, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], number: int
) -> None:
    """Full, read-only, or permission lost, as the bytes are to be flushed: path and cause in one line, nothing torn."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    said = langevin(*(word.format(model=own, out=tmp_path / "out") for word in words))
    monkeypatch.undo()
    last = said.err.splitlines()[-1]
    assert said.code == (2 if words[0] == "train" else 1), said.err
    assert last.startswith(f"langevin {words[0]}: ")
    assert f" cannot be written: {os.strerror(number)}" in last
    assert str(tmp_path) in last
    assert "Traceback" not in said.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert langevin(*(word.format(model=own, out=tmp_path / "out") for word in words)).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A real file system of 300 kB at ``tmp_path/disk``, and a way to mount it anew with other options."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path / "disk")]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(tmp_path / "disk")], check=True)  # type: ignore[misc, func-returns-value]
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_real_disk_fills_up(langevin: Run, model: Path, tmp_path: Path, small_disk: Callable[[str], None]) -> None:
    """The samples of the first call stay; with room made, the second gets there."""
    out = tmp_path / "disk" / "samples"
    assert langevin("sample", model, "-n", 64, "--steps", 1, "--out", out).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = langevin("sample", model, "-n", 2000, "--steps", 1, "--out", out)
    assert said.code == 1
    assert said.err == f"langevin sample: {out} cannot be written: No space left on device\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    small_disk("size=10m")
    assert langevin("sample", model, "-n", 2000, "--steps", 1, "--out", out).code == 0
    small_disk("ro")
    said = langevin("sample", model, "-n", 8, "--steps", 1, "--out", out)
    small_disk("rw")
    assert said.code != 0
    assert str(out) in said.err
    assert said.err.count("\n") == 1
