"""Decoding pictures: any format Pillow reads, to uint8 of one size."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from ..storage.untrusted import open_file, reason, room
from . import _progress

if TYPE_CHECKING:
    from PIL import Image

    from .dataset import Options

BYTES = 2**29
"""Size of a picture's file at most."""

LONGEST = 8
"""Largest ratio of sides kept for random windows: a panorama would fill the memory with one image."""

PIXELS = 2**26
"""Pixels of a picture at most, 8,192 × 8,192: a small file can claim any number."""

LARGE = 2**22
"""Pixels or bytes from which on pictures are read one at a time: threads would hold several at once."""

ICON = 1024
"""Sides at most of a picture in an icon: icons have 256 pixels a side or fewer, some programs write more."""

CONTAINERS = ("AVIF", "HEIF")
"""Formats whose pictures may be larger inside than their header says; they are decoded one at a time."""

FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "PCX", "TGA", "JPEG2000"),
    *("AVIF", "HEIF"),
)
"""Formats that are read. Left out are those that Pillow gives to another program (EPS, to Ghostscript)."""

_ALONE = threading.RLock()

GREY = ("1", "L", "LA", "La")

T = TypeVar("T")
R = TypeVar("R")


class Refused(Exception):
    """A file that holds no usable picture; the message is the reason."""


@contextmanager
def open_image(file: str | bytes) -> Iterator[Image.Image]:
    """A path or an encoded picture, opened until the end of the block: its header is read, and none of its pixels.

    The orientation that its camera recorded is still to be applied.

    Raises:
        Refused: if it is no regular file, of no format in ``FORMATS``, damaged, or has more than ``PIXELS``.
    """
    try:
        held = io.BytesIO(file) if isinstance(file, bytes) else open_file(file)
    except Exception as error:
        raise Refused(reason(error)) from None
    with held:
        size = held.seek(0, io.SEEK_END)
        if size > BYTES:
            raise Refused(f"it has {size} bytes, at most {BYTES} are accepted")
        # Some of Pillow's readers take the whole file to look at its header.
        with _ALONE if size > LARGE else contextlib.nullcontext():
            refused = None
            try:
                image = _opened(held, os.path.splitext(file)[1].lower() if isinstance(file, str) else "")
            except Refused as error:
                refused = str(error)
            if refused is not None:  # raised anew: the frames of the first hold what was read
                raise Refused(refused)
            yield image


def _opened(held: IO[bytes], suffix: str) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    if suffix in (".heic", ".heif") and importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        _check_inside(held)
        held.seek(0)
        image = Image.open(held, formats=[kind for kind in FORMATS if kind in Image.OPEN])
        tile = [getattr(image, "tag_v2", {}).get(tag, 1) for tag in (322, 323)]
    except Refused:
        raise
    except UnidentifiedImageError:
        readers = {".heic": "pillow-heif", ".heif": "pillow-heif", ".avif": "-U pillow"}
        if suffix in readers:
            raise Refused(f"no {suffix[1:].upper()} reader: pip install {readers[suffix]}") from None
        raise Refused("not a picture Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise Refused(f"it is over the limit of {PIXELS} pixels ({error})") from None
    except Exception as error:
        # Pillow's plugins raise whatever a damaged header makes them raise.
        raise Refused(reason(error)) from None
    _check_size(*image.size)
    if tile[0] * tile[1] > max(LARGE, image.width * image.height):  # TIFF: a tile is unpacked whole
        raise Refused(f"a tile of {tile[0]}×{tile[1]} is over the limit of {LARGE} pixels")
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise Refused(f"{width}×{height} is over the limit of {PIXELS} pixels")


def _check_inside(held: IO[bytes]) -> None:
    """Hold sizes against the limits that Pillow takes memory for while it opens a file, before its size is known.

    An icon is decoded, whatever size the pictures in it have, and of WebP two canvases are made.
    """
    held.seek(0)
    head = held.read(30)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        number = lambda at, count: int.from_bytes(head[at : at + count], "little")
        if head[12:16] == b"VP8X":
            _check_size(1 + number(24, 3), 1 + number(27, 3))
        elif head[12:16] == b"VP8L":
            _check_size(1 + (number(21, 4) & 0x3FFF), 1 + (number(21, 4) >> 14 & 0x3FFF))
        else:
            _check_size(number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF)
    elif head[:4] == b"\0\0\1\0":
        held.seek(6)
        entries = held.read(16 * int.from_bytes(head[4:6], "little"))
        for (at,) in struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16]):
            held.seek(at)
            start = held.read(24).ljust(24, b"\0")
            if start[:8] == b"\x89PNG\r\n\x1a\n":
                width, height = struct.unpack_from(">II", start, 16)
            elif start[:4] == b"\x0c\0\0\0":
                width, height = struct.unpack_from("<HH", start, 4)
                height //= 2
            else:
                width, height = map(abs, struct.unpack_from("<ii", start, 4))
                height //= 2  # the picture and its mask, one upon the other
            if max(width, height) > ICON:
                raise Refused(f"the icon holds a picture of {width}×{height}, at most {ICON}×{ICON} are accepted")


