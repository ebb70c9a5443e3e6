"""Decoding pictures: any format Pillow reads, to uint8 of one size."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._untrusted import contents, reason
from . import _progress

if TYPE_CHECKING:
    from PIL import Image

BYTES = 2**29
"""Size of a picture's file at most."""

LONGEST = 8
"""Largest ratio of sides kept for random windows: a panorama would fill the memory with one image."""

PIXELS = 2**26
"""Pixels of a picture at most, 8,192 × 8,192: a small file can claim any number."""

LARGE = 2**22
"""Pixels from which on pictures are decoded one at a time: threads would hold several at once."""

FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "PCX", "TGA", "JPEG2000"),
    *("AVIF", "HEIF"),
)
"""Formats that are read. Left out are those that Pillow gives to another program (EPS, to Ghostscript)."""

_ALONE = threading.Lock()

GREY = ("1", "L", "LA", "La")

T = TypeVar("T")
R = TypeVar("R")


class Refused(Exception):
    """A file that holds no usable picture; the message is the reason."""


def open_image(file: str | bytes) -> Image.Image:
    """Open a path or an encoded picture, with the orientation its camera recorded still to be applied.

    Raises:
        Refused: if it is no regular file, of no format in ``FORMATS``, damaged, or has more than ``PIXELS``.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    suffix = os.path.splitext(file)[1].lower() if isinstance(file, str) else ""
    if suffix in (".heic", ".heif") and importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        held = io.BytesIO(file if isinstance(file, bytes) else contents(file, BYTES))
        image = Image.open(held, formats=[kind for kind in FORMATS if kind in Image.OPEN])
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
    if image.width * image.height > PIXELS:
        raise Refused(f"{image.width}×{image.height} is over the limit of {PIXELS} pixels")
    return image


def upright_size(file: str | bytes) -> tuple[int, int]:
    """(width, height) after the recorded orientation, from the header alone."""
    image = open_image(file)
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise Refused(reason(error)) from None
    return (image.height, image.width) if turned else image.size


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
    image = open_image(file) if isinstance(file, str | bytes) else file
    try:
        with _ALONE if image.width * image.height > LARGE else contextlib.nullcontext():
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
        wide = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(wide / 257).clip(0, 255).astype(np.uint8))
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
        except Refused as reason:
            return reason

    def blocks() -> Iterator[R | Refused]:
        # A block at a time: a future an image costs more than a small image.
        for start in range(0, len(items), 1024):
            yield from pool.map(one, items[start : start + 1024])

    with _quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(_progress.track(blocks(), len(items), title, show))


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
