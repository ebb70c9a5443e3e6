"""Data sets of the Hugging Face `datasets` library, by name or from disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._errors import UserError
from ..nn.text import encode_texts
from ..storage.untrusted import reading
from .captions import COLUMNS, first_text
from .dataset import Dataset, Options, adjust_split, held_out, limited
from .folder import pictures
from .images import Refused, decode, read_all, stack
from .streaming import BUFFER, HELD, MEASURED, Example, SourceRow, Streamed

PREFIX = "hf:"
MARKS = ("dataset_dict.json", "state.json")
"""Files that tell a data set saved by ``save_to_disk``."""

HELD_SPLITS = ("test", "validation", "valid", "val")


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by ``datasets.save_to_disk``."""
    return any(Path(path, mark).is_file() for mark in MARKS)


def hub(source: str, options: Options | None = None) -> Dataset:
    """Read ``hf:NAME``, ``hf:PATH`` or a folder written by ``save_to_disk``.

    Images are the column of type ``Image`` (``image`` or ``img`` if there are several), labels the column of type
    ``ClassLabel`` (``label`` if there are several, else the first). A column ``caption``, else ``text``, of strings, or
    of lists of strings whose first is taken, becomes the condition ``caption`` (see ``nn.text``), or with
    ``text_encoder`` the condition ``sequence``. The splits are
    ``train`` and ``test`` (or ``validation``); a single split is divided by a hash of the index, one in ten held out.
    With ``streaming`` they are read while they are trained on (``data.streaming``).

    Raises:
        UserError: without the `datasets` package, for a name that cannot be loaded, or columns that hold no images.
    """
    options = options or Options()
    name = source.removeprefix(PREFIX)
    train, test = _splits(name, options.streaming)
    if options.streaming:
        return _streamed(train, test, name, source, options)
    return _in_memory(train, test, name, source, options)


def _in_memory(train: Any, test: Any | None, name: str, source: str, options: Options) -> Dataset:
    """The data set of tables, the training one and the held-out one if there is one."""
    image, label, caption = _columns(train, source)
    tables = [train] if test is None else [train, test]
    keys = [f"{i}" if test is None else f"{k}/{i}" for k, t in enumerate(tables) for i in range(len(t))]
    mask = held_out(keys) if test is None else np.repeat([False, True], [len(t) for t in tables])
    chosen = limited(keys, mask, options.limit)

    rows = [(table, i) for table in _encoded(tables, image) for i in range(len(table))]
    rows = [rows[i] for i in chosen]
    read = read_all(rows, lambda row: _bytes(row, image), options, source)
    skipped = [(f"{source}[{keys[i]}]", str(r)) for i, r in zip(chosen, read) if isinstance(r, Refused)]
    if len(skipped) == len(read):
        first = f"; first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{source} holds no readable image ({len(read)} rows, all refused{first}).")
    good = np.array([i for i, r in enumerate(read) if not isinstance(r, Refused)])
    images = [r for r in read if not isinstance(r, Refused)]

    classes: tuple[str, ...] = ()
    labels = None
    if label is not None:
        classes = tuple(train.features[label].names)
        labels = np.concatenate([_labels(t, label) for t in tables])[chosen][good]
    told: list[str | None] = []
    if caption is not None:
        found = [first_text(value) for table in tables for value in _column(table, caption)]
        told = [found[i] for i in chosen[good]]
    mask = mask[chosen][good]
    if test is None:
        mask = adjust_split([keys[i] for i in chosen[good]], mask, labels, source)
    about = {"classes": classes, "source": source, "skipped": skipped}
    return pictures(Path(name).name, images, labels, mask, options, told, **about)