def upright_size(file: str | bytes) -> tuple[int, int]:
    """(width, height) after the recorded orientation, from the header alone."""
    from PIL import Image

    with open_image(file) as image:
        try:
            # Of a PNG file ``image.getexif`` would decode the pixels, to see what follows them.
            turned = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)
        except Exception as error:
            raise Refused(reason(error)) from None
        return (image.height, image.width) if turned else image.size


def beyond_8_bits(file: str | os.PathLike[str]) -> str | None:
    """What ``decode`` leaves out of a picture: transparency, or all but 8 bits of a pixel; None for nothing."""
    with open_image(os.fspath(file)) as image:
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            return "an alpha channel"
        deep = image.mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr")
        return f"pixels of more than 8 bits ({image.mode})" if deep else None


def decode(file: str | bytes | Image.Image, size: int | None, channels: int | None, window: bool) -> np.ndarray:
    """A picture as uint8 ``(H, W, C)``.

    Upright, transparency laid on white, 16-bit grey brought to 8 bits; the short side resized to ``size`` with an
    antialiasing bicubic filter; cut to the central square unless ``window`` (a random window is cut later).

    Args:
        file: a path, an encoded picture, or a decoded one.
        size: the short side; ``None`` keeps the picture's own size.
        channels: 1, 3, or ``None`` for 1 if the picture is grey and 3 if not.
        window: keep the part beyond the central square, up to 8 times as long.

    Raises:
        Refused: with the reason.
    """
    with open_image(file) if isinstance(file, str | bytes) else contextlib.nullcontext(file) as image:
        try:
            alone = image.width * image.height > LARGE or image.format in CONTAINERS
            with _ALONE if alone else contextlib.nullcontext():
                return _decode(image, size, channels, window)
        except Refused:
            raise
        except Exception as error:
            raise Refused(reason(error)) from None


