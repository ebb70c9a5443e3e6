"""NumPy files: every accepted shape and type, and every refusal."""

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from support import with_labels

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


def write(path, array: np.ndarray):
    np.save(path, array)
    return path


def every(dataset: data.Dataset) -> torch.Tensor:
    return torch.cat([dataset.train.all()["x"], dataset.test.all()["x"]])


def rows(x: torch.Tensor | np.ndarray) -> list:
    return sorted(torch.as_tensor(x).flatten(1).tolist())


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (BYTES, (3, 6, 5)),
        (BYTES.transpose(0, 3, 1, 2), (3, 6, 5)),
        (BYTES[..., 0], (1, 6, 5)),
        (BYTES[..., :1], (1, 6, 5)),
        (BYTES[:, :4, :4, :1].transpose(0, 3, 1, 2), (1, 4, 4)),
        (RNG.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8), (3, 4, 4)),
        (RNG.integers(0, 256, (40, 8, 6, 6), dtype=np.uint8), (8, 6, 6)),
    ],
)
def test_image_shapes(tmp_path, array: np.ndarray, shape: tuple) -> None:
    made = data.load(write(tmp_path / "x.npy", array))
    assert (made.info.shape, made.info.levels, made.info.low) == (shape, 256, -1.0)
    planar = array if array.ndim == 3 or array.shape[1:] == shape else array.transpose(0, 3, 1, 2)
    assert rows(every(made)) == rows(planar.reshape(len(array), -1).astype(np.float32) / np.float32(127.5) - 1)


def test_points_are_unbounded_and_kept(tmp_path) -> None:
    x = 100 * RNG.standard_normal((200, 3))
    made = data.load(write(tmp_path / "p.npy", x))
    assert (made.info.shape, made.info.low, made.info.levels, made.info.name) == ((3,), None, None, "p")
    assert rows(every(made)) == rows(x.astype(np.float32))


def test_a_tenth_is_held_out_and_stays_when_rows_are_added(tmp_path) -> None:
    x = np.arange(4000, dtype=np.float32)[:, None].repeat(2, 1)
    few, more = (data.load(write(tmp_path / f"{n}.npy", x[:n])) for n in (2000, 4000))
    held = few.test.all()["x"][:, 0]
    assert abs(len(held) - 200) < 4 * (2000 * 0.09) ** 0.5
    assert torch.equal(held, more.test.all()["x"][: len(held), 0])


def test_labels(tmp_path) -> None:
    x, label = RNG.standard_normal((90, 2)), np.arange(90) % 3
    x[:, 0] = label
    np.savez(tmp_path / "l.npz", x=x, label=label)
    made = data.load(tmp_path / "l.npz")
    assert made.info.classes == ("0", "1", "2")
    for split in (made.train, made.test):
        values, labels = with_labels(split.all())
        assert torch.equal(values[:, 0].long(), labels)


