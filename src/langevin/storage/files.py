"""Files and directories that are written whole or not at all, by one process at a time.

Whatever is killed, and whenever: a name holds what it held or what was meant for it. A file is staged beside its place,
flushed to the disk, and renamed over it; so is a directory; files that belong together wait in ``.next`` once all of
them are on the disk, and are moved out of it one by one, by the next writer if this one cannot.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shlex
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._errors import UserError
from .formats import as_json, as_safetensors, digest, digests, only, read, read_json, read_safetensors  # noqa: F401
from .safetensors_io import fit, is_finite, outline  # noqa: F401 (whoever works with files asks this one for all of it)
from .untrusted import open_file

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".tmp-langevin-"
"""What the name of an unfinished file or directory begins with."""

NEXT, LOCK, MANIFEST = ".next", ".lock", "manifest.json"
"""In a directory: files that are whole but not in their places yet; who writes in it; what it holds."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
"""What a file system without locks answers, or one that locks no directories."""

_WRITE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
_count = itertools.count()
_held: dict[str, int] = {}


class DiskError(OSError, UserError):
    """The disk is full, or refuses: which path, and why."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Name the path that was to be written, whatever call failed on the way."""
    try:
        yield
    except OSError as error:
        raise DiskError(error.errno, error.strerror or str(error), str(path)) from error


def make(folder: Path) -> list[Path]:
    """Make a directory and its parents, and wait until the disk has their names; return those that were not there."""
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    with _telling(folder):
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            _settle(path.parent)
    return missing


def write(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file and wait until the disk has it; return its size and checksum."""
    with _telling(path):
        _fill(os.open(path, _WRITE | os.O_TRUNC, 0o666), content)
    return digest(content)


def append(path: Path, content: bytes) -> None:
    """Write at the end of a file; not waited for."""
    with _telling(path):
        _fill(os.open(path, _WRITE | os.O_APPEND, 0o666), content, wait=False)


def replace(path: Path, content: bytes) -> None:
    """Write a file beside the path and put it in the path's place in one step: a reader sees the old or the new.

    Raises:
        DiskError: with the path, which then holds what it held.
    """
    make(path.parent)
    sweep(path.parent)
    with _telling(path), _staged(path) as beside:
        write(beside, content)
        os.replace(beside, path)
        _settle(path.parent)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the name ``path`` in one step when all its files are on the disk.

    If anything fails it is removed, and ``path`` does not exist.
    """
    make(path.parent)
    sweep(path.parent)
    with _telling(path), _staged(path, folder=True) as beside:
        yield beside
        for inner, _, _ in os.walk(beside, topdown=False):
            _settle(Path(inner))
        os.rename(beside, path)
        _settle(path.parent)


def remove(folder: Path) -> None:
    """Remove a directory with all that is in it: its name goes in one step, and is never one of a part of it."""
    with _telling(folder):
        os.rename(folder, beside := _aside(folder))
        _settle(folder.parent)
        shutil.rmtree(beside)


def publish(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Put files that belong together into a directory: ``place`` finds all of the old or all of the new, at any time.

    A name with a slash, as ``images/0.png``, is of a file in a directory, which replaces one of its name whole.

    Raises:
        UserError: if another process writes in the directory.
        DiskError: the directory then holds what it held.
    """
    with _telling(folder), lock(folder):
        with directory(folder / NEXT) as beside:
            for name, content in contents.items():
                make((beside / name).parent)
                write(beside / name, content)
        _finish(folder)


def place(folder: Path, name: str) -> Path:
    """Where a file of a directory is: in its place, or still in ``.next`` if its writer was killed on the last step."""
    waiting = folder / NEXT / name
    return waiting if waiting.exists() else folder / name


def mark(folder: Path, name: str) -> tuple[str, int, int] | None:
    """What tells one version of a file of a directory from the next."""
    path = place(folder, name)
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path), found.st_ino, found.st_mtime_ns


def _finish(folder: Path) -> None:
    """Move what waits in ``.next`` into its place."""
    waiting = folder / NEXT
    if waiting.is_dir():
        with _telling(folder):
            for name in sorted(os.listdir(waiting)):
                if (waiting / name).is_dir() and (folder / name).is_dir():
                    remove(folder / name)  # a directory is renamed over an empty one alone
                os.replace(waiting / name, folder / name)
            _settle(folder)
            os.rmdir(waiting)


@contextlib.contextmanager
def lock(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Keep every other process from writing in a directory, which is made if it does not exist.

    The kernel holds the lock (flock on ``.lock``) and frees it however the process ends. A block within another of the
    same process is one with it. What a killed process left in the directory is finished, or removed, first. Processes
    that share a directory by parts lock a ``name`` each.

    Raises:
        UserError: if another process has it, with its number.
    """
    if sys.platform == "win32" or (key := os.path.realpath(folder / name)) in _held:
        yield
        return
    made, path = make(folder), folder / name
    with _telling(path):
        handle = _claim(path)
    if handle is None:
        raise UserError(f"{folder} is in use by {_owner(path)}; wait until it ends, or choose another directory")
    _held[key] = handle
    try:
        with _telling(path):
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()} {socket.gethostname()} {_command()}\n".encode())
        sweep(folder)
        if name == LOCK:
            _finish(folder)
        yield
    finally:
        if _held.pop(key, None) is not None:  # a forked child has none
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(handle)
            with contextlib.suppress(OSError):
                for empty in made:
                    os.rmdir(empty)


def _forget() -> None:
    """In a forked child: the locks are its parent's, and end with it."""
    for handle in _held.values():
        os.close(handle)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)


