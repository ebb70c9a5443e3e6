"""A layer between a program and the disk that counts every call that writes, and kills or fails the program at one.

Two of one kind: ``faults.c``, loaded before the C library, sees every call whoever makes it; where there is no
compiler, ``Calls`` stands in for the functions of ``os``.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNT, BEFORE, AFTER, TORN, FAIL = range(5)
"""What is done at the call asked for: nothing; SIGKILL before it, after it, or with half its bytes written; an error at
it and at every later one (of a full disk, the first write still writes half)."""

SOURCE = Path(__file__).with_name("faults.c")


def compiled(folder: Path) -> Path | None:
    """The library, made in a folder; None where there is no C compiler or no such mechanism."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, SOURCE, "-ldl"], check=True)
    return made


class Library:
    """``faults.c``, if this process was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def arm(self, root: Path, how: int, at: int = 0, error: int = 0, log: int = -1) -> None:
        """From now on, below a root."""
        self._library.faults_arm(os.fsencode(os.path.realpath(root)), how, at, error, log)

    @property
    def seen(self) -> int:
        """Calls that wrote."""
        return int(self._library.faults_seen())


class Calls:
    """The same by standing in for the functions of ``os``; for a forked child, which never puts them back."""

    def __init__(self) -> None:
        self.seen = 0

    def arm(self, root: Path, how: int, at: int = 0, error: int = 0, log: int = -1) -> None:
        """From now on, below a root."""
        self.root, self.how, self.at, self.error, self.seen = os.path.realpath(root), how, at, error, 0
        for name in ("open", "write", "fsync", "ftruncate", "mkdir", "rmdir", "unlink", "rename", "replace"):
            setattr(os, name, self._between(name, getattr(os, name)))

    def _below(self, name: Any, dir_fd: int | None) -> bool:
        if isinstance(name, int):
            path = os.readlink(f"/proc/self/fd/{name}")
        else:
            path = os.path.join(os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}"), name)
        return path == self.root or path.startswith(self.root + "/")

    def _between(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*words: Any, **named: Any) -> Any:
            reads = name == "open" and not words[1] & (os.O_CREAT | os.O_TRUNC)
            if reads or not self._below(words[0], named.get("dir_fd")):
                return real(*words, **named)
            self.seen += 1
            now, size = self.seen == self.at, len(words[1]) if name == "write" else 0
            if now and self.how in (BEFORE, TORN):
                if self.how == TORN and size:
                    real(words[0], words[1][: size // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            full = self.how == FAIL and self.error == errno.ENOSPC
            if now and full and size > 1:
                return real(words[0], words[1][: size // 2])
            if self.how == FAIL and self.seen >= self.at and not (full and name in ("rmdir", "unlink")):
                raise OSError(self.error, os.strerror(self.error))
            try:
                return real(*words, **named)
            finally:
                if now and self.how == AFTER:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call


def layer() -> Library | Calls:
    """What this process has."""
    return Library() if "faults.so" in os.environ.get("LD_PRELOAD", "") else Calls()
