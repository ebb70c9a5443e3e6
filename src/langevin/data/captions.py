"""Captions of pictures: text files beside them, and tables of a folder; read within limits."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from ..nn.text import encode_texts
from ..storage.untrusted import contents, parse_json, reason, room

TEXT = 2**16
"""Bytes of a caption at most."""

TABLE = 2**28
"""Bytes of a table of captions at most."""

TABLES = ("metadata.jsonl", "metadata.csv")
"""Names of tables at a folder's top, the preferred first, as those of `datasets`' imagefolder."""

COLUMNS = ("caption", "text")
"""Names of the column that holds the captions, the preferred first."""

LONGEST = 256
"""Tokens of a caption at most, its end included; a longer one is cut."""


def beside(paths: Sequence[str]) -> dict[str, str]:
    """The text file ``NAME.txt`` of each file ``NAME.…`` that lies beside one and is none itself."""
    stems = [os.path.splitext(path) for path in paths]
    texts = {stem: path for path, (stem, suffix) in zip(paths, stems) if suffix.lower() == ".txt"}
    return {
        path: texts[stem] for path, (stem, suffix) in zip(paths, stems) if suffix.lower() != ".txt" and stem in texts
    }


def read_text(path: str) -> str:
    """The caption in a text file in UTF-8, without the white space around it.

    Raises:
        UserError: with the reason why there is none.
    """
    return _decoded(_contents(path, TEXT)).strip()


def read_table(path: str) -> dict[str, str | None]:
    """The captions of a table, by the path of the picture, as that of the table's folder and ``file_name`` together.

    A line of ``.jsonl`` is a JSON object; the first line of ``.csv`` names the columns. The caption is ``caption``,
    else ``text``: text, or a list of texts, whose first is taken; null, and in ``.csv`` an empty one, is none.

    Raises:
        UserError: with the reason why it is not read.
    """
    content = _contents(path, TABLE)
    rows = _json_lines(content) if path.endswith(".jsonl") else _csv_lines(_decoded(content))
    found: dict[str, str | None] = {}
    for line, row in rows:
        name = row.get("file_name")
        column = next((column for column in COLUMNS if column in row), None)
        if not isinstance(name, str) or column is None:
            raise UserError(
                f"line {line} must have file_name and caption or text, got {', '.join(row)[:80] or 'nothing'}"
            )
        picture = str(Path(os.path.dirname(path), name)) if "\0" not in name else name
        if picture in found:
            raise UserError(f"line {line} names {name[:80]} a second time")
        found[picture] = _caption(row[column], f"line {line}: {column}")
    return found


def first_text(value: Any) -> Any:
    """A value, or of a list its first."""
    return (value[0] if value else None) if isinstance(value, list | tuple) else value


def _caption(value: Any, name: str) -> str | None:
    text = first_text(value)
    if text is not None and not isinstance(text, str):
        raise UserError(f"{name} must be text, got {type(text).__name__}")
    if text is not None and len(text.encode()) > TEXT:
        raise UserError(f"{name} must be at most {TEXT} bytes, got {len(text.encode())}")
    return text


def _contents(path: str, most: int) -> bytes:
    try:
        return contents(path, most)
    except (OSError, ValueError) as error:
        raise UserError(reason(error)) from None


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 (byte {error.start})") from None


def _json_lines(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of each line that is not empty."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
        if not isinstance(value, dict):
            raise UserError(f"line {number} must be a JSON object, got {type(value).__name__}")
        yield number, value


def _csv_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the named columns of each line but the first, which names them."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise UserError("line 1 names a column twice")
        for row in reader:
            if row and len(row) != len(names):
                raise UserError(f"line {reader.line_num} has {len(row)} columns, line 1 has {len(names)}")
            if row:
                yield reader.line_num, {name: value or None for name, value in zip(names, row)}
    except csv.Error as error:
        raise UserError(f"line {reader.line_num}: {error}") from None


def tokens(texts: Sequence[str | None], title: str) -> Tensor | None:
    """Captions as ``nn.text`` has them, int16 ``(N, L)``, L that of the longest; None if there is none at all.

    int16 holds −1…256 in a quarter of the memory of what a batch is given.
    """
    # A byte is a token, and a character has at most four: what is cut off here would be cut off there.
    texts = [None if text is None else text[:LONGEST] for text in texts]
    length = max((len(text.encode()) + 1 for text in texts if text is not None), default=0)
    if not length:
        return None
    length = min(length, LONGEST)
    room(2 * len(texts) * length, f"{title}, captions of {len(texts)} pictures,")
    parts = (texts[first : first + 4096] for first in range(0, len(texts), 4096))
    return torch.cat([encode_texts(part, length).to(torch.int16) for part in parts])