def _decode(image: Image.Image, size: int | None, channels: int | None, window: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    if size is not None:
        # JPEG alone: let the decoder shrink by 2, 4 or 8 while two pixels are left for each that is kept.
        zoom = 2 * size / min(image.size)
        image.draft(None, (math.ceil(zoom * image.width), math.ceil(zoom * image.height)))
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bits(image)
    channels = channels or (1 if image.mode in GREY else 3)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        width, height = image.size
        short = min(width, height)
        if window and max(width, height) > LONGEST * short:
            raise Refused(f"{width}×{height} is over {LONGEST} times as long as wide")
        # The part to keep, in the picture's own pixels: cutting first bounds the work on long pictures.
        keep = (width, height) if window else (short, short)
        left, top = (width - keep[0]) / 2, (height - keep[1]) / 2
        target = tuple(max(size, round(size * side / short)) for side in keep)
        box = (left, top, left + keep[0], top + keep[1])
        image = image.resize((target[0], target[1]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by 1/257; Pillow's own conversion would clip it to white."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide = np.add(np.asarray(image), 128, dtype=np.int32)
        wide //= 257  # to the nearest: 257 is odd, so there are no ties
        return Image.fromarray(wide.clip(0, 255, out=wide).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Refused(f"{image.mode}: 32-bit pixels have no fixed range; save as 8 or 16 bits")
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of large pictures before :func:`open_image` refuses them; once is enough."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def in_threads(work: Callable[[T], R], items: Sequence[T], title: str, show: bool) -> list[R | Refused]:
    """``work`` on each item in parallel, in order; an item that is :class:`Refused` gives its refusal."""

    def one(item: T) -> R | Refused:
        try:
            return work(item)
        except Refused as refused:
            return Refused(str(refused))  # without its traceback, whose frames hold the picture

    def blocks() -> Iterator[R | Refused]:
        # A block at a time: a future an image costs more than a small image.
        for start in range(0, len(items), 1024):
            yield from pool.map(one, items[start : start + 1024])

    with _quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(_progress.track(blocks(), len(items), title, show))


def read_all(
    items: Sequence[T], encoded: Callable[[T], str | bytes], options: Options, title: str
) -> list[np.ndarray | Refused]:
    """The pictures of a data set as uint8 ``(H, W, C)``, in order, or why one is none.

    Without a ``size`` all headers are read first: the pictures must be of one size, and fit into memory together. Each
    file is read whole once.

    Args:
        items: what stands for a picture.
        encoded: its path or content.
        options: how it is to be read.
        title: of the data, for messages.

    Raises:
        UserError: for several sizes without ``options.size``, or more pictures than memory.
    """
    found: list[np.ndarray | Refused | None] = [None] * len(items)
    if options.size is None:
        sizes = in_threads(lambda item: upright_size(encoded(item)), items, f"{title}: sizes", options.progress)
        found = [size if isinstance(size, Refused) else None for size in sizes]
        known = [size for size in sizes if not isinstance(size, Refused)]
        if known:
            width, height = common_size(known, title)
            room(len(known) * width * height * (options.channels or 3), f"{title}, decoded,")
    else:
        room(len(items) * options.size**2 * (options.channels or 1), f"{title}, at size {options.size},")
    left = [i for i, refused in enumerate(found) if refused is None]
    one = lambda i: decode(encoded(items[i]), options.size, options.channels, options.crop == "random")
    decoded = iter(in_threads(one, left, title, options.progress))
    read = [next(decoded) if held is None else held for held in found]
    shapes = [array.shape for array in read if not isinstance(array, Refused)]
    if options.size is None and shapes:  # a header may have said something else
        common_size([(width, height) for height, width, _ in shapes], title)
    return read


def common_size(sizes: Sequence[tuple[int, int]], name: str) -> tuple[int, int]:
    """The one (width, height) of all pictures.

    Raises:
        UserError: if there are several: which, and how many of each.
    """
    counts: dict[tuple[int, int], int] = {}
    for size in sizes:
        counts[size] = counts.get(size, 0) + 1
    if len(counts) > 1:
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        seen = ", ".join(f"{width}×{height} ({n})" for (width, height), n in common[:4])
        more = f" and {len(counts) - 4} more" if len(counts) > 4 else ""
        raise UserError(f"{name}: size is needed, as images differ in size: {seen}{more}.")
    return next(iter(counts))


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """The central square of ``(H, W, C)``."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def stack(images: Sequence[np.ndarray], channels: int, ragged: bool) -> Tensor | list[Tensor]:
    """``(H, W, C)`` arrays to ``(N, C, H, W)``, or to a list if their sizes differ; grey repeats to 3 channels."""

    def planar(image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(np.broadcast_to(image, (*image.shape[:2], channels)).transpose(2, 0, 1)))

    planes = [planar(image) for image in images]
    return planes if ragged else torch.stack(planes)