def _streamed(train: Any, test: Any | None, name: str, source: str, options: Options) -> Dataset:
    """The data set of streamed tables: the first examples in memory, and the stream of all.

    What ends within the first examples, or is limited to so many, is in memory as a whole.
    """
    if options.text_encoder is not None:
        raise UserError("text_encoder encodes all captions before training, so data cannot be streamed with it")
    image, label, caption = columns = _columns(train, source)
    shards, features = _shards(train, columns)
    measured, held = options.limit or MEASURED, min(HELD, options.limit or HELD)
    numbered = ((i, row) for i, shard in enumerate(shards) for row in shard)
    with reading(source):
        first = list(islice(numbered, measured + (held if test is None else 0)))
        apart = (
            [] if test is None else list(islice((row for shard in _shards(test, columns)[0] for row in shard), held))
        )
    rows = [row for _, row in first]
    taken: Counter[int] = Counter()
    if test is None and len(rows) == measured + held:
        apart, rows, taken = rows[:held], rows[held:], Counter(i for i, _ in first[:held])
    table = lambda rows: _table(rows, features)
    made = _in_memory(table(rows), table(apart) if apart else None, name, source, options)
    if len(rows) < measured or options.limit:
        return made

    length = made.info.conditions.get("caption", (0,))[0]
    channels, window = made.info.shape[0], options.crop == "random"

    def example(row: SourceRow) -> Example | str:
        try:
            x = stack([decode(_content(row[image]), options.size, channels, window)], channels, ragged=True)[0]
        except Refused as refused:
            return str(refused)
        if not window and tuple(x.shape) != made.info.shape:
            return f"it is {x.shape[2]}×{x.shape[1]}, the first ones were of another size: size is needed"
        told = {}
        if label is not None:
            if row[label] is None or not 0 <= row[label] < len(made.info.classes):
                return f"its label is {row[label]}"
            told["label"] = torch.tensor(row[label])
        if length and caption is not None:
            text = first_text(row[caption])
            told["caption"] = encode_texts([None if text is None else text[:length]], length)[0].to(torch.int16)
        return x, told

    known = (train.info.splits or {}).get(str(train.split))
    count = known.num_examples - taken.total() if known is not None and known.num_examples else None
    stream = Streamed(shards, example, made.train, apart=taken, count=count, title=source)
    return replace(made, stream=stream)


def _shards(table: Any, columns: Sequence[str | None]) -> tuple[list[Any], Any]:
    """The shards of a streamed table, of which pictures stay encoded, and the kinds of its columns."""
    import datasets

    kept = [column for column in columns if column is not None]
    encoded = table.select_columns(kept).cast_column(kept[0], datasets.Image(decode=False))
    count = encoded.num_shards
    return [encoded.shard(num_shards=count, index=i) for i in range(count)], encoded.features


def _table(rows: list[SourceRow], features: Any) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows, features=features)


def _splits(name: str, streaming: bool) -> tuple[Any, Any | None]:
    """The training and the held-out table, or the only one."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: Hugging Face data needs the `datasets` package: pip install datasets") from None
    # Versions before 4 ran the script of a data set if asked to, or after a question on the terminal.
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    try:
        if is_saved(name):
            held = datasets.load_from_disk(name)
            held = _iterable(held) if streaming else held
        else:
            held = datasets.load_dataset(name, streaming=True) if streaming else datasets.load_dataset(name)
    except Exception as error:
        # Network, permissions, missing configuration, damaged files: the library has an exception for each.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{PREFIX}{name} cannot be loaded: {reason}") from None
    if not isinstance(held, dict):
        return held, None
    if "train" not in held:
        if len(held) == 1:
            return next(iter(held.values())), None
        raise UserError(f"{PREFIX}{name} has splits {sorted(held)}; one must be called 'train'.")
    return held["train"], next((held[split] for split in HELD_SPLITS if split in held), None)


def _columns(table: Any, source: str) -> tuple[str, str | None, str | None]:
    """The names of the image column, and of those of labels and of captions, if there are any."""
    import datasets

    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images:
        raise UserError(f"{source} has no image column; its columns are {sorted(table.features)}.")
    image = next((name for name in ("image", "img") if name in images), images[0])
    label = next((name for name in ("label",) if name in labels), labels[0] if labels else None)
    return image, label, next((name for name in COLUMNS if _is_text(table.features.get(name))), None)


def _is_text(kind: Any) -> bool:
    """Whether a column holds strings, or lists of them."""
    inner = kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", kind)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _iterable(held: Any) -> Any:
    """Tables on the disk as streamed ones, in shards of up to ``BUFFER`` rows that are read from where they lie."""
    if isinstance(held, dict):
        return {split: _iterable(table) for split, table in held.items()}
    return held.to_iterable_dataset(num_shards=max(1, -(-len(held) // BUFFER)))


def _column(table: Any, name: str) -> list[Any]:
    """A column alone, so that no picture is decoded for it."""
    return list(table.select_columns([name])[name][:])


def _labels(table: Any, label: str) -> np.ndarray:
    return np.array([-1 if value is None else value for value in _column(table, label)], dtype=np.int64)


def _encoded(tables: list[Any], image: str) -> list[Any]:
    """The tables with images still encoded: they are decoded here, in parallel and under the same limits."""
    import datasets

    return [table.select_columns([image]).cast_column(image, datasets.Image(decode=False)) for table in tables]


def _bytes(row: tuple[Any, int], image: str) -> str | bytes:
    table, i = row
    return _content(table[i][image])


def _content(value: Any) -> str | bytes:
    """The picture of a cell: its bytes, or the file that holds them."""
    if value is None:
        raise Refused("no image in this row")
    return value["bytes"] if value.get("bytes") is not None else value["path"]
