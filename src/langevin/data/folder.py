"""A folder of pictures: sub-folders are classes, or flat and unlabelled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch

from .._errors import UserError
from . import captions
from .dataset import Dataset, Examples, Options, adjust_split, assemble, held_out, limited
from .images import Refused, centre, read_all, stack
from .text_features import encode_captions

PAIRS = ("test", "val", "valid", "validation")
"""Names of the held-out sub-folder beside ``train``, the preferred first."""


FILES = 10**8
"""Files below a folder at most."""


class Picture(NamedTuple):
    """A file to read: its path, its key (the path inside the folder) and its class, if it lies in a sub-folder."""

    path: str
    key: str
    folder: str | None


def folder(path: str | os.PathLike[str], options: Options | None = None) -> Dataset:
    """Read a folder of pictures, decoded once, in parallel, and kept as uint8.

    Every file below the folder is tried (names with a leading dot are not); what Pillow cannot read is skipped and
    listed in ``Dataset.skipped``. Sub-folders are classes, in the order of their names; a folder without sub-folders
    is unlabelled. Sub-folders ``train`` and ``test`` (or ``val``) are the two splits, with the classes inside them;
    otherwise one picture in ten is held out by a hash of its path, so that adding pictures moves none between splits.

    The caption of ``NAME.png`` is the text of ``NAME.txt`` beside it, else that of its row in ``metadata.jsonl`` or
    ``metadata.csv`` at the top of the folder or of a split, with the columns ``file_name`` and ``caption`` or ``text``.
    Captions become the condition ``caption``, as many tokens as the longest has, at most 256 (see ``nn.text``); a
    picture may have none. With ``text_encoder`` they become the condition ``sequence`` instead (see
    ``data.text_features``).

    Raises:
        UserError: folder unreadable, empty, or without a readable picture; pictures beside class folders; several
            sizes and no ``size``; no picture left to hold out.
    """
    options = options or Options()
    root = Path(path)
    name = root.resolve().name or "folder"
    title = str(path)
    parts = _parts(root, title)
    tops = (root,) if parts is None else parts
    walked = [list(_walk(top, title)) for top in tops]
    tables = [f.path for found in walked for f in found if f.key in captions.TABLES]
    skipped: list[tuple[str, str]] = []
    if parts is not None:
        tables += [str(root / name) for name in captions.TABLES if (root / name).is_file()]
        skipped = [
            (str(p), "beside train and test") for p in _visible(root, title) if p not in (*parts, *map(Path, tables))
        ]
    texts = captions.beside([f.path for found in walked for f in found if f.path not in tables])
    apart = {*tables, *texts.values()}
    walked = [[f for f in found if f.path not in apart] for found in walked]
    files = [f for found in walked for f in found]
    if not files:
        raise UserError(f"{title} holds no file that may be a picture; expected pictures, in class folders or flat.")
    test = held_out([f.key for f in files]) if parts is None else np.repeat([False, True], [len(f) for f in walked])
    chosen = limited([f.key for f in files], test, options.limit)
    files, test = [files[i] for i in chosen], test[chosen]

    arrays, refused = _read(files, options, title)
    skipped += refused
    keep = [i for i, array in enumerate(arrays) if array is not None]
    asked = {texts[f.path] for f in files if f.path in texts}
    files, test, images = [files[i] for i in keep], test[keep], [a for a in arrays if a is not None]
    told, unread = _captions([f.path for f in files], texts, tables)
    lost = asked - {texts[f.path] for f in files if f.path in texts}
    skipped += [*unread, *((path, "text beside what is no picture") for path in sorted(lost))]

    classes = _classes(files, title)
    label = np.array([classes.index(f.folder) for f in files if f.folder], dtype=np.int64) if classes else None
    if parts is None:
        test = adjust_split([f.key for f in files], test, label, title)
    elif test.all() or not test.any():
        raise UserError(f"{title}: {'train' if test.all() else parts[1].name} holds no readable picture.")
    about = {"classes": classes, "source": title, "skipped": skipped}
    return pictures(name, images, label, test, options, told, **about)


def pictures(
    name: str,
    images: Sequence[np.ndarray],
    label: np.ndarray | None,
    test: np.ndarray,
    options: Options,
    told: Sequence[str | None] = (),
    **about: Any,
) -> Dataset:
    """The data set of decoded pictures ``(H, W, C)`` uint8 with their labels and what they are ``told``, captions.

    ``test`` marks the held-out ones.
    """
    conditions = {} if label is None else {"label": torch.from_numpy(label)}
    if options.text_encoder is not None:
        conditions["sequence"] = encode_captions(told, options.text_encoder, name, options.progress)
    elif (caption := captions.tokens(told, name)) is not None:
        conditions["caption"] = caption
    channels = options.channels or max(image.shape[-1] for image in images)
    window = options.size if options.crop == "random" else None
    parts = []
    for mask, ragged in ((~test, window is not None), (test, False)):
        rows = np.flatnonzero(mask).tolist()
        part = [images[i] for i in rows]
        if window is not None and not ragged:
            part = [centre(image, window) for image in part]
        x = stack(part, channels, ragged)
        parts.append(Examples(x, {key: value[rows] for key, value in conditions.items()}))
    return assemble(name, parts, options, levels=256, **about)


def _captions(
    paths: Sequence[str], texts: Mapping[str, str], tables: Sequence[str]
) -> tuple[list[str | None], list[tuple[str, str]]]:
    """The caption of each picture, or ``None``, and which files of captions were refused, and why."""
    told: dict[str, str | None] = {}
    refused = []
    for table in sorted(tables, key=lambda path: captions.TABLES.index(os.path.basename(path)), reverse=True):
        try:
            told |= captions.read_table(table)
        except UserError as error:
            refused.append((table, str(error)))
    for path in paths:
        if path in texts:
            try:
                told[path] = captions.read_text(texts[path])
            except UserError as error:
                refused.append((texts[path], str(error)))
    return [told.get(path) for path in paths], refused


def _parts(root: Path, title: str) -> tuple[Path, Path] | None:
    """The sub-folders of the training and the held-out pictures, if the folder is so divided."""
    below = {p.name: p for p in _visible(root, title) if os.path.isdir(p)}
    other = next((below[pair] for pair in PAIRS if pair in below), None)
    return (below["train"], other) if "train" in below and other is not None else None


def _visible(root: Path, title: str) -> list[Path]:
    """Entries of a folder without a leading dot, by name."""
    try:
        return sorted(p for p in root.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{title}: cannot read folder {root}: {error.strerror or error}.") from None


def _walk(root: Path, title: str) -> Iterator[Picture]:
    """Every file below ``root``, by name; linked folders are followed, each real folder once, and none upwards."""
    known = lambda folder: os.stat(folder)[1:3]
    # A link to a folder that this one is in would lead through the whole disk.
    seen = {known(folder) for folder in (root.resolve(), *root.resolve().parents)}
    waiting = _visible(root, title)[::-1]
    found = 0
    while waiting:
        entry = waiting.pop()
        if os.path.isdir(entry):
            if known(entry) not in seen:
                seen.add(known(entry))
                waiting += _visible(entry, title)[::-1]
            continue
        if (found := found + 1) > FILES:
            raise UserError(f"{title} holds more than {FILES} files.")
        inside = PurePath(os.path.relpath(entry, root))
        # The key starts at the class, so that a set keeps its split when its folder is renamed or moved.
        yield Picture(str(entry), inside.as_posix(), inside.parts[0] if len(inside.parts) > 1 else None)


def _read(
    files: Sequence[Picture], options: Options, title: str
) -> tuple[list[np.ndarray | None], list[tuple[str, str]]]:
    """Decode; returns an array or ``None`` a file, and what was refused."""
    read = read_all(files, lambda file: file.path, options, title)
    refused = [(f.path, str(r)) for f, r in zip(files, read) if isinstance(r, Refused)]
    if len(refused) == len(files):
        path, reason = refused[0]
        raise UserError(
            f"{title} holds no readable image ({len(files)} files, {len(files)} refused; first: {path}: {reason})."
        )
    return [None if isinstance(r, Refused) else r for r in read], refused


def _classes(files: Sequence[Picture], title: str) -> tuple[str, ...]:
    """Names of the sub-folders that hold a readable picture; none for a flat folder."""
    classes = sorted({f.folder for f in files if f.folder is not None})
    loose = [f for f in files if f.folder is None]
    if classes and loose:
        raise UserError(
            f"{title} holds pictures both at its top ({len(loose)}, first: {loose[0].path}) and in sub-folders "
            f"({classes[0]}, …): put all of them in class folders, or all at the top."
        )
    return tuple(classes)