def test_every_class_keeps_a_training_example(tmp_path) -> None:
    # 300 classes of two: by the hash alone, about three would be held out whole.
    np.savez(tmp_path / "c.npz", x=RNG.standard_normal((600, 2)), label=np.arange(600) // 2)
    made = data.load(tmp_path / "c.npz")
    assert len(made.train.labels.unique()) == 300


def test_at_least_one_is_held_out(tmp_path) -> None:
    made = data.load(write(tmp_path / "two.npy", np.zeros((2, 3))))
    assert (len(made.train), len(made.test)) == (1, 1)
    with pytest.raises(UserError, match="at least 2 are needed"):
        data.load(write(tmp_path / "one.npy", np.zeros((1, 3))))


def test_resize_crops_the_centre_and_keeps_the_range(tmp_path) -> None:
    # Left third black, middle white, right third black: the central square of 12 × 36 is white.
    strip = np.zeros((20, 12, 36), np.uint8)
    strip[:, :, 12:24] = 255
    made = data.load(write(tmp_path / "s.npy", strip), size=6)
    assert made.info.shape == (1, 6, 6)
    assert every(made)[:, :, :, 1:-1].min() > 0.9
    assert every(made).abs().max() <= 1
    floats = data.load(write(tmp_path / "f.npy", (strip / 127.5 - 1).astype(np.float32)), size=6)
    assert (every(floats) - every(made)).abs().max() <= 1 / 127.5
    # One-pixel stripes average to grey; without antialiasing they would stay black or white.
    stripes = np.zeros((20, 42, 42), np.uint8)
    stripes[:, :, ::2] = 255
    assert every(data.load(write(tmp_path / "t.npy", stripes), size=6)).abs().max() < 0.05
    window = data.load(write(tmp_path / "s.npy", strip), size=6, crop="random")
    assert window.info.shape == (1, 6, 6)
    assert window.train.batch(torch.arange(18))["x"].mean(dim=(1, 2, 3)).std() > 0.1
    assert torch.equal(window.test.all()["x"], made.test.all()["x"])


def test_channels(tmp_path) -> None:
    grey = data.load(write(tmp_path / "c.npy", BYTES), channels=1)
    assert grey.info.shape == (1, 6, 5)
    from PIL import Image

    luma = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in BYTES])
    got = np.sort(((every(grey) + 1) * 127.5).round().flatten().numpy())
    assert np.abs(got - np.sort(luma.astype(float).ravel())).max() <= 1  # Pillow rounds with 16-bit integers
    colour = data.load(write(tmp_path / "g.npy", BYTES[..., 0]), channels=3)
    assert colour.info.shape == (3, 6, 5)
    assert torch.equal(every(colour)[:, 0], every(colour)[:, 2])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4,)), r"shape \(4,\); accepted"),
        (np.zeros((0, 2)), "not empty"),
        (np.zeros((4, 2), np.int64), "int64; accepted: uint8"),
        (np.array([[0.0, np.nan]] * 4), "4 values that are no finite"),
        (np.full((4, 2), 1e39), "8 values that are no finite"),
        (np.linspace(0, 255, 4 * 64).reshape(4, 8, 8), r"\[0, 255\].*x / 127.5 - 1"),
        (np.linspace(-3, 5, 4 * 64).reshape(4, 8, 8), r"\[-3, 5\].*2 \* \(x - -3\) / 8 - 1"),
        (np.zeros((4, 3, 3, 3)), "reads as"),
        (np.array([{}, []], dtype=object), "pickled Python objects are never read"),
    ],
)
def test_refused_arrays(tmp_path, array: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        data.load(write(tmp_path / "x.npy", array))


def test_images_in_zero_to_one_are_doubted(tmp_path) -> None:
    with pytest.warns(UserWarning, match="2 \\* x - 1"):
        data.load(write(tmp_path / "x.npy", RNG.random((4, 8, 8))))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.arange(8) - 1, r"labels must lie in \[0, 7\), got \[-1\]"),
        (np.arange(7), "8 integers"),
        (np.arange(8.0), "8 integers"),
        (np.array([0, 1, 0, 1, 0, 1, 0, 10**9]), "1000000000 for 8 examples"),
    ],
)
def test_refused_labels(tmp_path, label: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 2)), label=label)
    with pytest.raises(UserError, match=words):
        data.load(tmp_path / "x.npz")


def test_damaged_files(tmp_path) -> None:
    good = write(tmp_path / "x.npy", RNG.standard_normal((50, 4))).read_bytes()
    np.savez(tmp_path / "good.npz", x=np.zeros((8, 2)))
    zipped = (tmp_path / "good.npz").read_bytes()
    for name, content in {
        "cut.npy": good[: len(good) // 2],
        "empty.npy": b"",
        "text.npy": b"hello",
        "cut.npz": zipped[: len(zipped) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            data.load(tmp_path / name)
    np.savez(tmp_path / "y.npz", y=np.zeros((8, 2)))
    with pytest.raises(UserError, match="needs an array 'x'"):
        data.load(tmp_path / "y.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"\.npy or \.npz"):
        data.load(tmp_path / "x.csv")
