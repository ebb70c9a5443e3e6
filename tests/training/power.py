"""A disk whose power fails: what is left of a log of calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios import Tree


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
