"""Data that are read while they are trained on: Parquet files on the disk, by the calls that read the Hub too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin.data.streaming import BUFFER, HELD, MEASURED
from streamed import anew, numbers, picture, write

datasets = pytest.importorskip("datasets")

SHARDS = (2100, 1300, 1900)
ROWS = sum(SHARDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One split of three shards."""
    folder = tmp_path_factory.mktemp("one-split")
    write(folder / "data", "train", SHARDS)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> data.Dataset:
    return data.load(f"hf:{folder}", streaming=True)


def positions(stream: Any, first: int, count: int, seed: int = 3) -> torch.Tensor:
    return numbers(stream.batch(torch.arange(first, first + count), seed=seed)["x"])


def test_an_epoch_has_every_row_once_but_those_held_out(made: data.Dataset) -> None:
    """Of shards in a random order, shuffled within blocks; the next epoch has them in another order."""
    assert (len(made.train), len(made.test)) == (MEASURED, HELD)
    assert numbers(made.test.all()["x"]).tolist() == list(range(HELD))
    count = ROWS - HELD
    epochs = [
        torch.cat([positions(made.stream, first, 64) for first in range(k * count, (k + 1) * count - 63, 64)])
        for k in (0, 1)
    ]
    left = count % 64
    epochs = [
        torch.cat((epoch, positions(made.stream, (k + 1) * count - left, left))) for k, epoch in enumerate(epochs)
    ]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(HELD, ROWS))
    assert not torch.equal(*epochs)
    # Of six epochs not all begin with the same shard (by chance in one of 243 seeds).
    assert len({next(made.stream.rows(3, epoch))["image"]["bytes"] for epoch in range(6)}) > 1
    # A block holds rows that lie together, in another order than they lie there.
    block = epochs[0][:BUFFER]
    assert len(set(block.tolist()) & set(range(HELD, ROWS))) == BUFFER
    assert (block.diff() == 1).float().mean() < 0.01


def test_any_position_at_once_is_what_reading_up_to_it_finds(made: data.Dataset) -> None:
    """From the beginning, from the middle of a block, from the third epoch, backwards, and in several threads."""
    for first in (0, 100, BUFFER - 5, 5000, 2 * (ROWS - HELD) + 77, 64):
        assert torch.equal(positions(anew(made).stream, first, 50), positions(made.stream, first, 50))
    again = anew(made).stream
    assert torch.equal(positions(again, 5000, 50), positions(again, 5000, 50))
    assert not torch.equal(positions(again, 0, 50), positions(again, 0, 50, seed=4))
    rows = torch.arange(200, 264)
    parts = [again.batch(rows[part], seed=3, draw=9) for part in (slice(0, 21), slice(21, 64))]
    whole = made.stream.batch(rows, seed=3, draw=9)
    for name in whole:
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_labels_and_captions_belong_to_their_picture(made: data.Dataset) -> None:
    from langevin.nn.text import encode_texts

    assert made.info.classes == ("even", "odd")
    got = made.stream.batch(torch.arange(3000, 3100), seed=1)
    which = numbers(got["x"]).tolist()
    assert got["label"].tolist() == [i % 2 for i in which]
    told = [None if i % 5 == 0 else f"number {i % 7}" for i in which]
    assert torch.equal(got["caption"], encode_texts(told, made.info.conditions["caption"][0]))


def test_the_description_is_that_of_the_first_examples(made: data.Dataset) -> None:
    x = made.train.all()["x"].double().flatten(1)
    assert numbers(made.train.all()["x"]).tolist() == list(range(HELD, HELD + MEASURED))
    assert torch.equal(made.info.mean, x.mean(0))
    assert made.info.source["streaming"] is True
    assert data.load(**made.info.source).info == made.info


def test_augmentation_is_that_of_data_in_memory(made: data.Dataset, folder: Path) -> None:
    """Mirrored by (seed, position, draw), and the damage goes with the picture."""
    other = data.load(f"hf:{folder}", streaming=True, flip=True, degrade="noise=0.1")
    rows = torch.arange(40, 90)
    got, whole = other.stream.batch(rows, seed=3, draw=5), made.stream.batch(rows, seed=3, draw=5)
    mirror = other.train.mirrored(rows, 3, 5)
    assert 0 < int(mirror.sum()) < 50
    assert torch.equal(got["x"], torch.where(mirror[:, None, None, None], whole["x"].flip(-1), whole["x"]))
    # The standard deviation of 2,400 normals of 0.1 is 0.1 within 1 / sqrt(4800) of it; five times that.
    assert abs(float((got["image"] - got["x"]).std()) / 0.1 - 1) < 5 / 4800**0.5


def test_own_splits_limits_and_little_data(tmp_path: Path) -> None:
    write(tmp_path / "two" / "data", "train", (1500, 900))
    write(tmp_path / "two" / "data", "test", (1200,), first=100_000)
    made = data.load(f"hf:{tmp_path / 'two'}", streaming=True, size=2, channels=1)
    assert (len(made.train), len(made.test), made.info.shape) == (MEASURED, HELD, (1, 2, 2))
    assert made.stream.batch(torch.arange(5))["x"].shape == (5, 1, 2, 2)
    few = data.load(f"hf:{tmp_path / 'two'}", streaming=True, limit=30)
    assert (few.stream, numbers(few.train.all()["x"]).tolist()) == (None, list(range(30)))
    assert numbers(few.test.all()["x"]).tolist() == list(range(100_000, 100_030))
    write(tmp_path / "little" / "data", "train", (40,))
    little = data.load(f"hf:{tmp_path / 'little'}", streaming=True)
    assert little.stream is None
    assert len(little.train) + len(little.test) == 40


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    columns = {"image": [picture(i) for i in range(3500)]}
    kinds = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(tmp_path / "saved")
    made = data.load(tmp_path / "saved", streaming=True)
    rows = torch.cat([positions(made.stream, k, 1) for k in range(0, 3500 - HELD)])
    assert rows.sort().values.tolist() == list(range(HELD, 3500))


def test_a_row_without_a_picture_gives_its_place_to_the_next(tmp_path: Path) -> None:
    broken = (3300, 3301, 3400)
    write(tmp_path / "data", "train", (3600,), broken=broken)
    made = data.load(f"hf:{tmp_path}", streaming=True)
    rows = torch.cat([positions(made.stream, first, 4) for first in range(0, 3600 - HELD, 4)]).tolist()
    assert set(rows) == set(range(HELD, 3600)) - set(broken)
    assert len(rows) == 3600 - HELD


def test_refusals(tmp_path: Path, folder: Path) -> None:
    for source in ("digits", str(folder)):
        with pytest.raises(UserError, match="streaming is for data of Hugging Face"):
            data.load(source, streaming=True)
    with pytest.raises(UserError, match="cannot be streamed with it"):
        data.load(f"hf:{folder}", streaming=True, text_encoder="a/b")
    write(tmp_path / "data", "train", (3400,), broken=tuple(range(HELD + MEASURED, 3400)))
    made = data.load(f"hf:{tmp_path}", streaming=True)
    with pytest.raises(UserError, match="16 rows in a row hold no usable picture"):
        made.stream.batch(torch.arange(BUFFER, BUFFER + 50))
    made.stream.count = 3000
    with pytest.raises(UserError, match=f"says that it has 3000 rows to train on, and has {3400 - HELD}"):
        made.stream.batch(torch.arange(2990, 3010))
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    gone = anew(made).stream
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be read on"):
            gone.batch(torch.arange(5))
