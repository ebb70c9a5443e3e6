"""One way in: a name, a folder, an array file, or the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from .._errors import UserError, nearest, shown
from .._registry import methods
from ..storage.untrusted import reading, reason
from . import array as _array
from . import folder as _folder
from . import hub as _hub
from .dataset import Dataset, Options

CAPTIONED = ("avatars", "emoji", "formulas", "glyphs", "glyphs-system")
"""Names of sets with captions."""


def load(
    source: str | os.PathLike[str],
    *,
    size: int | None = None,
    channels: int | None = None,
    flip: bool = False,
    crop: Literal["center", "random"] = "center",
    limit: int | None = None,
    degrade: str | None = None,
    text_encoder: str | None = None,
    streaming: bool = False,
    progress: bool = True,
) -> Dataset:
    """Load data, from [−1, 1] images or points, with a training and a held-out split.

    Args:
        source: a name (``digits``, ``moons``, ``words``, …; `langevin methods --category data`), a folder of images, a
            ``.npy`` or ``.npz`` file, or Hugging Face data as ``hf:NAME`` or a folder saved by ``save_to_disk``. A
            name wins over a folder called the same (write ``./digits`` for the folder).
        size: side of the square images to make; needed if the images differ in size.
        channels: 1 or 3; by default 3, or 1 if every image is grey.
        flip: mirror half of the training images, drawn anew at every visit.
        crop: the central square of each image, or for training a random window of it.
        limit: at most this many examples of each split, a fixed random choice.
        degrade: damage to images, whose result is the condition ``image``: ``resize=16,noise=0.1``; see
            ``data.degradations``.
        text_encoder: a text encoder of Hugging Face `transformers`, a directory or ``owner/name`` or
            ``owner/name@revision`` of the Hub: captions become the condition ``sequence``, its last hidden states, in
            the place of ``caption``; see ``data.text_features``.
        streaming: read Hugging Face data while they are trained on, never as a whole: for more than memory or the disk
            hold. The first 2,048 examples are kept in memory, and the description is theirs; held out are the first
            1,024 of the test or validation split, or of the only split. With ``limit`` only so many are fetched.
        progress: show a bar when decoding takes longer than two seconds.

    Raises:
        UserError: for a source that does not exist (with the nearest name), cannot be read or holds no usable data.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source).strip():
        raise UserError(f"source must be a name, a folder or a file, got {shown(source)}")
    options = Options(
        size=size,
        channels=channels,
        flip=flip,
        crop=crop,
        limit=limit,
        degrade=degrade,
        text_encoder=text_encoder,
        streaming=streaming,
        progress=progress,
    )
    name = os.fspath(source)
    known = {m.name: m.make for m in methods("data")}
    if streaming and not name.startswith(_hub.PREFIX) and (name in known or not _hub.is_saved(name)):
        raise UserError(f"streaming is for data of Hugging Face, hf:NAME or a folder saved by save_to_disk, not {name}")
    if name in known:
        if text_encoder is not None and name not in CAPTIONED:
            raise UserError(f"text_encoder is for data with captions, which {name} has none of")
        made: Dataset = known[name](options)
        return made
    if name.startswith(_hub.PREFIX):
        with reading(name):
            return _hub.hub(name, options)
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"data {name!r:.80} is no name and no path: {reason(error)}.") from None
    if path.is_dir():
        if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
            raise UserError(f"{name} is a model directory, not data")
        if not _hub.is_saved(path):
            return _folder.folder(path, options)
        with reading(path):
            return _hub.hub(str(path), options)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _array.array(path, options)
    if path.exists():
        raise UserError(f"{name}: a data file is .npy or .npz; for images, give their folder.")
    raise UserError(
        f"unknown data {name!r}: no data set of that name and no such file or folder."
        f"{nearest(name, [*known, *_neighbours(path)])} Known: {', '.join(sorted(known))}, a folder of images, "
        f"a .npy or .npz file, hf:NAME."
    )


def _neighbours(path: Path) -> list[str]:
    """What lies where the path was looked for, written as the path was."""
    try:
        return [str(p) for p in path.parent.iterdir() if p.is_dir() or p.suffix in (".npy", ".npz")]
    except OSError:
        return []
