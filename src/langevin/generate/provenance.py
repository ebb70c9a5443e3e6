"""What a picture says of how it was made: the command in words, and checksums of all that it depends on.

It travels as text inside the PNG file, where viewers show it and ``langevin replay`` reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .._errors import UserError
from ..storage import files, png
from ..storage.untrusted import parse_json, reading, settings
from .environment import versions

KEYWORD = "langevin"
"""Keyword of the text in a PNG file."""

FORMAT = 2
"""Version of what is written; a reader refuses what it does not know."""


@dataclass(frozen=True)
class Provenance:
    """How a picture was made.

    Args:
        command: of ``langevin``, such as ``sample``.
        words: what followed it on the command line, without where results go.
        file: the picture, below the directory of the results.
        settings: what was chosen, by the command where it was not asked for: seed, sampler, grid, steps, condition. To
            be looked at; a picture is drawn again by its words.
        model: SHA-256 of the files of the model.
        inputs: SHA-256 of each file that was read, and of the files of an encoder, by the path or name that was given.
        index: of a sample, its number, of which its noise is a function.
        pixels: SHA-256 of its pixels, row by row.
        versions: of langevin and of what the figures depend on.
        device: that it was computed on.
    """

    command: str
    words: tuple[str, ...]
    model: str
    file: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    index: int | None = None
    pixels: str = ""
    versions: Mapping[str, str] = field(default_factory=versions)
    device: str = "cpu"

    def stamp(
        self,
        content: bytes,
        file: str,
        *,
        index: int | None = None,
        inputs: Sequence[str] = (),
        label: str | None = None,
    ) -> bytes:
        """A PNG file with this in it.

        Args:
            content: the file, as it was made.
            file: its name, below the directory of the results.
            index: number of the sample that it shows, if it shows one.
            inputs: files that it depends on.
            label: name of the sample's class.
        """
        said = {
            "langevin": FORMAT,
            **asdict(self),
            "file": file,
            "index": index,
            "settings": {**self.settings, **({} if label is None else {"label": label})},
            "inputs": {**self.inputs, **{path: checksum(path) for path in inputs}},
            "pixels": digest_of(pixels_of(content)),
        }
        return png.with_text(content, KEYWORD, files.as_json(said).decode())

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Provenance:
        """What a PNG file says.

        Raises:
            UserError: for a file that is no PNG file, that says nothing, or something that is not understood.
        """
        text = png.text_of(path, KEYWORD)
        if text is None:
            raise UserError(
                f"{os.fspath(path)} does not say how it was made: it is not of langevin sample, disco, edit, "
                "restore or purify, was written with --no-metadata, or another program has saved it since"
            )
        with reading(path):
            said = parse_json(text.encode())
            if not isinstance(said, dict) or said.pop("langevin", None) != FORMAT:
                raise UserError("it was made by another version of langevin")
            return cls(**settings(cls, said, "provenance"))


def pixels_of(content: bytes) -> np.ndarray:
    """The pixels of a PNG file, uint8 ``(H, W, C)``."""
    from ..data.images import decode

    with reading("picture"):
        return decode(content, None, None, False)


def digest_of(pixels: np.ndarray) -> str:
    """SHA-256 of pixels and their shape."""
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be read: {error.strerror}") from None
