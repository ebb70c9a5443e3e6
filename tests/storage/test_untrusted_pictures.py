"""Folders with everything in them, and pictures that claim another size: bounded before they are opened."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from langevin import data
from langevin._errors import UserError
from langevin.data import images
from langevin.data.dataset import Options
from langevin.storage import untrusted


def pictures(root: Path, count: int = 12) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / f"{i}.png")
    return root


def test_an_image_folder_with_everything_in_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = pictures(tmp_path / "photos")
    os.mkfifo(root / "pipe.png")
    os.symlink("/dev/zero", root / "zero.png")
    os.symlink("loop.png", root / "loop.png")
    os.symlink("nowhere", root / "broken.png")
    os.symlink(tmp_path, root / "up")  # the folder that this one is in, and the whole disk
    os.symlink("/", root / "all")
    os.symlink(".", root / "here")
    (root / "new\nline\x1b[2J.txt").write_bytes(b"x")
    (root / os.fsdecode(b"\xff\xfe.txt")).write_bytes(b"x")
    (root / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n")
    begun = time.monotonic()
    made = data.load(root, progress=False)
    assert len(made.train) + len(made.test) == 12
    refused = {Path(path).name: why for path, why in made.skipped}
    assert refused["pipe.png"] == f"{root / 'pipe.png'} is no regular file"
    assert "no regular file" in refused["zero.png"]
    assert refused["page.eps"] == "not a picture Pillow can read"  # and no Ghostscript was asked
    assert {"loop.png", "broken.png", "new\nline\x1b[2J.txt", "\udcff\udcfe.txt"} < refused.keys()
    assert time.monotonic() - begun < 20


def test_folders_nested_a_thousand_deep_and_names_in_no_encoding(tmp_path: Path) -> None:
    deep = here = tmp_path / "deep"
    for _ in range(1200):
        here.mkdir()
        here = here / "a"
    pictures(here, 3)
    try:
        assert len(data.load(deep, progress=False).train) == 2
    finally:  # what pytest cleans up with is recursive
        for i in range(3):
            (here / f"{i}.png").unlink()
        while here != tmp_path:
            here.rmdir()
            here = here.parent
    named = tmp_path / "named"
    for k in (b"\xff", b"b"):
        pictures(named / os.fsdecode(k), 4)
    with pytest.raises(UserError, match="no Unicode text"):
        data.load(named, progress=False)


def png(width: int, height: int) -> bytes:
    """A picture whose header claims a size that a few bytes fill, black."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(2**20)) for _ in range((width + 7) // 8 * height // 2**20 + 1))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = packed + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_picture_of_sixty_thousand_by_sixty_thousand(tmp_path: Path, limited: None, monkeypatch: Any) -> None:
    bomb = png(60_000, 60_000)
    assert len(bomb) < 2**20
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # whatever a program has set
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(images.Refused, match="over the limit of 67108864 pixels"):
            images.decode(bomb, 8, None, False)
    root = pictures(tmp_path / "photos")
    (root / "bomb.png").write_bytes(bomb)
    made = data.load(root, progress=False, size=8)
    assert [Path(path).name for path, _ in made.skipped] == ["bomb.png"]


