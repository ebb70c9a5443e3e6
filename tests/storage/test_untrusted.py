"""What is read is bounded before memory is taken: headers that lie, bombs, pipes, links, names, corners of JSON."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from langevin import data, models, nn, processes
from langevin._errors import UserError
from langevin.data import _numpy, images
from langevin.data.dataset import Options
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.storage import files, safetensors_io, untrusted
from langevin.training.config import Config

ROOT = Path(__file__).resolve().parents[2]

# JSON.

REFUSED_JSON = [
    ("[" * 33 + "]" * 33, "nested deeper than 32"),
    ("[" * 1_000_000, "nested deeper than 32"),
    ('{"a": ' * 100_000, "nested deeper than 32"),
    ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
    ("NaN", "NaN, which is no JSON"),
    ("[-Infinity]", "-Infinity, which is no JSON"),
    ("1e999", "1e999, which is too large"),
    (str(2**64), "more than 64 bits"),
    ("-" + "9" * 100_000, "more than 64 bits"),
    ('"\\ud800"', "half a surrogate pair"),
    ('{"\\udfff": 1}', "half a surrogate pair"),
    (b'"\xff"', "not UTF-8"),
    ("{}".encode("utf-16"), "not UTF-8"),
    ("\ufeff{}", "Expecting value|BOM"),
    ("", "Expecting value"),
    ("{} {}", "Extra data"),
    ('"' + "a" * 50, "Unterminated string"),
    (b" " * (untrusted.JSON_BYTES + 1), "at most 33554432 bytes"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED_JSON, ids=range(len(REFUSED_JSON)))
def test_json_that_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        untrusted.parse_json(text if isinstance(text, bytes) else text.encode())


def test_json_that_is_read() -> None:
    value = {"a": [1, -2.5e-3, "größer \U0001f600 [[[", None, True, {"b": []}], "c": 2**64 - 1, "d": '\\[[["'}
    for ascii_only in (True, False):  # with \u escapes, surrogate pairs among them, and without
        assert untrusted.parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value
    deep = "[" * 32 + "]" * 32
    assert json.dumps(untrusted.parse_json(deep.encode())) == deep


class Key(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        return str.__eq__(self, other)


def test_a_key_twice_is_found_in_one_pass() -> None:
    """The last of n keys stands twice. A table of n keys compares each a few times; one by one it would be n²/2."""
    n = 2000
    Key.compared = 0
    with pytest.raises(UserError, match="the key 'k1999' twice"):
        untrusted._once([(Key(f"k{i}"), i) for i in range(n)] + [(Key(f"k{n - 1}"), 0)])
    assert Key.compared < 10 * n


def test_a_message_about_a_long_file_is_not_long() -> None:
    with pytest.raises(UserError) as raised:
        untrusted.parse_json(('{"' + "x" * 100_000 + '": 1, "' + "x" * 100_000 + '": 2}').encode())
    assert len(str(raised.value)) < 400
    with pytest.raises(UserError, match=r"^shape must be .* 1, 1\)\.$") as raised:
        data.DataInfo("x", (1,) * 100_000)
    assert len(str(raised.value)) < 4100


# Types.


@dataclass(frozen=True)
class Inner:
    width: int = 1


@dataclass(frozen=True)
class Outer:
    count: int = 0
    rate: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    flag: bool = False
    inner: Inner = field(default_factory=Inner)


TYPES = [
    ({"cuont": 1}, r"x has no 'cuont'\. Did you mean 'count'\? Known: count, rate"),
    ({"count": 1.0}, "x.count must be an integer, got 1.0"),
    ({"count": True}, "x.count must be an integer, got True"),
    ({"count": None}, "x.count must be an integer, got None"),
    ({"rate": "fast"}, "x.rate must be a number or null, got 'fast'"),
    ({"rate": False}, "x.rate must be a number or null, got False"),
    ({"pair": [1.0]}, "x.pair must be a list of 2 numbers"),
    ({"pair": [1.0, None]}, "x.pair must be a list of 2 numbers"),
    ({"kind": "c"}, "x.kind must be 'a' or 'b', got 'c'"),
    ({"kind": ["a"]}, "x.kind must be 'a' or 'b'"),
    ({"names": "abc"}, "x.names must be a list of texts, got 'abc'"),
    ({"flag": 1}, "x.flag must be true or false, got 1"),
    ({"inner": {"widht": 1}}, r"x\.inner has no 'widht'\. Did you mean 'width'"),
    ({"inner": {"width": []}}, r"x\.inner\.width must be an integer"),
    ({"inner": 3}, "x.inner must be a mapping, got 3"),
    ([], "x must be a mapping"),
]


@pytest.mark.parametrize(("values", "why"), TYPES)
def test_settings_of_a_wrong_type(values: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        untrusted.settings(Outer, values, "x")


def test_settings_that_fit() -> None:
    given = {"count": 3, "rate": 2, "pair": [1, 2.5], "names": ["a"], "inner": {"width": 4}}
    assert Outer(**untrusted.settings(Outer, given, "x")) == Outer(3, 2, (1, 2.5), "a", ("a",), False, Inner(4))


CONFIGS = [
    ({"optimser": {}}, r"config has no 'optimser'\. Did you mean 'optimiser'"),
    ({"optimiser": {"rl": 1}}, r"config\.optimiser has no 'rl'\. Did you mean 'lr'"),
    ({"batch": "many"}, "config.batch must be an integer or null, got 'many'"),
    ({"optimiser": {"betas": "no"}}, "config.optimiser.betas must be a list of 2 numbers"),
    ({"network": {"options": [1]}}, "config.network.options must be a mapping"),
    ({"precision": "float8"}, "config.precision must be 'auto' or 'float32' or 'bfloat16'"),
]


@pytest.mark.parametrize(("values", "why"), CONFIGS)
def test_a_training_configuration_is_of_its_types(values: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Config.from_dict(values)


# Files that are none.


def test_a_pipe_and_a_device_are_not_opened(tmp_path: Path) -> None:
    """Reading either would wait, or never end."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "zero")
    begun = time.monotonic()
    for name in ("pipe", "zero", "."):
        with pytest.raises(UserError, match="no regular file"):
            untrusted.contents(tmp_path / name)
    for place in ("config.json", "model.safetensors", "data.safetensors"):
        models.save(model(), tmp_path / "m")
        (tmp_path / "m" / place).unlink()
        os.mkfifo(tmp_path / "m" / place)
        with pytest.raises(UserError, match=f"{place} is no regular file"):
            models.load(tmp_path / "m")
        (tmp_path / "m" / place).unlink()
        (tmp_path / "m" / place).mkdir()
        with pytest.raises(UserError, match=place):
            models.load(tmp_path / "m")
        (tmp_path / "m" / place).rmdir()
    for suffix in (".npy", ".npz"):
        os.mkfifo(tmp_path / f"x{suffix}")
        with pytest.raises(UserError):
            data.load(tmp_path / f"x{suffix}")
    assert time.monotonic() - begun < 5


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