def _claim(path: Path) -> int | None:
    """Open a lock file and lock it; None if another has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            warnings.warn(f"{path.parent} has no file locks: nothing keeps two processes apart there", stacklevel=5)
        if _is(handle, path):
            return handle
        os.close(handle)  # its owner removed it as it ended: that was no lock of this directory any more


def _owner(path: Path) -> str:
    """Who holds a lock file."""
    with contextlib.suppress(OSError, ValueError):
        pid, host, command = path.read_text(errors="replace").rstrip("\n").split(" ", 2)
        return f"process {int(pid)} on {host} ({command})"
    return "another process"


def _command() -> str:
    name = Path(sys.argv[0]).name
    return shlex.join(["langevin" if name == "__main__.py" else name, *sys.argv[1:]])


def _aside(path: Path) -> Path:
    """A name beside a path that nothing has, and that says what it is for."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{os.urandom(3).hex()}{next(_count)}-{path.name[-60:].lstrip('.')}")


@contextlib.contextmanager
def _staged(path: Path, folder: bool = False) -> Iterator[Path]:
    """A new file or directory beside a path, locked while it is written, and removed if that fails."""
    handle = None
    while True:
        beside = _aside(path)
        if folder:
            os.mkdir(beside)
        if sys.platform == "win32":
            break
        # Whoever sweeps may come between the making and the locking: then again, with another name.
        with contextlib.suppress(FileNotFoundError) if folder else contextlib.nullcontext():
            handle = os.open(beside, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is(handle, beside):
                break
            os.close(handle)
    try:
        yield beside
    except BaseException:
        _discard(beside)
        raise
    finally:
        if handle is not None:
            os.close(handle)


def _is(handle: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in a directory: what its writer, being gone, holds no lock of."""
    if sys.platform == "win32":
        return
    for name in os.listdir(folder):
        if name.startswith(TEMPORARY):
            path = folder / name
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _discard(path)
                finally:
                    os.close(handle)


def _discard(path: Path) -> None:
    """Remove a file or directory as far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _fill(handle: int, content: bytes, wait: bool = True) -> None:
    """Write all of the content, wait until the disk has it, and close."""
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        if wait:
            os.fsync(handle)
    finally:
        os.close(handle)


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk (POSIX; elsewhere a folder can't be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # some network file systems have no such call
                raise
        finally:
            os.close(handle)


def seal(folder: Path, held: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of a directory, last: ``held`` is what ``write`` said of each of its files."""
    write(folder / MANIFEST, as_json({"langevin": 1, "kind": "manifest", "files": held}))


def manifest(folder: Path, names: set[str]) -> dict[str, Any]:
    """The sizes and checksums of a directory's files.

    Raises:
        UserError: if there is no manifest, or it is not of these files.
    """
    file = folder / MANIFEST
    values = read_json(file)
    only(file, values, {"langevin", "kind", "files"})
    held = digests(file, values["files"], names)
    only(file, held, names)
    return held


def agree(folder: Path, held: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse files of a directory that are not those whose sizes and checksums are given.

    Raises:
        UserError: with the first that is missing or another.
    """
    for name, wanted in held.items():
        path, found, size = folder / name, hashlib.sha256(), 0
        try:
            with open_file(place(folder, name)) as file:
                while part := file.read(2**20):
                    found.update(part)
                    size += len(part)
        except FileNotFoundError:
            raise UserError(f"{path} is missing") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if size != wanted["bytes"]:
            raise UserError(f"{path} is damaged: it has {size} bytes, {wanted['bytes']} were written")
        if found.hexdigest() != wanted["sha256"]:
            raise UserError(f"{path} is damaged: its SHA-256 is not that of the {size} bytes that were written")
