"""Pictures to levels and back: an image is cut into tiles of the model's size, its edge repeated to fill the last."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ... import data as sets
from ..._errors import UserError
from ..._registry import methods
from ...data import DataInfo
from ...data.images import Refused, beyond_8_bits, decode, in_threads, upright_size
from ...storage import files
from ...storage.untrusted import room
from .container import COPIES
from .pixels import Levels

Item = tuple[str, int, int]

LONGEST, DEEPEST = 200, 16
"""Bytes of a part of an image's name at most, and parts."""


def read(source: str, data: DataInfo, *, limit: int | None = None, exact: bool) -> tuple[Tensor, tuple[Item, ...]]:
    """The levels ``(N, C, h, w)`` of an image, a folder of images (all below it), or the held-out part of named data.

    Args:
        source: a file, a folder, or what :func:`langevin.data.load` takes; a name wins over a path.
        data: of the model.
        limit: at most so many images.
        exact: refuse pixels between two levels, which would not come back.

    Returns:
        Levels, int64, and the images' names and sizes; none of these for named data, which are of the model's shape.

    Raises:
        UserError: for a source that does not exist, or a file in it that is no picture; it names the file.
    """
    path = Path(source).expanduser()
    if source in {m.name for m in methods("data")} or not path.exists() or path.suffix in (".npy", ".npz"):
        return _named(source, data, limit, exact), ()
    if not data.is_image:
        raise UserError(f"this model is of data of shape {data.shape}; images need (channels, height, width)")
    paths = [path] if path.is_file() else _below(path)[:limit]
    names = [str(p) for p in paths]
    sizes = in_threads(upright_size, names, source, False)
    total = sum(size[0] * size[1] for size in sizes if not isinstance(size, Refused)) * data.shape[0]
    room(8 * COPIES * total, f"{source}: its pictures, coded together,")
    pictures = in_threads(lambda p: decode(p, None, data.shape[0], False), names, source, False)
    scale, tiles, items = Levels.of(data), [], []
    for file, picture in zip(paths, pictures):
        if isinstance(picture, Refused):
            raise UserError(f"{file}: {picture}")
        if exact and (lost := beyond_8_bits(file)):
            raise UserError(
                f"{file} has {lost}, which this model's 8-bit pixels cannot bring back exactly; convert it first, or "
                "give a step or a quality"
            )
        levels = _levels(picture, scale, str(file), exact)
        name = file.name if file == path else file.relative_to(path).as_posix()
        items.append((name, *picture.shape[:2]))
        tiles.append(_cut(levels, *data.shape[1:]))
    try:
        places([name for name, *_ in items])
    except UserError as error:
        raise UserError(f"{source}: {error}, rename one") from None
    return torch.cat(tiles), tuple(items)


def _below(folder: Path) -> list[Path]:
    """Files below a folder, but for those with a leading dot, by name."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not found:
        raise UserError(f"{folder} holds no file; expected pictures")
    return found


def _named(source: str, data: DataInfo, limit: int | None, exact: bool) -> Tensor:
    """The held-out examples of a data set, read as the model's own were."""
    read_as = {key: value for key, value in data.source.items() if key in ("size", "channels")}
    x = sets.load(source, **read_as).test.all()["x"][:limit]
    if tuple(x.shape[1:]) != tuple(data.shape):
        raise UserError(f"{source} has shape {tuple(x.shape[1:])}, the model {tuple(data.shape)}")
    scale = Levels.of(data)
    levels = scale.nearest(x)
    off = float((scale.values(levels) - x).abs().max()) / scale.width
    if off > (0.02 if exact else 0.51):
        raise UserError(f"{source} is not of the model's {scale.count} levels from {scale.low:g} to {scale.high:g}")
    return levels


def _levels(picture: np.ndarray, scale: Levels, name: str, exact: bool) -> Tensor:
    """The nearest levels ``(H, W, C)`` of 8-bit pixels."""
    table = np.rint(np.arange(256) * ((scale.count - 1) / 255)).astype(np.int64)
    if exact and not (_bytes(table, scale) == np.arange(256))[picture].all():
        raise UserError(
            f"{name} has pixels between the {scale.count} levels of this model, which cannot come back exactly; give "
            "a step or a quality"
        )
    return torch.from_numpy(table[picture])


def _bytes(levels: np.ndarray, scale: Levels) -> np.ndarray:
    """8-bit pixels of levels."""
    return np.rint(levels * (255 / (scale.count - 1))).astype(np.uint8)