# Numbers in headers.


def npy(shape: tuple[int, ...], descr: str = "<f4", behind: int = 64, order: bool = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * behind


LYING = [
    npy((10**12,)),
    npy((10**6, 10**6)),
    npy((2**63,)),
    npy((2**62, 4, 0)),
    npy((10**30, 10**30)),
    npy((-4, -4)),
    npy((4, 5), behind=79),
    npy((4, 4), "|O"),
    npy((4, 4), "<U1000000"),
    npy((4, 4), "|V16"),
    npy((4, 4), "<f3"),
    npy((1,) * 40),
    b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
    b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    b"\x93NUMPY",
    b"",
]


@pytest.mark.parametrize("content", LYING, ids=range(len(LYING)))
def test_an_array_that_claims_what_it_does_not_hold(content: bytes, tmp_path: Path, limited: None) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("x.npy", content)
    for name in ("x.npy", "x.npz"):
        for read in (data.load, data.samples):
            with pytest.raises(UserError, match=name):
                read(tmp_path / name)


@pytest.mark.parametrize("content", LYING[:2] + LYING[6:7])
def test_a_lie_is_told_before_memory_is_taken(content: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    """Even where there would be room for it: an array is made only if what it needs is there."""
    monkeypatch.setattr(untrusted, "memory", lambda: 2**60)
    monkeypatch.setattr(np, "empty", None)
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"its header says .* of shape .*, at most \d+ B can be behind it"):
        data.samples(tmp_path / "x.npy")


@pytest.fixture
def limited() -> Any:
    """Address space for half a gigabyte more than there is."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path, monkeypatch: Any, limited: None) -> None:
    """The size that the archive itself states is true, and the header too: it is the ratio that is refused."""
    monkeypatch.setattr(_numpy, "FREE", 2**20)
    header = npy((2**12, 2**10), behind=0)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("x.npy", header + bytes(2**24))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**16
    with pytest.raises(UserError, match=r"its header says 16 MiB .* at most 10\d\d KiB|at most 1.* MiB"):
        data.samples(tmp_path / "bomb.npz")
    monkeypatch.setattr(_numpy, "FREE", 2**30)
    assert data.samples(tmp_path / "bomb.npz")[0].shape == (2**12, 2**10)
    # A directory that claims another size than the member unpacks to, and a header to go with it.
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("x.npy", npy((2**12, 2**18), behind=2**24))
    for size in (2**32 - 1, 2**20):
        raw = bytearray((tmp_path / "bomb.npz").read_bytes())
        at = raw.rindex(b"PK\x01\x02")
        raw[at + 24 : at + 28] = struct.pack("<I", size)
        (tmp_path / "lie.npz").write_bytes(raw)
        with pytest.raises(UserError, match=r"lie\.npz"):
            data.samples(tmp_path / "lie.npz")
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "other.npz", "w", kind) as held:
            held.writestr("x.npy", header + bytes(2**24))
        with pytest.raises(UserError, match="must be stored or deflated"):
            data.samples(tmp_path / "other.npz")


def test_arrays_that_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    kinds = [np.float16, np.float32, ">f8", np.uint8, ">i4", np.int64, bool, np.complex64, np.longdouble]
    for kind in kinds:
        for shape in ((), (5,), (2, 3), (2, 0, 3)):
            for order in "CF":
                held = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), kind, order=order)
                np.save(tmp_path / "x.npy", held)
                np.savez_compressed(tmp_path / "x.npz", x=held)
                for name in ("x.npy", "x.npz"):
                    got = _numpy.arrays(tmp_path / name, ("x",))["x"]
                    assert got.shape == held.shape
                    assert got.dtype == held.dtype.newbyteorder("=")
                    assert np.array_equal(got, held)


@pytest.mark.parametrize("kind", ["<f4", ">f4"])
def test_samples_take_what_they_hold(kind: str, tmp_path: Path) -> None:
    """Not a copy, nor a mask of a quarter: the array, 1 MiB of mask and 2 of buffers, a tenth of its 32 MiB."""
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((2**14, 2**9), kind))
    tracemalloc.start()
    try:
        x = data.samples(tmp_path / "x.npz")[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert x.nbytes == 2**25
    assert peak < 1.1 * x.nbytes


@pytest.mark.parametrize(("kind", "shape"), [("u1", (384, 1, 2**9, 2**9)), ("<f4", (1536, 2**14))])
def test_an_array_takes_twice_what_it_holds(
    kind: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: Any, limited: None
) -> None:
    """96 MiB, which are read in 192 MiB and 64 for the rest: the array, and its two splits. Measuring comes after."""
    resource = pytest.importorskip("resource")
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(shape, kind))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.getrlimit(resource.RLIMIT_AS)[1]))
    module = sys.modules["langevin.data.array"]
    monkeypatch.setattr(module, "assemble", lambda name, parts, options, **about: parts)
    train, test = module.array(tmp_path / "x.npz")
    assert len(train.x) + len(test.x) == shape[0]
    assert train.x.dtype == {"u1": torch.uint8, "<f4": torch.float32}[kind]


def test_more_examples_than_memory_has_names_for(tmp_path: Path, monkeypatch: Any) -> None:
    """An archive of a megabyte may hold 2³⁰ bytes, and each be an example; its index as text takes fifty times that."""
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((2**16, 1), np.uint8))
    monkeypatch.setattr(untrusted, "memory", lambda: 2**22)
    with pytest.raises(UserError, match=r"x\.npz: 65536 examples, their names and hashes, would take 10 MiB of memory"):
        data.load(tmp_path / "x.npz")


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


# Tensors.


def model(**changes: Any) -> NetworkDenoiser:
    info = data.DataInfo("dots", (2,), mean=torch.zeros(2).double(), cov=torch.eye(2).double())
    network = nn.create_network({"name": "mlp", "channels": 2, "width": 8, "depth": 1})
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("v", 0.7), (2,), data=info, **changes)


def header(entries: Any, behind: int = 0, length: int | None = None) -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(behind)


def entry(shape: Any, span: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": span}}


TENSORS = [
    header({}, length=2**63),
    header({}, length=2**64 - 1),
    header({}, length=2**30, behind=100),
    header(entry([10**12], [0, 4 * 10**12])),
    header(entry([2**62, 4], [0, 16]), 16),
    header(entry([10**12], [0, 16]), 16),
    header(b"{}" + b" " * 2**24),
    header(entry([2**47, 2**47, 0], [0, 0])),
    header(entry([4], [0, 12]), 16),
    header(entry([4], [4, 20]), 20),
    header(entry([4], [0, 16]), 20),
    header(entry([-4], [0, 16]), 16),
    header(entry([4.0], [0, 16]), 16),
    header(entry([4], [0, 16], "C64"), 16),
    header(entry([4], [0, 16], ["F32"]), 16),
    header(entry("4", [0, 16]), 16),
    header({**entry([4], [0, 16]), "v": entry([4], [8, 24])["w"]}, 24),
    header({"w": 3}),
    header([1, 2]),
    header(b'{"w": {}, "w": {}}'),
    header(b"[" * 10_000),
    header(b"\xff" * 100),
    b"\0" * 7,
    b"",
]


@pytest.mark.parametrize("content", TENSORS, ids=range(len(TENSORS)))
def test_tensors_that_claim_what_the_file_does_not_hold(content: bytes, tmp_path: Path, limited: None) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    for read in (files.outline, files.read_safetensors):
        with pytest.raises(UserError, match=r"w\.safetensors is truncated or no safetensors file"):
            read(tmp_path / "w.safetensors")


def test_more_tensors_than_any_network_has(tmp_path: Path, monkeypatch: Any) -> None:
    """They are counted before the header is parsed, and again after, as their keys may be spelt with escapes."""
    many = {f"t{i}": entry([1], [4 * i, 4 * i + 4])["w"] for i in range(2**16 + 1)}
    text = json.dumps(many, separators=(",", ":"))
    for spelt, parsed in ((text, False), (text.replace("data_", "data\\u005f"), True)):
        asked: list[int] = []
        parse = untrusted.parse_json
        monkeypatch.setattr(safetensors_io, "parse_json", lambda content: asked.append(1) or parse(content))  # noqa: B023
        (tmp_path / "w.safetensors").write_bytes(header(spelt.encode(), 4 * len(many)))
        with pytest.raises(UserError, match=r"it holds 65537 tensors; at most 65536 are accepted"):
            files.outline(tmp_path / "w.safetensors")
        assert bool(asked) == parsed
    few = {name: many[name] for name in list(many)[:1000]}
    (tmp_path / "w.safetensors").write_bytes(header(few, 4000))
    assert len(files.outline(tmp_path / "w.safetensors")) == 1000


def test_the_outline_is_what_is_read(tmp_path: Path) -> None:
    held = {"a": torch.ones(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(2), "d": torch.ones(5).bfloat16()}
    save_file(held, tmp_path / "w.safetensors", metadata={"format": "pt"})
    outline, tensors = files.outline(tmp_path / "w.safetensors"), files.read_safetensors(tmp_path / "w.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in outline.items()} == {k: (v.shape, v.dtype) for k, v in held.items()}
    assert all(v.device.type == "meta" for v in outline.values())
    assert all(torch.equal(tensors[k], held[k]) for k in held)


# Sizes that a configuration asks for.

Change = Callable[[dict[str, Any]], Any]
HUGE: dict[str, tuple[Change, str]] = {
    "width": (lambda c: c["network"].update(width=10**9), "width must be an integer from 1 to 16384"),
    "depth": (lambda c: c["network"].update(depth=10**6), "depth must be an integer from 1 to 256"),
    "parameters": (lambda c: c["network"].update(width=2**14, depth=256), "parameters, at most 1e\\+10"),
    "weights": (lambda c: c["network"].update(width=2**12, depth=8), "does not match its configuration"),
    "table": (
        lambda c: c.update(process={"name": "discretised-gaussian", "classes": 2, "steps": 10**12}),
        r"steps \* classes\^2 must be at most 67108864",
    ),
    "classes": (
        lambda c: c.update(process={"name": "absorbing", "classes": 10**12}),
        "classes must be at most 1048576",
    ),
    "neighbours": (
        lambda c: c.update(process={"name": "neighbours", "classes": 10**6}),
        "classes must be at most 1024",
    ),
    "shape": (lambda c: c.update(shape=[2**40]), "at most 268435456 numbers in all"),
    "levels": (lambda c: c["data"].update(levels=2**60), "at most 65536"),
    "option": (lambda c: c["process"].update(beta_mxa=1), r"process 'vp' has no 'beta_mxa'\. Did you mean 'beta_max'"),
    "type": (
        lambda c: c["parameterization"].update(sigma_data="0.5"),
        "parameterization.sigma_data must be a number, got '0.5'",
    ),
    "data": (lambda c: c["data"].update(shpae=[2]), "Did you mean 'shape'"),
    "source": (lambda c: c["data"].update(source={"path": "/"}), r"data\.source has no 'path'"),
    "steps": (lambda c: c.update(training={"steps": "many"}), "training.steps must be an integer or null"),
    "moments": (lambda c: c.update(moments=3), "moments must be a list of texts"),
    "top": (lambda c: c.update(netwrok=c.pop("network")), "has unknown netwrok. Did you mean 'network'"),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_model_that_asks_for_too_much(what: str, tmp_path: Path, limited: None) -> None:
    change, why = HUGE[what]
    models.save(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    begun = time.monotonic()
    with pytest.raises(UserError, match=why):
        models.load(tmp_path)
    assert time.monotonic() - begun < 10


def test_weights_are_compared_before_the_network_is_made(tmp_path: Path, monkeypatch: Any) -> None:
    """No tensor of the size that a configuration asks for is made while the file has another."""
    models.save(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    made: list[Any] = []
    monkeypatch.setattr(nn, "create_network", lambda *args: made.append(args))
    monkeypatch.setattr(files, "read_safetensors", lambda *args: made.append(args))
    with pytest.raises(UserError, match="does not match its configuration"):
        models.load(tmp_path)
    assert not made


@pytest.mark.parametrize(
    ("said", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "2000"}, 2000),  # as a container sees its own group
        ("0::/a/b\n", {"a/memory.max": "3000", "a/b/memory.max": "max"}, 3000),  # a group around it has the limit
        ("0::/a/b\n", {"a/memory.max": "3000", "a/b/memory.max": "1000"}, 1000),
        ("5:cpu:/x\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "4000"}, 4000),  # version 1
        ("4:memory:/gone\n", {"memory/memory.limit_in_bytes": "5000"}, 5000),
        ("0::/../../other\n", {}, None),
        ("no groups", {"memory.max": "max"}, None),
    ],
)
def test_a_containers_share_of_memory_counts(
    said: str, limits: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(untrusted, "CGROUPS", tmp_path)
    monkeypatch.setattr(untrusted, "OWN_CGROUP", tmp_path / "cgroup")
    unlimited = untrusted.memory()
    (tmp_path / "cgroup").write_text(said)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert untrusted.memory() == (unlimited if expected is None else expected)


def test_a_network_larger_than_memory_is_not_made(monkeypatch: Any) -> None:
    monkeypatch.setattr(untrusted, "memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"network mlp with .* parameters would take .* MiB of memory, at most 922 KiB"):
        nn.create_network({"name": "mlp", "width": 512})


def test_loaded_weights_are_their_own(tmp_path: Path) -> None:
    """The weights take the file's place in the network: trainable, and not a view of the file."""
    models.save(model(), tmp_path)
    loaded = models.load(tmp_path, device="cpu")
    want = save({k: v.contiguous() for k, v in loaded.network.state_dict().items()})
    (tmp_path / "model.safetensors").write_bytes(bytes((tmp_path / "model.safetensors").stat().st_size))
    assert save({k: v.contiguous() for k, v in loaded.network.state_dict().items()}) == want
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.network.parameters())


