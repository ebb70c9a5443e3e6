"""Text inside PNG files: put in without touching the pixels, read back within limits (PNG specification, 11.3.4)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

from .._errors import UserError
from .untrusted import contents

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MOST = 2**20
"""Bytes of a text at most."""


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """A PNG file with a text under a keyword, before its pixels; one that it has already is replaced.

    Args:
        png: the file.
        keyword: Latin letters, 1 to 79 of them.
        text: any characters, kept as UTF-8.
    """
    kept = [chunk for kind, chunk, data in _chunks(png, "png") if not (kind == b"iTXt" and _names(data, keyword))]
    data = keyword.encode("latin-1") + b"\0" + b"\0\0" + b"\0" + b"\0" + text.encode()
    return SIGNATURE + kept[0] + _chunk(b"iTXt", data) + b"".join(kept[1:])


def text_of(path: str | os.PathLike[str], keyword: str) -> str | None:
    """The text under a keyword of a PNG file, None if it has none.

    Raises:
        UserError: for a file that is no PNG file, or whose text is larger than a mebibyte or damaged.
    """
    name = os.fspath(path)
    try:
        png = contents(path, 2**30)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    for kind, _, data in _chunks(png, name):
        if kind == b"iTXt" and _names(data, keyword):
            # keyword, 0, whether it is compressed, how, language, 0, translated keyword, 0, text
            compressed, rest = data[len(keyword) + 1], data[len(keyword) + 3 :]
            parts = rest.split(b"\0", 2)
            if len(parts) < 3 or compressed or len(parts[2]) > MOST:
                raise UserError(f"{name}: its text {keyword!r} must be plain and at most {MOST} bytes")
            try:
                return parts[2].decode()
            except UnicodeDecodeError:
                raise UserError(f"{name}: its text {keyword!r} is not UTF-8") from None
    return None


def _names(data: bytes, keyword: str) -> bool:
    return data.partition(b"\0")[0] == keyword.encode("latin-1")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes, name: str) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The kind, the whole and the data of each chunk."""
    if not png.startswith(SIGNATURE):
        raise UserError(f"{name} is no PNG file")
    at = len(SIGNATURE)
    while at < len(png):
        head = png[at : at + 8]
        size = struct.unpack(">I", head[:4])[0] if len(head) == 8 else len(png)
        whole = png[at : at + size + 12]
        if len(whole) < size + 12 or struct.unpack(">I", whole[-4:])[0] != zlib.crc32(whole[4:-4]):
            raise UserError(f"{name} is cut off or damaged at byte {at}")
        yield head[4:], whole, whole[8:-4]
        at += size + 12
