"""Data whose bytes lie in a package: the archives are fetched by their own clients, checked, and read."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from langevin import UserError, data
from langevin._registry import methods
from langevin.cli.entry import main
from langevin.data import brain, packages
from langevin.data.entry import CATALOGUE, packages_of
from langevin.data.packages import PACKAGES, Package
from langevin.report.sheet import LINES, sheet, wrapped


@pytest.fixture
def fetched():
    """Fetches a package into the user's cache, or skips the test where that cannot be done."""

    def fetch(name):
        try:
            return packages.package(name).fetch()
        except UserError as error:
            pytest.skip(f"{name} cannot be fetched here: {error}")

    return fetch


def made(tmp_path, monkeypatch, kind):
    """A package of one member, and a client that brings it."""
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path / "cache"))
    buffer = io.BytesIO()
    if kind == "npm":
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo("package/a.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("package/a.txt", "hello")
    content = buffer.getvalue()
    file = "a-1.0.tgz" if kind == "npm" else "a-1.0-py3-none-any.whl"
    package = Package(kind, "a", "1.0", file, hashlib.sha256(content).hexdigest(), len(content), "MIT", "a word", "a")
    commands = []

    def run(command, **more):
        commands.append(command)
        folder = command[command.index("--pack-destination" if kind == "npm" else "--dest") + 1]
        with open(f"{folder}/{file}", "wb") as out:
            out.write(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    return package, commands


@pytest.mark.parametrize("kind", ["npm", "pip"])
def test_an_archive_is_fetched_once_and_read(tmp_path, monkeypatch, kind):
    package, commands = made(tmp_path, monkeypatch, kind)
    with pytest.raises(UserError, match="has not been fetched; `langevin data get a` does so once"):
        package.read("package/a.txt")
    assert package.fetch() == package.fetch() == tmp_path / "cache" / "packages" / package.file
    assert len(commands) == 1
    assert ("pack" if kind == "npm" else "download") in commands[0]
    assert package.read("package/a.txt") == b"hello"
    assert package.read_all("package/", ".txt") == {"package/a.txt": b"hello"}
    assert package.read_all("package/", ".json") == package.read_all("a", ".txt") == {}


def test_another_content_is_refused(tmp_path, monkeypatch):
    """When it is brought, and when what lies in the cache was changed since."""
    package, _ = made(tmp_path, monkeypatch, "pip")
    object.__setattr__(package, "sha256", "0" * 64)
    with pytest.raises(UserError, match="another content"):
        package.fetch()
    assert not package.path.exists()
    package, _ = made(tmp_path, monkeypatch, "pip")
    content = bytearray(package.fetch().read_bytes())
    content[40] ^= 1
    package.path.write_bytes(content)
    with pytest.raises(UserError, match="is not as it was fetched"):
        package.read("package/a.txt")


def test_a_client_that_fails_or_is_not_there(tmp_path, monkeypatch):
    package, _ = made(tmp_path, monkeypatch, "npm")
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="npm, whose client `npm` is not installed"):
        package.fetch()
    package, _ = made(tmp_path, monkeypatch, "pip")
    failed = subprocess.CompletedProcess([], 1, "", "noise\nno matching distribution\n")
    monkeypatch.setattr(packages.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(UserError, match="failed: no matching distribution"):
        package.fetch()


def test_the_command_lists_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert "digits" in said
    assert "data" in said
    assert main(["data", "get", "mnst"]) == 2
    assert "Did you mean 'mnist'?" in capsys.readouterr().err
    assert main(["data", "show", "mnist", "--out", str(tmp_path / "a.png")]) == 2
    assert "`langevin data get mnist`" in capsys.readouterr().err
    assert main(["data", "show", "digits", "--count", "0", "--out", str(tmp_path / "a.png")]) == 2
    assert "--count must be from 1 to 1024, got 0" in capsys.readouterr().err
    assert main(["data", "get", "digits"]) == 0
    assert "digits comes with langevin: there is nothing to fetch" in capsys.readouterr().out


def test_the_list_says_what_each_set_holds(tmp_path, monkeypatch, capsys):
    """Every registered set has an entry, and what is written of those that are here is what is loaded."""
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    assert {row.name for row in methods("data")} == set(CATALOGUE)
    assert main(["data", "list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, entry in CATALOGUE.items():
        assert f"{entry.train:,} to train on and {entry.test:,} held out" in said
        for package in packages_of(name):
            assert package.licence in entry.licence
            assert f"{package.client} {package.name} {package.version}" in said
            assert f"`langevin data get {name}`" in said
    for name in ("digits", "digits-17", "moons", "heartbeat"):
        found, entry = data.load(name), CATALOGUE[name]
        assert (len(found.train), len(found.test), found.info.shape) == (entry.train, entry.test, entry.shape)


def test_a_sheet_of_each_kind(tmp_path, capsys):
    """Images with what is told of them, points as a plot, sequences as text."""
    size = lambda: Image.open(tmp_path / "a.png").size
    show = lambda name, *more: main(["data", "show", name, *more, "--out", str(tmp_path / "a.png")])
    assert show("digits", "--count", "9", "--held-out") == 0
    assert "9 held-out examples of 1,438 to train on, 359 held out" in capsys.readouterr().out
    # Three of 128 pixels in a row with gaps of 8, and under each a line of 15 for its class and two gaps.
    assert size() == (3 * 136 + 8, 3 * (128 + 15 + 16) + 8)
    assert show("moons") == 0
    assert size() == (600, 600)
    assert show("words", "--count", "2") == 0
    said = capsys.readouterr().out
    assert [len(line) for line in said.splitlines()[-3:-1]] == [32, 32]
    assert "Licence: PSF." in said


def test_texts_under_pictures_keep_their_width():
    font = ImageFont.load_default(12)
    lines = wrapped("a large green letter Q in a serif face " + "w" * 40, font, 128)
    assert max(font.getlength(line) for line in lines) <= 128
    assert "".join(lines).replace(" ", "") == "alargegreenletterQinaserifface" + "w" * 40
    cut = wrapped("word " * 100, font, 128)
    assert len(cut) == LINES
    assert cut[-1].endswith("…")
    assert wrapped("", font, 128) == [""]
    with pytest.raises(UserError, match="a text each"):
        sheet(torch.zeros(3, 1, 4, 4), ["one"])


def test_mnist(fetched):
    """The counts of the package, classes apart, levels of a byte, and the mean grey of MNIST (0.13)."""
    fetched("mnist")
    found = data.load("mnist")
    assert (len(found.train), len(found.test)) == (9003, 997)
    assert found.info.shape == (1, 28, 28)
    batch = found.train.batch(torch.arange(9003))
    x, label = batch["x"], batch["label"]
    assert torch.bincount(label).min() > 700
    levels = (x.double() + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4  # x is float32, whose rounding at 1 is 6e-8 of 127.5
    assert abs(float((x + 1).mean() / 2) - 0.1307) < 0.005
    # The nearest mean of a class reads four in five: labels belong to their images.
    means = torch.stack([x[label == k].mean(0) for k in range(10)]).flatten(1)
    held = found.test.batch(torch.arange(997))
    near = torch.cdist(held["x"].flatten(1), means).argmin(1)
    assert (near == held["label"]).float().mean() > 0.75
    with pytest.raises(UserError, match="1×28×28"):
        data.load("mnist", size=32)


@pytest.mark.slow
def test_brain_mri(fetched):
    """Held-out slices are far from those of training, in the pose of the volume, and symmetric as a head is."""
    fetched("nilearn")
    found = data.load("brain-mri", size=48)
    assert (len(found.train), len(found.test)) == (2040, 9)
    x = found.test.batch(torch.arange(9))["x"]
    assert x.shape == (9, 1, 48, 48)
    assert -1 <= x.min() < -0.99
    inside = (x > -0.9).float().mean((1, 2, 3))
    assert ((inside > 0.1) & (inside < 0.65)).all()
    mirrored = (x - x.flip(-1)).abs().mean() / (x - x.mean()).abs().mean()
    assert mirrored < 0.25
    with pytest.raises(UserError, match="16 to 192"):
        data.load("brain-mri", size=256)


def test_held_out_slices_have_no_neighbours_in_training():
    where = np.arange(*brain.SLICES)
    distance = np.abs(where % brain.PERIOD - brain.HELD_OUT)
    train, test = where[distance > brain.APART], where[distance == 0]
    assert len(train) * brain.VARIATIONS == 2040
    assert np.abs(train[:, None] - test).min() == brain.APART + 1


def test_a_volume_is_read_as_it_is_stored():
    """x fastest, then y, then z; y is turned so that an image has the front of the head above."""
    header = bytearray(352)
    header[40:56] = struct.pack("<8h", 3, 2, 3, 4, 1, 1, 1, 1)
    header[70:72], header[108:112], header[344:348] = struct.pack("<h", 2), struct.pack("<f", 352.0), b"n+1\0"
    content = gzip.compress(bytes(header) + bytes(range(24)))
    volume = brain.nifti(content)
    assert volume.shape == (4, 3, 2)
    assert volume[1, 0].tolist() == [10, 11]
    with pytest.raises(UserError, match="must hold 24 bytes, got 23"):
        brain.nifti(gzip.compress(bytes(header) + bytes(range(23))))
    with pytest.raises(UserError, match="NIfTI-1"):
        brain.nifti(gzip.compress(bytes(400)))


def test_a_pose_of_halves_changes_nothing():
    """A square volume at its own size, shown whole, comes back pixel for pixel, to the rounding of float32."""
    slices = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    old, brain.FIELD = brain.FIELD, 1.0
    try:
        x = brain.posed(slices, torch.full((3, 4), 0.5), 32)
    finally:
        brain.FIELD = old
    torch.testing.assert_close(x[:, 0], slices / 127.5 - 1, rtol=0, atol=1e-4)


def test_every_package_is_pinned():
    for name, package in PACKAGES.items():
        assert name == package.name
        assert len(package.sha256) == 64
        assert package.client in ("pip", "npm")
