"""Hugging Face data, from disk: no network is used."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import data
from langevin._errors import UserError
from support import with_labels

datasets = pytest.importorskip("datasets")


def table(n: int, label=None, size=(8, 8)):
    columns = {"img": [Image.new("RGB", size, (i, 0, 0)) for i in range(n)]}
    kinds = {"img": datasets.Image()}
    if label is not None:
        columns["kind"] = label
        kinds["kind"] = datasets.ClassLabel(names=["even", "odd"])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def red(x: torch.Tensor) -> torch.Tensor:
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_one_split_is_divided(tmp_path, prefix: str) -> None:
    table(60, [i % 2 for i in range(60)]).save_to_disk(tmp_path / "tiny")
    made = data.load(f"{prefix}{tmp_path / 'tiny'}")
    assert (made.info.shape, made.info.classes, made.info.levels) == ((3, 8, 8), ("even", "odd"), 256)
    x, label = with_labels(made.train.all())
    assert torch.equal(red(x) % 2, label)
    held, held_label = with_labels(made.test.all())
    assert torch.equal(red(held) % 2, held_label)
    assert torch.cat([red(x), red(held)]).sort().values.tolist() == list(range(60))
    assert data.load(**made.info.source).info == made.info


def test_own_splits_are_kept(tmp_path) -> None:
    whole = datasets.DatasetDict({"train": table(20), "validation": table(6), "test": table(5)})
    whole.save_to_disk(tmp_path / "tiny")
    made = data.load(tmp_path / "tiny", size=4, limit=18, channels=1)
    assert (len(made.train), len(made.test), made.info.shape) == (18, 5, (1, 4, 4))
    assert made.train.labels is None


def test_rows_without_a_picture_are_skipped(tmp_path) -> None:
    rows = table(12, [i % 2 for i in range(12)]).cast_column("img", datasets.Image(decode=False))
    broken = [dict(row) for row in rows]
    broken[3]["img"] = {"bytes": b"no", "path": None}
    broken[8]["img"] = None
    datasets.Dataset.from_list(broken, features=table(1, [0]).features).save_to_disk(tmp_path / "tiny")
    with pytest.warns(UserWarning, match="2 files skipped"):
        made = data.load(tmp_path / "tiny")
    x, label = with_labels(made.train.all())
    assert torch.equal(red(x) % 2, label)
    assert {3, 8}.isdisjoint(red(x).tolist() + red(made.test.all()["x"]).tolist())


def test_refusals(tmp_path, monkeypatch) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(UserError, match=r"no image column; its columns are \['text'\]"):
        data.load(tmp_path / "text")
    table(8, [0, 1, -1, 0, 1, 0, 1, 0]).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(UserError, match=r"labels must lie in \[0, 2\), got \[-1\]"):
        data.load(tmp_path / "unlabelled")
    table(4, [0, 1, None, 0]).save_to_disk(tmp_path / "missing")
    with pytest.raises(UserError, match=r"labels must lie in \[0, 2\), got \[-1\]"):
        data.load(tmp_path / "missing")
    odd = {"img": [Image.fromarray(np.zeros((4 + i % 2, 4), np.uint8)) for i in range(6)]}
    kinds = datasets.Features({"img": datasets.Image()})
    datasets.Dataset.from_dict(odd, features=kinds).save_to_disk(tmp_path / "odd")
    with pytest.raises(UserError, match=r"size is needed.*4×4 \(3\), 4×5 \(3\)"):
        data.load(tmp_path / "odd")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="hf:nobody/nothing cannot be loaded: no network"):
        data.load("hf:nobody/nothing")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        data.load("hf:nobody/nothing")