def _grid(height: int, width: int, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-height // h), -(-width // w)


def _cut(levels: Tensor, h: int, w: int) -> Tensor:
    """Tiles ``(N, C, h, w)`` of an image ``(H, W, C)``, row by row."""
    height, width, channels = levels.shape
    rows, columns = _grid(height, width, h, w)
    # The edge is repeated.
    picture = levels[torch.arange(rows * h).clamp_max(height - 1)][:, torch.arange(columns * w).clamp_max(width - 1)]
    return picture.reshape(rows, h, columns, w, channels).permute(0, 2, 4, 1, 3).reshape(-1, channels, h, w)


def _join(tiles: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``_cut``."""
    channels, h, w = tiles.shape[1:]
    rows, columns = _grid(height, width, h, w)
    picture = tiles.reshape(rows, columns, channels, h, w).permute(0, 3, 1, 4, 2)
    return picture.reshape(rows * h, columns * w, channels)[:height, :width]


def check_items(items: Sequence[Item], count: int, shape: Sequence[int]) -> None:
    """Refuse names that would lead out of a folder, and sizes that are not those of the tiles.

    Raises:
        UserError: with the name.
    """
    total = 0
    for name, height, width in items:
        parts = PurePosixPath(name).parts
        bad = not parts or name.startswith("/") or {"..", "."} & set(parts) or str(PurePosixPath(name)) != name
        if bad or any(c in "\\:" or not c.isprintable() for c in name) or len(parts) > DEEPEST:
            raise UserError(f"the file names an image {name!r}, which is no name inside a folder")
        if max(len(part.encode()) for part in parts) > LONGEST:
            raise UserError(f"the file names an image {name[:40]!r}…, whose name is longer than {LONGEST} bytes")
        total += _grid(height, width, *shape[1:])[0] * _grid(height, width, *shape[1:])[1]
    if items and total != count:
        raise UserError(f"the file contradicts itself: its images are {total} tiles, it holds {count}")
    try:
        places([name for name, *_ in items])
    except UserError as error:
        raise UserError(f"the file contradicts itself: {error}") from None


def places(names: Sequence[str]) -> list[PurePosixPath]:
    """Where images are written in their folder: ``.png`` for the suffix, or behind it where that name is taken.

    Names that differ only in case, or in how their letters are composed, are one file on some disks, and count as one
    on all.

    Raises:
        UserError: for a name that stands twice, a third of one kind, or an image that is a folder too.
    """
    alike = lambda path: unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
    folders = {alike(parent) for name in names for parent in PurePosixPath(name).parents}
    seen: set[str] = set()
    taken: dict[str, str] = {}
    found = []
    for name in names:
        whole = PurePosixPath(name)
        both = (whole.with_suffix(".png"), whole.with_name(f"{whole.name}.png"))
        place = next((p for p in both if alike(p) not in taken), None)
        if name in seen or place is None:
            raise UserError(f"{taken[alike(both[0])]!r} and {name!r} would be written to one file")
        if alike(place) in folders:
            raise UserError(f"{name!r} is an image and a folder")
        seen.add(name)
        taken[alike(place)] = name
        found.append(place)
    return found


def write(out: Path, levels: Tensor, items: Sequence[Item], data: DataInfo) -> Path:
    """Write images: one as a PNG file, or all into a new folder as PNGs under their names; or levels as ``.npy``.

    Raises:
        UserError: for a place that does not suit what is to be written.
    """
    check_items(items, len(levels), data.shape)
    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, levels.numpy().astype(np.uint8 if Levels.of(data).count <= 256 else np.uint16))
        files.replace(out, buffer.getvalue())
        return out
    if not data.is_image:
        raise UserError(f"out must be a .npy file for data of shape {data.shape}, got {out}")
    items = items or [(f"{i:05d}.png", data.shape[1], data.shape[2]) for i in range(len(levels))]
    check_out(out, len(items))
    pictures, done = [], 0
    for _, height, width in items:
        rows, columns = _grid(height, width, *data.shape[1:])
        pictures.append(_png(_join(levels[done : done + rows * columns], height, width), Levels.of(data)))
        done += rows * columns
    if out.suffix == ".png":
        files.replace(out, pictures[0])
        return out
    with files.directory(out) as beside:
        for place, content in zip(places([name for name, *_ in items]), pictures):
            files.make((beside / place).parent)
            if (beside / place).exists():
                raise UserError(f"{out / place} would be written twice: its name is another's on this disk")
            files.write(beside / place, content)
    return out


def check_out(out: Path, count: int) -> None:
    """Refuse a place that so many images cannot go to.

    Raises:
        UserError: with the place.
    """
    if out.suffix == ".npy":
        return
    if out.suffix == ".png":
        if count > 1:
            raise UserError(f"out must be a folder for {count} images, got {out}")
        return
    if out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise UserError(f"out must be a .png or .npy file or a new folder, got {out}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out must be a new folder, but {out} exists")


def _png(picture: Tensor, scale: Levels) -> bytes:
    """An image ``(H, W, C)`` of levels."""
    from PIL import Image

    array = _bytes(picture.numpy(), scale)
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()
