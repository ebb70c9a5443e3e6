"""Folders of pictures: what is read, how, and what is refused."""

import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import data
from langevin._errors import UserError
from langevin.data import images
from support import with_labels


def picture(path: Path, colour=(200, 100, 50), size=(16, 16), mode="RGB", **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)
    return path


def photos(root: Path, classes=("cats", "dogs"), each=10, **about) -> Path:
    for k, name in enumerate(classes):
        for i in range(each):
            picture(root / name / f"{i}.png", (40 * k, i, 0), **about)
    return root


def value(x: torch.Tensor) -> list[int]:
    """The bytes of the first pixel."""
    return ((x[..., 0, 0] + 1) * 127.5).round().int().tolist()


def test_sub_folders_are_classes(tmp_path) -> None:
    photos(tmp_path / "pets", ("dogs", "cats", "ants"))
    picture(tmp_path / "pets" / "dogs" / "more" / "deep.png", (40 * 0, 99, 0))
    made = data.load(tmp_path / "pets")
    assert made.info.classes == ("ants", "cats", "dogs")
    assert (made.info.shape, made.info.levels, made.info.name) == ((3, 16, 16), 256, "pets")
    assert len(made.train) + len(made.test) == 31
    for split in (made.train, made.test):
        x, label = with_labels(split.all())
        # photos() paints class k of (dogs, cats, ants) with red 40 k.
        assert [80 - 40 * int(k) for k in label] == [rgb[0] for rgb in value(x)]


def test_a_flat_folder_is_unlabelled_and_any_format_is_read(tmp_path) -> None:
    for i, kind in enumerate(["png", "bmp", "gif", "tiff", "webp", "jpg", "ppm"]):
        picture(tmp_path / "mix" / f"{i}.{kind}", (200, 200, 200))
    picture(tmp_path / "mix" / ".hidden.png")
    made = data.load(tmp_path / "mix")
    assert made.info.classes == ()
    assert made.train.labels is None
    assert len(made.train) + len(made.test) == 7
    for x in (made.train.all()["x"], made.test.all()["x"]):
        assert all(abs(byte - 200) <= 2 for rgb in value(x) for byte in rgb)


def test_grey_stays_grey_unless_asked_or_mixed(tmp_path) -> None:
    for i in range(4):
        picture(tmp_path / "grey" / f"{i}.png", 70, mode="L")
    assert data.load(tmp_path / "grey").info.shape == (1, 16, 16)
    colour = data.load(tmp_path / "grey", channels=3)
    assert value(colour.train.all()["x"])[0] == [70, 70, 70]
    picture(tmp_path / "grey" / "c.png")
    assert data.load(tmp_path / "grey").info.shape == (3, 16, 16)
    assert data.load(tmp_path / "grey", channels=1).info.shape == (1, 16, 16)


