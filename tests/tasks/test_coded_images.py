"""Images of any size and depth to code and to write, and the names of their files."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_codec import network, smooth

from langevin._errors import UserError
from langevin.denoisers import NetworkDenoiser
from langevin.storage import untrusted
from langevin.tasks.compress import images
from langevin.tasks.compress.chain import checked


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return network()


def picture(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_images_of_any_size_are_tiled(tmp_path: Path) -> None:
    model = network((3, 8, 8), 256)
    sizes = {"a.png": (21, 13), "below/b.png": (8, 8), "below/c.png": (1, 30)}
    for name, size in sizes.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size, 3)).save(tmp_path / "in" / name)
    levels, items = images.read(str(tmp_path / "in"), checked(model), exact=True)
    assert items == tuple((name, *size) for name, size in sizes.items())
    assert levels.shape == (3 * 2 + 1 + 4, 3, 8, 8)
    images.write(tmp_path / "out", levels, items, checked(model))
    for name, size in sizes.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / name)), picture(*size, 3))


def test_levels_of_digits_are_eight_bits(tmp_path: Path) -> None:
    data = network().data
    levels = smooth(4, (1, 8, 8), 17)
    images.write(tmp_path / "out", levels, (), data)
    back, items = images.read(str(tmp_path / "out"), data, exact=True)
    assert torch.equal(back, levels)
    assert [name for name, *_ in items] == [f"{i:05d}.png" for i in range(4)]
    images.write(tmp_path / "x.npy", levels, (), data)
    assert np.array_equal(np.load(tmp_path / "x.npy"), levels.numpy())
    between = tmp_path / "between.png"
    Image.fromarray(picture(8, 8, 1)[..., 0]).save(between)
    with pytest.raises(UserError, match="pixels between the 17 levels"):
        images.read(str(between), data, exact=True)
    assert images.read(str(between), data, exact=False)[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("mode", "lost"), [("RGBA", "an alpha channel"), ("LA", "an alpha channel"), ("I;16", "8 bits")]
)
def test_what_eight_bits_cannot_hold_is_not_called_exact(tmp_path: Path, mode: str, lost: str) -> None:
    grey = Image.fromarray(picture(8, 8, 1)[..., 0])
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    (deep if mode == "I;16" else grey.convert(mode)).save(tmp_path / "x.png")
    data = checked(network((1, 8, 8), 256))
    with pytest.raises(UserError, match=f"x.png has .*{lost}.*cannot bring back exactly"):
        images.read(str(tmp_path / "x.png"), data, exact=True)
    assert images.read(str(tmp_path / "x.png"), data, exact=False)[0].shape == (1, 1, 8, 8)


TOGETHER = [
    ["a.png", "a.jpg", "a.jpg.png"],
    ["a.png", "A.png", "b/a.png"],
    ["\u00e9.png", "e\u0301.png", "stra\u00dfe.png", "STRASSE.png"],
    ["x/1.png", "X/1.png", "x.png.png"],
]


@pytest.mark.parametrize("names", TOGETHER)
def test_names_that_are_alike_are_written_apart(tmp_path: Path, names: list[str]) -> None:
    """Every image has a file, and on a disk that knows no case too: the names differ without it."""
    levels = smooth(len(names), (1, 8, 8), 17)
    images.write(tmp_path / "out", levels, [(name, 8, 8) for name in names], network().data)
    written = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in written}) == len(names)
    for name, place, level in zip(names, images.places(names), levels):
        pixels = np.asarray(Image.open(tmp_path / "out" / place))
        assert np.array_equal(np.rint(pixels / 255 * 16), level[0].numpy()), name


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["a.png", "b.png", "a.png"], "'a.png' and 'a.png' would be written to one file"),
        (["a.png", "A.png", "a.PNG"], "'a.png' and 'a.PNG' would be written to one file"),
        (["B.png/x.png", "b.jpg"], "'b.jpg' is an image and a folder"),
    ],
)
def test_names_that_cannot_be_written_apart(tmp_path: Path, names: list[str], phrase: str) -> None:
    levels, items = smooth(len(names), (1, 8, 8), 17), [(name, 8, 8) for name in names]
    with pytest.raises(UserError, match=f"the file contradicts itself: {phrase}"):
        images.write(tmp_path / "out", levels, items, network().data)
    assert not (tmp_path / "out").exists()


def test_pictures_are_held_against_memory_before_they_are_coded(tmp_path: Path, monkeypatch: Any) -> None:
    for i in range(4):
        Image.fromarray(picture(32, 32, 3, i)).save(tmp_path / f"{i}.png")
    data = network((3, 8, 8), 256).data
    images.read(str(tmp_path), data, exact=True)
    monkeypatch.setattr(untrusted, "memory", lambda: 2**19)
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(UserError, match="its pictures, coded together, would take 576 KiB of memory"):
        images.read(str(tmp_path), data, exact=True)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "", "c:a.png", "a\\b.png"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no name inside a folder"):
        images.write(tmp_path / "out", smooth(1, (1, 8, 8), 17), [(name, 8, 8)], network().data)
    assert not (tmp_path / "out").exists()


def test_places_that_do_not_suit(tmp_path: Path) -> None:
    data, levels = network().data, smooth(2, (1, 8, 8), 17)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, phrase in (("x.png", "a folder for 2 images"), ("x.jpg", "a .png or .npy"), ("full", "exists")):
        with pytest.raises(UserError, match=phrase):
            images.write(tmp_path / out, levels, (), data)
    with pytest.raises(UserError, match="its images are 1 tiles, it holds 2"):
        images.write(tmp_path / "new", levels, [("a.png", 8, 8)], data)
