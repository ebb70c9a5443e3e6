"""Pictures in, pictures out: files of any format and size read for a model, results written with their record."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import training
from .._errors import UserError, check_path
from ..data.images import Refused, beyond_8_bits, decode, in_threads, upright_size
from ..denoisers import Denoiser
from ..generate import Provenance, machine, versions
from ..storage import files
from .compress.images import places

MASKED = 128
"""Grey from which on a pixel of a mask counts as white."""

WHITE = f"what may change must be white, {MASKED} of 255 at least"
"""What is said of a mask without any."""

LINE = 160
"""Grey of the lines of a strip."""

STRIP = 8
"""Results that a strip shows at most."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a model takes it.

    Args:
        name: of the results, with folders, without a suffix.
        path: of the file.
        pixels: uint8 ``(H, W, C)``, as decoded.
        x: float32 ``(C, H, W)`` in the range of the data.
    """

    name: str
    path: Path
    pixels: np.ndarray
    x: Tensor


def find(source: str | os.PathLike[str], out: Path | None = None) -> list[tuple[str, Path]]:
    """Names and files of a picture, or of all below a folder (but for those with a leading dot), by name.

    Args:
        source: the picture or the folder.
        out: where results go, which must not be in that folder: they would be read as inputs the next time.

    Raises:
        UserError: for a source that is not there, or holds nothing.
    """
    check_path("input", source)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"input must be a picture or a folder of them, but {path} does not exist")
    if not path.is_dir():
        return [(path.stem or path.name, path)]
    if out is not None and out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"out {out} must not lie in the folder of the pictures, {path}: it would be read with them")
    found = sorted(p for p in path.rglob("*") if p.is_file())
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not found:
        raise UserError(f"input {path} holds no file; expected pictures")
    names = [p.relative_to(path).as_posix() for p in found]
    return [(place.with_suffix("").as_posix(), file) for place, file in zip(places(names), found)]


def image_model(model: Denoiser, name: str = "model") -> None:
    """Refuse a model that is not of grey or colour images with a known range."""
    data = model.output
    fine = data is not None and data.is_image and data.shape[0] in (1, 3) and data.low is not None
    if not fine or data.tokens:
        raise UserError(f"{name} must be of grey or colour images, got one of data of shape {model.output_shape}")


def check_sizes(found: Sequence[tuple[str, Path]], model: Denoiser, *, larger: bool = True) -> None:
    """Refuse pictures that are none, or smaller than the model's own (or of another size), by their headers alone.

    Raises:
        UserError: with the first of them.
    """
    height, width = model.output_shape[1:]
    sizes = in_threads(upright_size, [str(path) for _, path in found], "input", False)
    for (_, path), size in zip(found, sizes):
        if isinstance(size, Refused):
            raise UserError(f"{path}: {size}")
        exact = (size[1], size[0]) == (height, width)
        if not exact and (not larger or size[1] < height or size[0] < width):
            least = "at least " if larger else ""
            raise UserError(
                f"{path} has {size[0]} × {size[1]} pixels; this model needs {least}{width} × {height}: resize it first"
            )


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as it is seen, from its header alone.

    Raises:
        UserError: for a file that is no picture; it names the file.
    """
    try:
        return upright_size(os.fspath(path))
    except Refused as error:
        raise UserError(f"{path}: {error}") from None


def read(name: str, path: Path, model: Denoiser) -> Picture:
    """A picture file for a model of images, in its own size; warns of what is lost by 8 bits.

    Raises:
        UserError: for a file that is no picture; it names the file.
    """
    data = model.output
    try:
        if lost := beyond_8_bits(path):
            warnings.warn(f"{path} has {lost}, which is left out", stacklevel=2)
        pixels = decode(os.fspath(path), None, data.shape[0], False)
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    return Picture(name, path, pixels, data.low + x * ((data.high - data.low) / 255))


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> Tensor:
    """A mask file as bool ``(H, W)``: True where it is white.

    Args:
        path: a picture.
        size: H and W that it must have.

    Raises:
        UserError: for another size, or a file that is no picture.
    """
    check_path("mask", path)
    file = Path(path).expanduser()
    try:
        grey = decode(os.fspath(file), None, 1, False)[:, :, 0]
    except Refused as error:
        raise UserError(f"mask {file}: {error}") from None
    if grey.shape != size:
        got = f"{grey.shape[1]} × {grey.shape[0]}"
        raise UserError(f"mask {file} must have the size of the image, {size[1]} × {size[0]} pixels, got {got}")
    return torch.from_numpy((grey >= MASKED).copy())


def mask_of(mask: str | os.PathLike[str] | None, name: str) -> Path | None:
    """The mask file of an image: the file itself, or of a folder the one with the image's name."""
    if mask is None:
        return None
    check_path("mask", mask)
    path = Path(mask).expanduser()
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"mask must be a picture or a folder of them, but {path} does not exist")
        return path
    found = sorted((path / name).parent.glob(f"{(path / name).name}.*"))
    if not found:
        raise UserError(f"mask {path} holds none for {name}: a mask has the name of its image")
    return found[0]


def to_pixels(x: Tensor, model: Denoiser) -> np.ndarray:
    """Images ``(C, H, W)`` as uint8 ``(H, W, C)``: the nearest of 256 values."""
    low, high = model.output.low, model.output.high
    grey = ((x.detach().cpu().float() - low) * (255 / (high - low))).round().clamp(0, 255)
    return np.ascontiguousarray(grey.to(torch.uint8).permute(1, 2, 0).numpy())


