"""What is done to good files: cuts, flips, extreme numbers, and seals made right again."""

from __future__ import annotations

import hashlib
import io
import random
import re
import struct
import zipfile
import zlib

from langevin.tasks.compress import container

EXTREMES = ("0", "-1", "1e308", "1000000000000", "9223372036854775808", "18446744073709551615", "0.5", "1e-320")
PARTS = (b"null", b"true", b'"x"', b"[]", b"{}", b'"\\ud800"', b"NaN", b"1e999", b'"\\u0000"', b"[[[]]]", b"[-1]")


def summed(content: bytes) -> bytes:
    """A coded file with the length of its header and its checksum made right."""
    start = len(container.MAGIC) + 5
    end = content.find(b"]}", start) if b"residual" not in content else content.find(b"}", content.find(b"residual"))
    if content[: len(container.MAGIC)] != container.MAGIC or end < 0:
        return content
    body = content[:6] + struct.pack("<I", end + 1 - start) + content[start:-8]
    return body + hashlib.blake2b(body, digest_size=8).digest()


def zipped(content: bytes) -> bytes:
    """An archive packed again, with the checksums of what is in it now."""
    found = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
            for info in old.infolist():
                # What lies behind the local header, whatever its checksum says.
                at = info.header_offset + 30 + len(info.filename)
                new.writestr(info.filename, content[at : at + info.compress_size])
    except Exception:
        return content
    return found.getvalue()


def chunks_summed(content: bytes) -> bytes:
    """A PNG with the checksums of its chunks made right."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return content
    at, out = 8, [content[:8]]
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        body = content[at + 4 : at + 8 + length]
        out.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(out)


def mutate(content: bytes, draw: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """One change: bytes cut, flipped, doubled, spliced; a number, in text or in binary, replaced by an extreme one."""
    if not content:
        return bytes([draw.randrange(256)])
    place = draw.randrange(len(content))
    match draw.randrange(9):
        case 0:
            return content[:place]
        case 1:
            changed = bytearray(content)
            for _ in range(draw.choice((1, 1, 4, 16))):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case 2:
            end = place + draw.choice((1, 2, 8, 64))
            return content[:place] + content[end:]
        case 3:
            end = place + draw.choice((1, 8, 64))
            return content[:end] + content[place:end] * draw.choice((1, 2, 100)) + content[end:]
        case 4 if others:
            other = draw.choice(others)
            return content[:place] + other[draw.randrange(len(other) + 1) :]
        case 5:
            size = draw.choice((1, 2, 4, 8))
            value = draw.choice((0, 1, 2**7, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (4 * size), 60_000))
            part = (value % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
            return content[:place] + part + content[place + size :]
        case 6 | 7:
            spots = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", content))
            if spots:
                spot = draw.choice(spots)
                return content[: spot.start()] + draw.choice(EXTREMES).encode() + content[spot.end() :]
        case 8:
            spots = list(re.finditer(rb'"[^"]*"|\[[^\[\]]*\]|true|false|null', content))
            if spots:
                spot = draw.choice(spots)
                return content[: spot.start()] + draw.choice(PARTS) + content[spot.end() :]
    return content[:place] + bytes([draw.randrange(256)]) + content[place:]
