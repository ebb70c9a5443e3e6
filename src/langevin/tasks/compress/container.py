"""The file: magic, version, header, payload, checksum; every length is checked against the file's before it is used.

========  =======================================================================================
bytes     what
========  =======================================================================================
5         ``LNGVC``
1         version, 1
4         length H of the header, little-endian
H         header: JSON, UTF-8, the fields of :class:`Header`
…         choices of all steps, packed to bits, filled up to a byte
residual  the entropy coder's words, 32-bit little-endian; none in a lossy file
8         BLAKE2b of all that stands before
========  =======================================================================================
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError
from ...storage.untrusted import parse_json, room, settings
from . import tree
from .pixels import SCALES

MAGIC, VERSION = b"LNGVC", 1
_START, _SUM = len(MAGIC) + 5, 8

MOST = 2**40
"""Bits of a payload at most: beyond is no number to compute with."""

COPIES = 6
"""Numbers in float64 that decoding holds a coordinate, about."""

STEPS = 4096
"""Steps of a chain at most."""


@dataclass(frozen=True)
class Header:
    """What a receiver must know before the payload.

    Attributes:
        model: fingerprint of the model, 16 hexadecimal digits.
        shape: of an event, one tile of an image.
        levels: of a coordinate.
        count: events.
        items: ``[name, height, width]`` of each image that the events are tiles of, in order; empty for plain events.
        seed: of the shared noise.
        times: the first and the last time of the chain.
        bits: of every step, as asked for.
        spread: the belief's variance at every step but the first, a byte each, see :meth:`Chain.variance`.
        scales: of the pixel law at the end, a byte each (lossless files).
        residual: bytes of the entropy coder.
    """

    model: str
    shape: tuple[int, ...]
    levels: int
    count: int
    items: tuple[tuple[str, int, int], ...]
    seed: int
    times: tuple[float, float]
    bits: tuple[int, ...]
    spread: tuple[int, ...]
    scales: tuple[int, ...]
    residual: int

    @property
    def lossless(self) -> bool:
        """Whether the exact levels are in the file."""
        return bool(self.scales)

    @property
    def size(self) -> int:
        """Coordinates of all events."""
        return self.count * int(np.prod(self.shape, dtype=object))

    def layouts(self) -> list[tree.Layout]:
        """How the choices of every step are cut."""
        return [tree.Layout(self.size, bits) for bits in self.bits]

    def check(self) -> None:
        """Refuse numbers that no sender writes.

        Raises:
            ValueError: with the field.
        """

        def whole(name: str, values: Any, low: int, high: int) -> None:
            if not all(type(v) is int and low <= v <= high for v in values):
                raise ValueError(f"{name} must hold integers in {low}…{high}")

        if not isinstance(self.model, str) or len(self.model) != 16:
            raise ValueError("model must be 16 digits")
        whole("shape", self.shape, 1, 2**20)
        whole("levels", [self.levels], 2, 2**16)
        whole("count", [self.count], 1, 2**32)
        whole("seed", [self.seed], 0, 2**64 - 1)
        whole("residual", [self.residual], 0, MOST)
        whole("spread", self.spread, 0, 255)
        whole("scales", self.scales, 0, 255)
        if not 1 <= len(self.bits) <= STEPS:
            raise ValueError(f"bits must be of 1 to {STEPS} steps")
        if not 1 <= len(self.shape) <= 8 or len(self.spread) != len(self.bits) - 1:
            raise ValueError("shape, bits and spread contradict each other")
        if len(self.scales) not in (0, SCALES):
            raise ValueError("shape, bits, spread and scales contradict each other")
        if self.size > MOST:
            raise ValueError("count and shape are too large")
        whole("bits", self.bits, 1, tree.DEEP * self.size)
        if len(self.times) != 2 or not all(isinstance(t, float) for t in self.times):
            raise ValueError("times must be two numbers")
        if not 0 < self.times[1] <= self.times[0] <= 1:
            raise ValueError("times must lie in (0, 1] and not rise")
        if not all(len(item) == 3 and isinstance(item[0], str) for item in self.items):
            raise ValueError("items must be names with two sides")
        if self.items and len(self.shape) != 3:
            raise ValueError("items must be images")
        whole("items", [side for item in self.items for side in item[1:]], 1, 2**20)


def pack(header: Header, choices: list[Tensor], residual: bytes) -> bytes:
    """The bytes of a file."""
    head = json.dumps(asdict(header), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    bits = [_to_bits(chosen, layout.bits) for chosen, layout in zip(choices, header.layouts())]
    body = np.packbits(np.concatenate(bits)).tobytes() + residual
    content = MAGIC + bytes([VERSION]) + struct.pack("<I", len(head)) + head + body
    return content + hashlib.blake2b(content, digest_size=_SUM).digest()


def unpack(content: bytes) -> tuple[Header, list[Tensor], bytes]:
    """Header, choices of every step and the entropy coder's bytes.

    Raises:
        UserError: for a file that is foreign, of another version, cut short, altered, or contradicts itself.
    """
    header, start = read_header(content)
    if hashlib.blake2b(content[:-_SUM], digest_size=_SUM).digest() != content[-_SUM:]:
        raise UserError("the file is damaged: its checksum does not fit what it holds")
    layouts = header.layouts()
    total = sum(layout.total for layout in layouts)
    packed = -(-total // 8)
    if packed + header.residual != len(content) - _SUM - start:
        raise UserError(
            f"the file contradicts itself: its header says {packed + header.residual} bytes of payload, "
            f"it has {len(content) - _SUM - start}"
        )
    if header.count > 8 * len(content):  # with the line above this bounds all that is computed with
        raise UserError(f"the file contradicts itself: {header.count} images in {len(content)} bytes")
    room(COPIES * 8 * header.size, f"the file's {header.count} images of shape {header.shape}")
    flat = np.unpackbits(np.frombuffer(content, np.uint8, packed, start), count=total)
    choices, done = [], 0
    for layout in layouts:
        words = flat[done : done + layout.total].reshape(-1, layout.bits).astype(np.int64)
        done += layout.total
        values = words @ (1 << np.arange(layout.bits - 1, -1, -1))
        choices.append(torch.from_numpy(values).reshape(layout.paths, layout.blocks))
    return header, choices, content[start + packed : len(content) - _SUM]


def read_header(content: bytes) -> tuple[Header, int]:
    """The header alone, and where the payload begins; the payload is not looked at.

    Raises:
        UserError: as :func:`unpack`.
    """
    if content[: len(MAGIC)] != MAGIC[: len(content)] or len(content) < _START + _SUM:
        short = " (it is cut short)" if content and MAGIC.startswith(content[: len(MAGIC)]) else ""
        raise UserError(f"this is no file of `langevin compress`{short}")
    version, length = struct.unpack_from("<BI", content, len(MAGIC))
    if version != VERSION:
        raise UserError(f"the file has format {version}; this version of langevin reads {VERSION}")
    if length > len(content) - _START - _SUM:
        raise UserError("the file is cut short: it ends within its header")
    try:
        values = parse_json(content[_START : _START + length])
        if not isinstance(values, dict) or values.keys() != {f.name for f in fields(Header)}:
            raise ValueError("its fields are not those of this format")
        given = settings(Header, values, "header")
        header = Header(**{**given, "items": tuple(tuple(item) for item in given["items"])})
        header.check()
    except ValueError as error:
        raise UserError(f"the file is damaged: its header cannot be read ({error})") from None
    return header, _START + length


def _to_bits(choices: Tensor, bits: int) -> np.ndarray:
    """Choices as 0 and 1, the highest bit first."""
    values = choices.reshape(-1, 1).numpy() >> np.arange(bits - 1, -1, -1)
    return (values & 1).astype(np.uint8).reshape(-1)