# Coded images.


def test_a_coded_file_that_would_write_outside_its_folder() -> None:
    from langevin.tasks.compress.images import check_items

    good = [("a.png", 4, 4), ("b/c.png", 4, 4)]
    check_items(good, 2, (1, 4, 4))
    for name in (
        "/a",
        "../a",
        "a/../../b",
        "a\\b",
        "c:a",
        "a\0",
        "a\nb",
        "\x1b[2J",
        "a//b",
        "a/",
        "./a",
        "x" * 300,
        "",
    ):
        with pytest.raises(UserError, match="the file names an image"):
            check_items([(name, 4, 4)], 1, (1, 4, 4))
    with pytest.raises(UserError, match="an image and a folder"):
        check_items([("a", 4, 4), ("a.png/b", 4, 4)], 2, (1, 4, 4))


def test_a_coded_header_that_claims_a_thousand_times_its_file(limited: None) -> None:
    from langevin.tasks.compress.container import Header, pack, read_header, unpack

    plain = Header("0" * 16, (1, 4, 4), 17, 1, (), 0, (0.9, 0.5), (16,), (), (), 0)
    large = Header("0" * 16, (2**10, 2**10, 2**9), 17, 8, (), 0, (0.9, 0.5), (16,), (), (), 0)
    for header in (plain, large):
        layout = header.layouts()[0]
        content = pack(header, [torch.zeros(layout.paths, layout.blocks, dtype=torch.int64)], b"")
        assert read_header(content)[0] == header
        if header is plain:
            unpack(content)
        else:
            with pytest.raises(UserError, match=r"8 images of shape \(1024, 1024, 512\) would take .* of memory"):
                unpack(content)


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from langevin.cli.entry import main

    assert main(["convert", "a\x1b[2J\x07b.pt", "--out", "w.safetensors"]) == 2
    said = capsys.readouterr().err
    assert said == "langevin convert: there is no file a\ufffd[2J\ufffdb.pt\n"


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 2)))
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=name):
            data.samples(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.json is missing"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="no name and no path"):
        data.load("x" * 5000)


def test_the_limits_in_the_docs_are_those_of_the_code():
    rows = re.findall(r"^\| ([\d,.]+) \| .* \| `([\w.]+)` \|$", (ROOT / "docs" / "safety.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for number, name in rows:
        module, _, constant = name.rpartition(".")
        assert float(number.replace(",", "")) == getattr(importlib.import_module(f"langevin.{module}"), constant), name
