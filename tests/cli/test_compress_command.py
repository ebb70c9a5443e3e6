"""``langevin compress`` and ``decompress`` on a tiny model: what goes in comes out, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import Run

LEVELS = np.rint(np.arange(17) * 255 / 16).astype(np.uint8)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A grey image of 11 × 13 pixels at the 17 levels of digits."""
    path = tmp_path / "in.png"
    Image.fromarray(LEVELS[np.random.default_rng(0).integers(0, 17, (11, 13))]).save(path)
    return path


def test_an_image_comes_back(langevin: Run, model: Path, image: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "file.lng", tmp_path / "out.png"
    said = langevin("compress", image, "-o", file, "--model", model)
    assert said.code == 0, said.err
    assert f"{file}: 1 image exactly, {file.stat().st_size} bytes" in said.out
    assert f"langevin decompress {file} -o images --model {model}" in said.out
    said = langevin("decompress", file, "-o", out, "--model", model)
    assert said.code == 0, said.err
    assert f"{out}: 1 image, exact." in said.out
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(image)))


def test_named_data_to_a_step(langevin: Run, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.lng"
    made = langevin("compress", "digits", "-o", file, "--model", model, "--limit", 3, "--step", 0.004)
    assert made.code == 0, made.err
    assert "3 images to t = 0.004" in made.out
    for how in ("flow", "mean"):
        said = langevin("decompress", file, "-o", tmp_path / how, "--model", model, "--decode", how)
        assert said.code == 0, said.err
        assert f"3 images, from t = 0.004 by {how}" in said.out
        assert sorted(p.name for p in (tmp_path / how).iterdir()) == [f"0000{i}.png" for i in range(3)]
    langevin("decompress", file, "-o", tmp_path / "x.npy", "--model", model)
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 8, 8)


BAD = [
    (["--step", "0"], "step must be a time in (0, 1]"),
    (["--step", "2"], "step must be a time in (0, 1]"),
    (["--quality", "-1"], "quality must be a PSNR in dB"),
    (["--step", "0.1", "--quality", "20"], "step and quality exclude each other"),
    (["--limit", "0"], "limit must be an integer of at least 1, got 0"),
    (["--stpe", "0.1"], "unknown option '--stpe'. Did you mean '--step'?"),
]


@pytest.mark.parametrize(("words", "phrase"), BAD)
def test_bad_options(langevin: Run, model: Path, tmp_path: Path, words: list[str], phrase: str) -> None:
    said = langevin("compress", "digits", "-o", tmp_path / "file", "--model", model, *words)
    assert said.code == 2
    assert phrase in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "file").exists()


def test_bad_files(langevin: Run, model: Path, image: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.lng"
    assert langevin("compress", image, "-o", file, "--model", model, "--step", 0.01).code == 0
    content = file.read_bytes()
    damaged, foreign = tmp_path / "damaged", tmp_path / "foreign"
    damaged.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    foreign.write_bytes(b"GIF89a" + bytes(50))
    cases = [
        ([damaged, "-o", tmp_path / "x.png"], f"{damaged}: the file is damaged: its checksum"),
        ([foreign, "-o", tmp_path / "x.png"], f"{foreign}: this is no file of `langevin compress`"),
        ([tmp_path / "none", "-o", tmp_path / "x.png"], "none cannot be read: No such file"),
        ([file, "-o", tmp_path / "x.jpg"], "out must be a .png or .npy file or a new folder"),
        ([file, "-o", tmp_path], "exists"),
        ([file, "-o", tmp_path / "x", "--decode", "flwo"], "unknown decoder 'flwo'. Did you mean 'flow'?"),
    ]
    for words, phrase in cases:
        said = langevin("decompress", *words, "--model", model)
        assert said.code == 2, words
        assert phrase in said.err
    said = langevin("compress", damaged, "-o", tmp_path / "y", "--model", model)
    assert said.code == 2
    assert f"{damaged}: not a picture Pillow can read" in said.err