def icon(picture: bytes, side: int = 8) -> bytes:
    """An icon of one picture, which says that it has ``side`` pixels a side."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side, side, 0, 0, 1, 32, len(picture), 22) + picture


def tiff(side: int) -> bytes:
    """A picture of 8×8 in one tile of ``side`` × ``side``."""
    tile = zlib.compress(bytes(side * side), 9)
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def webp(kind: bytes, sides: bytes) -> bytes:
    return (b"RIFF\0\0\0\0WEBP" + kind + bytes(4) + sides).ljust(64, b"\0")


INSIDE = [
    (icon(png(13_000, 13_000)), "the icon holds a picture of 13000×13000, at most 1024×1024 are accepted"),
    (icon(struct.pack("<Iii", 40, 13_000, 26_000).ljust(64, b"\0")), "the icon holds a picture of 13000×13000"),
    (icon(struct.pack("<IHH", 12, 13_000, 26_000).ljust(64, b"\0")), "the icon holds a picture of 13000×13000"),
    (webp(b"VP8X", bytes(4) + (2**24 - 1).to_bytes(3, "little") + bytes(2) + b"\x01"), "16777216×65537 is over"),
    (webp(b"VP8L", b"\x2f" + b"\xff" * 4), "16384×16384 is over the limit"),
    (webp(b"VP8 ", bytes(6) + b"\xff" * 4), "16383×16383 is over the limit"),
]


@pytest.mark.parametrize(("content", "why"), INSIDE, ids=range(len(INSIDE)))
def test_sizes_inside_a_picture_are_checked_before_it_is_opened(content: bytes, why: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(Image, "open", None)  # which would decode it
    for read in (images.upright_size, lambda file: images.decode(file, None, None, False)):
        with pytest.raises(images.Refused, match=why):
            read(content)


def test_a_tile_that_is_larger_than_its_picture(monkeypatch: Any) -> None:
    assert images.decode(tiff(256), None, None, False).shape == (8, 8, 1)
    monkeypatch.setattr(images, "_decode", None)
    with pytest.raises(images.Refused, match="a tile of 4096×4096 is over the limit of 4194304 pixels"):
        images.decode(tiff(4096), None, None, False)


def test_icons_and_webp_that_are_read(tmp_path: Path) -> None:
    for size in (16, 48, 256):
        Image.new("RGBA", (size, size), (200, 10, 10, 255)).save(tmp_path / "x.ico", sizes=[(size, size)])
        Image.new("RGBA", (size, size), (200, 10, 10, 255)).save(
            tmp_path / "d.ico", sizes=[(16, 16)], bitmap_format="bmp"
        )
        for name, side in (("x.ico", size), ("d.ico", 16)):
            assert images.decode(str(tmp_path / name), None, None, False).shape == (side, side, 3)
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}):
        Image.new("RGB", (30, 20), "red").save(tmp_path / "x.webp", **options)
        assert images.upright_size(str(tmp_path / "x.webp")) == (30, 20)
        assert images.decode(str(tmp_path / "x.webp"), None, None, False).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["nothing", "webp"])
@pytest.mark.parametrize("size", [8, None])
def test_files_that_are_no_pictures_do_not_stay_in_memory(kind: str, size: int | None, tmp_path: Path) -> None:
    """Twenty of 8 MiB. Of what begins as nothing known a few kilobytes are read, 1 MiB with the pictures and tables.

    What begins as WebP its reader takes whole, in two pieces that are joined: one file at a time, so two of them.
    """
    head, most = {"nothing": (b"", 2**20), "webp": (webp(b"VP8 ", bytes(6) + b"\1\0\1\0"), 2**24 + 2**20)}[kind]
    root = pictures(tmp_path / "photos")
    for i in range(20):
        with open(root / f"{i}.bin", "wb") as file:
            file.write(head)
            file.truncate(2**23)
    items, options = [str(file) for file in sorted(root.iterdir())], Options(size=size, progress=False)
    images.read_all(items[:1], str, options, "photos")  # what is imported at first use
    tracemalloc.start()
    try:
        read = images.read_all(items, str, options, "photos")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    refused = [one for one in read if isinstance(one, images.Refused)]
    assert len(refused) == 20
    assert all(one.__traceback__ is None and one.__context__ is None for one in refused)
    assert held < 2**20
    assert peak < most


def test_a_picture_is_read_once(tmp_path: Path, monkeypatch: Any) -> None:
    """And its header once more, where the sizes are asked first: 64 KiB, the block in which pixels are read."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.fromarray(noise).save(tmp_path / "photos" / f"{i}.{('png', 'jpg')[i % 2]}", quality=95)
    items = [str(file) for file in (tmp_path / "photos").iterdir()]
    taken = 0

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal taken
            content = super().read(size)
            taken += len(content)
            return content

    monkeypatch.setattr(images, "open_file", lambda path: Counting(Path(path).read_bytes()))
    total = sum(map(os.path.getsize, items))
    for size in (None, 32):
        taken = 0
        images.read_all(items, str, Options(size=size, progress=False), "photos")
        assert taken <= total + 12 * 2**16


def test_a_header_that_says_another_size_than_the_picture_has(tmp_path: Path, monkeypatch: Any) -> None:
    root = pictures(tmp_path / "photos")
    Image.new("RGB", (9, 8)).save(root / "x.png")
    monkeypatch.setattr(images, "upright_size", lambda file: (8, 8))
    with pytest.raises(UserError, match=r"photos: size is needed, as images differ in size: 8×8 \(12\), 9×8 \(1\)"):
        data.load(root, progress=False)


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    wide = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert np.array_equal(images.decode(str(tmp_path / "x.png"), None, None, False)[..., 0], np.round(wide / 257))


def test_pictures_that_fill_the_memory_only_together(tmp_path: Path, monkeypatch: Any) -> None:
    root = pictures(tmp_path / "photos")
    monkeypatch.setattr(untrusted, "memory", lambda: 12 * 8 * 8 * 3)
    with pytest.raises(UserError, match=r"photos, decoded, would take 2\.25 KiB of memory"):
        data.load(root, progress=False)
