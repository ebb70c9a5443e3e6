"""Arrays whose headers lie, and archives that unpack to a thousand times their size: refused before memory is taken."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin.data import _numpy
from langevin.storage import untrusted


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