def test_modes_are_brought_to_eight_bits(tmp_path) -> None:
    deep = np.full((8, 8), 257 * 60, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert images.decode(str(tmp_path / "deep.png"), None, None, False)[0, 0].tolist() == [60]
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert images.decode(str(tmp_path / "deep.tif"), None, 3, False)[0, 0].tolist() == [60, 60, 60]
    # Pillow before 11 opens 16-bit PNG as 32-bit "I".
    older = Image.new("I", (4, 4), 257 * 60)
    older.format = "PNG"
    assert images.decode(older, None, None, False)[0, 0].tolist() == [60]
    # Transparent pixels keep whatever colour the editor left in them; they are white.
    picture(tmp_path / "clear.png", (255, 0, 0, 0), mode="RGBA")
    assert images.decode(str(tmp_path / "clear.png"), None, None, False)[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    palette.save(tmp_path / "p.png")
    assert images.decode(str(tmp_path / "p.png"), None, None, False)[0, 0].tolist() == [10, 20, 30]
    palette.save(tmp_path / "p.gif", transparency=0)
    assert images.decode(str(tmp_path / "p.gif"), None, None, False)[0, 0].tolist() == [255, 255, 255]
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(images.Refused, match="32-bit"):
        images.decode(str(tmp_path / "f.tif"), None, None, False)


def test_recorded_orientation_is_applied(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: the left edge becomes the top
    image = Image.new("RGB", (24, 16), "black")
    image.paste("white", (0, 0, 8, 16))
    image.save(tmp_path / "t.png", exif=exif)
    upright = images.decode(str(tmp_path / "t.png"), None, 1, False)[..., 0]
    assert upright.shape == (24, 16)
    assert (upright[:8] == 255).all()
    assert (upright[8:] == 0).all()
    assert images.upright_size(str(tmp_path / "t.png")) == (16, 24)


def test_resize_is_antialiased_and_central(tmp_path) -> None:
    # One-pixel stripes average to grey; a filter without antialiasing would return stripes or a flat 0 or 255.
    stripes = np.zeros((64, 192, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :64, 0] = stripes[:, 128:, 0] = 0
    Image.fromarray(stripes).save(tmp_path / "s.png")
    x = images.decode(str(tmp_path / "s.png"), 8, None, False)
    assert x.shape == (8, 8, 3)
    assert np.abs(x[:, 1:-1].astype(int) - 127).max() <= 3
    whole = images.decode(str(tmp_path / "s.png"), 8, None, True)
    assert whole.shape == (8, 24, 3)
    assert whole[:, :7, 0].max() == 0
    assert np.abs(whole[:, 9:15].astype(int) - 127).max() <= 3


def test_large_jpegs_agree_with_a_full_decode(tmp_path) -> None:
    # Blocks of 8 pixels become 2: a decoder that shrank too far would blur them.
    blocks = np.random.default_rng(0).integers(0, 256, (50, 64), dtype=np.uint8)
    image = Image.fromarray(np.stack([np.kron(blocks, np.ones((8, 8), np.uint8))] * 3, -1))
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")
    one, two = (images.decode(str(tmp_path / f"a.{kind}"), 100, None, False).astype(int) for kind in ("jpg", "png"))
    # The decoder halves by averaging and the filter does the rest: edges differ by a little, flat parts do not.
    assert np.abs(one - two).mean() < 5


def test_sizes_must_be_given_if_they_differ(tmp_path) -> None:
    photos(tmp_path / "p", each=3)
    picture(tmp_path / "p" / "cats" / "odd.png", size=(20, 30))
    with pytest.raises(UserError, match=r"size is needed.*16×16 \(6\), 20×30 \(1\)"):
        data.load(tmp_path / "p")
    assert data.load(tmp_path / "p", size=12).info.shape == (3, 12, 12)
    wide = photos(tmp_path / "wide", each=2, size=(24, 16))
    assert data.load(wide).info.shape == (3, 16, 24)


def test_broken_files_are_skipped_listed_and_warned_of(tmp_path) -> None:
    root = photos(tmp_path / "p")
    (root / "cats" / "notes.txt").write_text("hello")
    whole = picture(root / "dogs" / "z.png", size=(64, 64)).read_bytes()
    (root / "dogs" / "z.png").write_bytes(whole[: len(whole) // 2])
    (root / "dogs" / "e.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="3 files skipped"):
        made = data.load(root, size=16)
    assert [Path(path).name for path, _ in made.skipped] == ["notes.txt", "e.png", "z.png"]
    assert "not a picture" in made.skipped[0][1]
    assert "truncated" in made.skipped[2][1]
    assert len(made.train) + len(made.test) == 20


def test_nothing_readable(tmp_path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no")
    words = r"holds no readable image \(3 files, 3 refused; first: .*0\.jpg: not a picture"
    with pytest.raises(UserError, match=words):
        data.load(tmp_path)
    with pytest.raises(UserError, match=words):
        data.load(tmp_path, size=8)


def test_formats_without_a_reader_say_what_to_install(tmp_path, monkeypatch) -> None:
    (tmp_path / "i.heic").write_bytes(b"no")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"i\.heic: no HEIC reader: pip install pillow-heif"):
        data.load(tmp_path)
    # With the package installed, its reader is used.
    called = []
    fake = types.ModuleType("pillow_heif")
    fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    fake.register_heif_opener = lambda: called.append(True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    with pytest.raises(UserError, match="HEIC"):
        data.load(tmp_path)
    assert called


def test_decompression_bombs_are_refused(tmp_path, monkeypatch, recwarn) -> None:
    root = photos(tmp_path / "p", each=4)
    picture(root / "cats" / "big.png", size=(40, 40))
    picture(root / "cats" / "huge.png", size=(80, 80))
    # Pillow warns above its own limit and refuses from twice the limit on.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "PIXELS", 1000)
    made = data.load(root, size=16)
    assert [Path(path).name for path, _ in made.skipped] == ["big.png", "huge.png"]
    assert "40×40 is over the limit of 1000 pixels" in made.skipped[0][1]
    assert not [w for w in recwarn if issubclass(w.category, Image.DecompressionBombWarning)]


def test_train_and_test_folders_are_the_splits(tmp_path) -> None:
    photos(tmp_path / "p" / "train", ("a", "b"), 6)
    photos(tmp_path / "p" / "val", ("b", "a"), 3)
    photos(tmp_path / "p" / "unused", ("b",), 3)
    with pytest.warns(UserWarning, match="beside train and test"):
        made = data.load(tmp_path / "p")
    assert (len(made.train), len(made.test), made.info.classes) == (12, 6, ("a", "b"))
    assert [rgb[0] for rgb in value(made.train.all()["x"])] == [0] * 6 + [40] * 6
    photos(tmp_path / "p" / "test", ("b", "a"), 5)
    with pytest.warns(UserWarning, match="beside train"):
        assert len(data.load(tmp_path / "p").test) == 10
    shutil.rmtree(tmp_path / "p" / "test")
    shutil.rmtree(tmp_path / "p" / "val")
    (tmp_path / "p" / "val").mkdir()
    with pytest.raises(UserError, match="val holds no readable"):
        data.load(tmp_path / "p")


def test_a_picture_keeps_its_split_when_others_come(tmp_path) -> None:
    def held(root: Path) -> set:
        return {tuple(rgb) for rgb in value(data.load(root).test.all()["x"])}

    photos(tmp_path / "p", each=60)
    before = held(tmp_path / "p")
    assert abs(len(before) - 12) < 4 * (120 * 0.09) ** 0.5
    for i in range(60, 120):
        picture(tmp_path / "p" / "cats" / f"{i}.png", (0, i, 0))
    after = held(tmp_path / "p")
    assert before <= after
    assert all(rgb[1] >= 60 for rgb in after - before)
    (tmp_path / "p").rename(tmp_path / "renamed")
    assert held(tmp_path / "renamed") == after


def test_random_windows_for_training_only(tmp_path) -> None:
    for i in range(12):
        image = Image.new("L", (48, 16))
        image.putdata([x for _ in range(16) for x in range(48)])
        (tmp_path / "w").mkdir(exist_ok=True)
        image.save(tmp_path / "w" / f"{i}.png")
    made = data.load(tmp_path / "w", size=16, crop="random")
    assert made.info.shape == (1, 16, 16)
    index = torch.zeros(1, dtype=torch.int64)
    corners = {value(made.train.batch(index, draw=k)["x"])[0][0] for k in range(200)}
    assert corners <= set(range(33))
    assert len(corners) > 28
    assert value(made.test.all()["x"])[0] == [16]


def test_limit_spreads_over_classes(tmp_path) -> None:
    root = photos(tmp_path / "p", each=100)
    made = data.load(root, limit=40)
    assert len(made.train) == 40
    assert 5 < int(made.train.labels.sum()) < 35


def test_linked_folders_are_followed_once(tmp_path) -> None:
    photos(tmp_path / "real", each=5)
    (tmp_path / "p").mkdir()
    os.symlink(tmp_path / "real" / "cats", tmp_path / "p" / "cats")
    os.symlink(tmp_path / "p", tmp_path / "real" / "cats" / "loop")
    made = data.load(tmp_path / "p")
    assert made.info.classes == ("cats",)
    assert len(made.train) + len(made.test) == 5


def test_refusals(tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("")
    with pytest.raises(UserError, match="holds no file"):
        data.load(tmp_path / "empty")
    picture(tmp_path / "one" / "a.png")
    with pytest.raises(UserError, match="at least 2 are needed"):
        data.load(tmp_path / "one")
    root = photos(tmp_path / "p", each=3)
    picture(root / "loose.png")
    with pytest.raises(UserError, match=r"both at its top \(1, first: .*loose\.png\)"):
        data.load(root)

    def denied(self: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UserError, match=r"cannot read folder.*Permission denied"):
        data.load(root)


def test_source_gives_the_data_again(tmp_path) -> None:
    root = photos(tmp_path / "p")
    made = data.load(root, size=8, flip=True)
    assert made.info.source == {"source": str(root), "size": 8, "flip": True}
    again = data.load(**made.info.source)
    assert again.info == made.info
    assert torch.equal(again.train.all()["x"], made.train.all()["x"])


def test_a_bar_appears_only_when_it_takes_long(monkeypatch) -> None:
    from langevin.data import _progress

    bars = []

    class Bar:
        def update(self, task: int, completed: int) -> None:
            bars.append(completed)

        def stop(self) -> None:
            bars.append("stopped")

    monkeypatch.setattr(_progress, "_bar", lambda total, title: (Bar(), 0))
    assert list(_progress.track(range(3), 3, "x")) == [0, 1, 2]
    assert not bars
    clock = iter(range(100))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    assert list(_progress.track(range(6), 6, "x")) == [0, 1, 2, 3, 4, 5]
    assert bars[-1] == "stopped"
    assert bars[0] == 2
    bars.clear()
    assert list(_progress.track(range(6), 6, "x", show=False))
    assert not bars