def keep(made: np.ndarray, given: np.ndarray, free: Tensor | None) -> np.ndarray:
    """The bytes of ``given`` where nothing may change, and elsewhere those that were made.

    Args:
        made, given: uint8 ``(H, W, C)``.
        free: bool ``(H, W)``, True where the picture may change; None for everywhere.
    """
    return made if free is None else np.where(free.numpy()[..., None], made, given)


def as_png(pixels: np.ndarray) -> bytes:
    """uint8 ``(H, W, C)`` as a PNG file, grey or RGB."""
    from PIL import Image

    return training.png(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def strip(columns: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Pictures of one size beside each other under their names, as a PNG; small ones enlarged by a whole factor.

    Grey lines stand between and around them, so that a white picture does not run into the page.
    """
    channels = max(pixels.shape[-1] for _, pixels in columns)
    shown = [np.broadcast_to(p, (*p.shape[:2], channels)) for _, p in columns]
    x = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    names = [name for name, _ in columns]
    picture = training.image_grid(x, len(columns), low=0, high=255, line=LINE, names=names)
    return training.png(picture)


@dataclass(frozen=True, eq=False)
class Results:
    """A folder of results that goes on where an earlier call stopped.

    An image's results are OUT/NAME.png (of several, NAME-0.png, …), pictures about them, OUT/NAME-strip.png and
    OUT/NAME.json, which is written last: an image that has it, of the same request, is done.

    Args:
        out: the folder.
        request: what was asked for, plain JSON; results of another request are not added to.
        count: results an image.
        beside: other files that each image's results depend on, such as masks, by the image's name.
        about: names of pictures about all results of an image, such as ``mean``: OUT/NAME-mean.png.
        made: what the pictures say of how they were made; the first of its words is the input.
    """

    out: Path
    request: Mapping[str, Any]
    count: int = 1
    beside: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    about: Sequence[str] = ()
    made: Provenance | None = None

    def check(self, found: Sequence[tuple[str, Path]]) -> None:
        """Refuse names that meet, inputs that would be overwritten, and a folder with results of another request.

        Raises:
            UserError: with the first of them.
        """
        taken: dict[str, Path] = {}
        inputs = {os.path.realpath(path) for _, path in found}
        for name, path in found:
            for file in self.names(name):
                if file in taken:
                    raise UserError(f"{taken[file]} and {path} would both be written to {self.out / file}; rename one")
                if os.path.realpath(self.out / file) in inputs:
                    raise UserError(f"out {self.out} holds the input {path}, which would be overwritten")
                taken[file] = path
            self.done(name, path)

    def asked(self, name: str, path: Path) -> dict[str, Any]:
        """The request of one image: with the checksums of the files that it reads."""
        read = [path, *self.beside.get(name, ())]
        return {**self.request, "inputs": {file.name: _checksum(file) for file in read}}

    def names(self, name: str) -> list[str]:
        """The files of an image's results, the record last."""
        pictures = [f"{name}.png"] if self.count == 1 else [f"{name}-{i}.png" for i in range(self.count)]
        return [*pictures, *(f"{name}-{about}.png" for about in self.about), f"{name}-strip.png", f"{name}.json"]

    def done(self, name: str, path: Path) -> bool:
        """Whether an image's results are there.

        Raises:
            UserError: if they are of another request, or of another image.
        """
        record = self.out / f"{name}.json"
        if not record.exists():
            return False
        theirs, ours = files.read_json(record).get("request"), json.loads(files.as_json(self.asked(name, path)))
        if theirs != ours:
            what = _differing(theirs if isinstance(theirs, dict) else {}, ours)
            raise UserError(
                f"out holds results of another request, {record}: {what}; choose another --out, or remove it"
            )
        return True

    def left(self, found: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
        """The images that are still to be done."""
        return [(name, path) for name, path in found if not self.done(name, path)]

    def write(
        self,
        name: str,
        path: Path,
        made: Sequence[np.ndarray],
        columns: Sequence[tuple[str, np.ndarray]],
        record: Mapping[str, Any],
    ) -> None:
        """Write an image's results: the pictures, the strip of ``columns``, and the record.

        Args:
            name, path: of the image.
            made: ``count`` pictures, uint8 ``(H, W, C)``, and those of ``about``.
            columns: of the strip, with their names.
            record: what is to be said of it, plain JSON; the request, the files, the day, versions and machine are
                added.
        """
        *pictures, beside, last = self.names(name)
        contents = {file: as_png(pixels) for file, pixels in zip(pictures, made, strict=True)}
        contents[beside] = strip(columns)
        if self.made is not None:
            own = replace(self.made, words=(str(path), *self.made.words[1:]))
            read = [str(file) for file in (path, *self.beside.get(name, ()))]
            contents = {file: own.stamp(content, file, inputs=read) for file, content in contents.items()}
        for file, content in contents.items():
            files.replace(self.out / file, content)
        about = {
            "input": str(path),
            **record,
            "request": self.asked(name, path),
            "files": {Path(file).name: files.digest(content) for file, content in contents.items()},
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "machine": machine(),
        }
        files.replace(self.out / last, files.as_json(about))


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Which settings of two requests differ; of files and models, whose checksums nobody reads, that they do."""
    there, here = (dict(request.get("inputs") or {}) for request in (theirs, ours))
    parts = [f"{file} is another file" for file in here if there.get(file) != here[file]]
    parts += [f"{file} was read too" for file in there if file not in here]
    if theirs.get("model") != ours.get("model"):
        parts.insert(0, "the model is another")
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        if key not in ("inputs", "model") and theirs.get(key) != ours.get(key):
            parts.append(f"{key.replace('_', '-')} is {theirs.get(key)!r} there and {ours.get(key)!r} here")
    return "; ".join(parts)


def _checksum(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
