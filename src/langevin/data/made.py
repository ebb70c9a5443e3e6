"""Data sets of pictures that are drawn here, each of a description that says its caption and its attributes."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from .._errors import UserError
from ..storage import files
from ..storage.untrusted import room
from ._numpy import arrays
from ._progress import track
from .dataset import Dataset, Examples, Options, assemble, limited
from .packages import cache
from .text_features import caption_conditions


class Described(Protocol):
    """What a picture is drawn of."""

    @property
    def caption(self) -> str:
        """What the model is told."""

    @property
    def attributes(self) -> dict[str, str]:
        """Words about the picture, by name (see ``Split.attributes``)."""


D = TypeVar("D", bound=Described)


def side_of(
    name: str, options: Options, low: int, high: int, *, grey: bool = False, mirrored: bool = False, side: str = ""
) -> int:
    """The height of the pictures that are asked for, 32 if none is.

    Args:
        name: of the data set.
        options: as they are asked for.
        low, high: the least and the greatest height.
        grey: whether the pictures are grey, and not in colour.
        mirrored: whether they may be.
        side: what the size is of, for messages.

    Raises:
        UserError: for another size, other channels, windows of pictures, or mirrored ones.
    """
    height = options.size or 32
    whole = options.crop == "center" and (mirrored or not options.flip)
    if options.channels not in (None, 1 if grey else 3) or not whole or not low <= height <= high:
        ways = f"{'grey' if grey else 'in colour'}{' and whole' if mirrored else ', whole and never mirrored'}"
        raise UserError(f"{name}: images are {ways}, with a size{side} of {low} to {high}; got other options.")
    return height


def chosen(keys: Iterable[str | int], limit: int | None) -> list[int]:
    """The places of the examples that a limit leaves, each decided by its own key."""
    names = [str(key) for key in keys]
    found: list[int] = limited(names, np.zeros(len(names), dtype=bool), limit).tolist()
    return found


def stacked(frames: Iterable[np.ndarray], count: int, title: str, progress: bool) -> np.ndarray:
    """Pictures of one shape as they are drawn, ``(count, …)``, with a bar."""
    x = np.empty(0)
    for i, frame in enumerate(track(frames, count, title, progress)):
        if not i:
            x = np.empty((count, *frame.shape), np.uint8)
        x[i] = frame
    return x


def code_of(*paths: str | os.PathLike[str]) -> str:
    """The SHA-256 of files of code: with other code, other pictures are made."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def drawn_set(
    name: str,
    parts: Sequence[Sequence[D]],
    draw: Callable[[Sequence[D]], np.ndarray],
    options: Options,
    *,
    shape: tuple[int, int, int],
    words: tuple[str, ...],
    caption: int,
    classes: Sequence[str] = (),
    label: Callable[[D], int] | None = None,
) -> Dataset:
    """A data set of pictures of descriptions.

    The whole set is drawn once and kept in the cache; what a limit leaves is drawn every time.

    Args:
        name: of the data set.
        parts: what there is to train on and what is held out, as far as ``options.limit`` leaves it.
        draw: the pictures of some, uint8 ``(N, *shape)``.
        options: as they are asked for.
        shape: of a picture.
        words: all that decides what is drawn, such as checksums of fonts and of the code.
        caption: tokens of a caption at most, its end included.
        classes: names of the classes.
        label: the class of a description.
    """
    together = [one for part in parts for one in part]
    room(len(together) * shape[0] * shape[1] * shape[2], f"{name} at size {shape[1]}")
    whole = lambda: draw(together)
    x = torch.from_numpy(whole() if options.limit is not None else kept(f"{name}-{shape[1]}", words, whole))
    told = caption_conditions([[one.caption for one in part] for part in parts], options, name, caption)
    made = []
    for part, images, conditions in zip(parts, x.split([len(part) for part in parts]), told):
        named = [one.attributes for one in part]
        own = {} if label is None else {"label": torch.tensor([label(one) for one in part])}
        attributes = {key: [row[key] for row in named] for key in named[0]}
        made.append(Examples(images, {**own, **conditions}, attributes))
    return assemble(name, made, options, classes=classes, levels=256)


def kept(name: str, words: tuple[str, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array of the cache, made and put there if it is not.

    A file that is damaged is made again. Where the cache cannot be written, the array is made every time, with a
    warning.

    Args:
        name: of the data set, and what distinguishes its variants.
        words: all that decides what is made.
        make: makes it.
    """
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    path = cache() / "made" / f"{name}-{key}.npz"
    if path.is_file():
        try:
            return arrays(path, ("x",))["x"]
        except UserError:
            pass
    made = make()
    content = io.BytesIO()
    np.savez(content, x=made)
    try:
        files.replace(path, content.getvalue())
    except (files.DiskError, OSError) as error:
        warnings.warn(f"{name} is not kept, and will be made again: {error}", stacklevel=2)
    return made
