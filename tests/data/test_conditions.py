"""What belongs to examples beside them: captions and arrays of a file, and their description."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_captions import told

from langevin import data
from langevin._errors import UserError
from langevin.data import DataInfo, Split
from langevin.data.dataset import Examples, Options, assemble
from langevin.nn.text import encode_text, encode_texts

N = 40


# --- data of the Hub ---


def saved(path: Path, columns: dict[str, list], kinds: dict[str, object]) -> Path:
    datasets = pytest.importorskip("datasets")
    count = len(next(iter(columns.values())))
    pictures = {"image": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(count)]}
    features = datasets.Features({"image": datasets.Image(), **kinds})
    datasets.Dataset.from_dict({**pictures, **columns}, features=features).save_to_disk(path)
    return path


def test_a_column_of_text_becomes_captions(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    string = datasets.Value("string")
    texts = [None if i == 3 else f"number {i}" for i in range(20)]
    both = saved(tmp_path / "both", {"text": ["no"] * 20, "caption": texts}, {"text": string, "caption": string})
    made = data.load(both)
    assert told(made) == dict(enumerate(texts))
    assert made.info.conditions == {"caption": (10,)}
    few = told(data.load(both, limit=4))
    assert few == {i: texts[i] for i in few}

    lists = [[f"first {i}", "second"] if i else [] for i in range(20)]
    several = saved(tmp_path / "lists", {"text": lists}, {"text": datasets.Sequence(string)})
    assert told(data.load(several)) == {i: f"first {i}" if i else None for i in range(20)}

    numbers = saved(tmp_path / "numbers", {"text": list(range(20))}, {"text": datasets.Value("int64")})
    assert data.load(numbers).info.conditions == {}
    other = saved(tmp_path / "other", {"words": texts}, {"words": string})
    assert data.load(other).info.conditions == {}


def test_captions_follow_their_rows_where_pictures_are_skipped(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    path = saved(tmp_path / "all", {"text": [f"{i}" for i in range(12)]}, {"text": datasets.Value("string")})
    held = datasets.load_from_disk(path)
    rows = [dict(row) for row in held.cast_column("image", datasets.Image(decode=False))]
    rows[2]["image"] = None
    datasets.Dataset.from_list(rows, features=held.features).save_to_disk(tmp_path / "some")
    with pytest.warns(UserWarning, match="1 files skipped"):
        made = data.load(tmp_path / "some")
    assert told(made) == {i: f"{i}" for i in range(12) if i != 2}


# --- arrays ---


def written(path: Path, **arrays: np.ndarray) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    np.savez(path, **{"x": pixels, **arrays})
    return path


def joined(made: data.Dataset, name: str) -> torch.Tensor:
    return torch.cat([s.all()[name] for s in (made.train, made.test)])


def order(made: data.Dataset) -> torch.Tensor:
    """The rows of ``written`` in the order of both splits."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    x = ((joined(made, "x") + 1) * 127.5).round().byte().flatten(1)
    held = torch.from_numpy(pixels).flatten(1)
    return (x[:, None] == held[None]).all(2).int().argmax(1)


def test_arrays_beside_x_become_conditions_of_the_same_rows(tmp_path) -> None:
    g = np.random.default_rng(1)
    image = g.integers(0, 256, (N, 4, 4), dtype=np.uint8)
    mask = (g.random((N, 8, 8)) < 0.5).astype(np.float32)
    vector = g.normal(size=(N, 5)).astype(np.float64)
    vector[7] = np.nan
    sequence = g.normal(size=(N, 6, 2)).astype(np.float16)
    sequence[3, 4:] = np.nan
    texts = [None if i % 3 == 0 else f"row {i}" for i in range(N)]
    caption = encode_texts(texts, 9).numpy()
    about = {"image": image, "mask": mask, "vector": vector, "sequence": sequence, "caption": caption}
    made = data.load(written(tmp_path / "a.npz", label=np.arange(N) % 2, **about))
    assert dict(made.info.conditions) == {
        "label": (),
        "caption": (9,),
        "image": (1, 4, 4),
        "mask": (1, 8, 8),
        "vector": (5,),
        "sequence": (6, 2),
    }
    assert made.info.condition_sizes == {"label": 2, "caption": 9, "image": 1, "mask": 1, "vector": 5, "sequence": 2}
    rows = order(made)
    assert sorted(rows.tolist()) == list(range(N))
    assert torch.equal(joined(made, "label"), rows % 2)
    assert torch.equal(joined(made, "image"), torch.from_numpy(image)[rows][:, None].float() / 127.5 - 1)
    assert torch.equal(joined(made, "mask"), torch.from_numpy(mask)[rows][:, None])
    for name, value in (("vector", vector), ("sequence", sequence)):
        expected = torch.from_numpy(value.astype(np.float32))[rows]
        assert torch.equal(torch.nan_to_num(joined(made, name), 99.0), torch.nan_to_num(expected, 99.0))
        assert joined(made, name).isnan().any()
    assert joined(made, "caption").dtype == torch.int64
    assert torch.equal(joined(made, "caption"), torch.from_numpy(caption)[rows])
    assert DataInfo.from_dict(json.loads(json.dumps(made.info.to_dict())), made.info.tensors()) == made.info
    assert set(made.train.batch(torch.arange(3))) == {"x", *made.info.conditions}


REFUSED = {
    "image of points": ({"image": np.zeros((N, 3), np.float32)}, "image must be pictures"),
    "too few": ({"vector": np.zeros((N - 1, 3))}, f"vector must be of {N} examples, as x is; got {N - 1}"),
    "vector of pictures": ({"vector": np.zeros((N, 3, 2))}, r"vector must be numbers \(N, V\)"),
    "sequence of numbers": ({"sequence": np.zeros((N, 3))}, r"sequence must be numbers \(N, L, F\)"),
    "complex": ({"vector": np.zeros((N, 3), complex)}, "vector must be numbers"),
    "infinite": ({"vector": np.full((N, 3), np.inf)}, "vector holds infinities"),
    "mask beyond 1": ({"mask": np.full((N, 8, 8), 2.0)}, r"mask must be .* in \[0, 1\]"),
    "mask of three channels": ({"mask": np.zeros((N, 3, 8, 8))}, "mask must be"),
    "mask not a number": ({"mask": np.full((N, 8, 8), np.nan)}, "mask must be"),
    "empty": ({"vector": np.zeros((N, 0))}, "vector must be numbers"),
    "real caption": ({"caption": np.zeros((N, 4))}, r"caption must be integers \(N, L\); got float64"),
    "caption of one axis": ({"caption": np.zeros(N, int)}, "caption must be integers"),
    "caption beyond": ({"caption": np.full((N, 4), 257)}, r"caption must lie in -1…256; got 257…257"),
    "caption below": ({"caption": np.full((N, 4), -2)}, r"caption must lie in -1…256; got -2…-2"),
    "caption without an end": ({"caption": np.full((N, 4), 65)}, r"caption\[0\] is not"),
    "caption of two ends": ({"caption": np.full((N, 2), 256)}, r"caption\[0\] is not"),
    "caption behind its end": ({"caption": np.tile([256, 65], (N, 1))}, r"caption\[0\] is not"),
    "caption with a gap": ({"caption": np.tile([65, -1, 256], (N, 1))}, r"caption\[0\] is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_of_another_kind_are_refused(tmp_path, case: str) -> None:
    about, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason) as caught:
        data.load(written(tmp_path / "a.npz", **about))
    assert "a.npz" in str(caught.value)


def test_pictures_beside_x_are_not_resized_or_cut(tmp_path) -> None:
    path = written(tmp_path / "a.npz", mask=np.ones((N, 8, 8), np.float32))
    for options in ({"size": 4}, {"size": 4, "crop": "random"}):
        with pytest.raises(UserError, match="size and crop would leave the mask"):
            data.load(path, **options)


def test_the_good_row_of_a_damaged_caption_is_not_named(tmp_path) -> None:
    caption = encode_texts(["ab"] * N, 5).numpy()
    caption[17, 1] = -1
    with pytest.raises(UserError, match=r"caption\[17\] is not"):
        data.load(written(tmp_path / "a.npz", caption=caption))


# --- descriptions ---


def test_a_description_refuses_conditions_it_cannot_mean() -> None:
    good = {"caption": (9,), "image": (1, 4, 4), "vector": (3,)}
    info = DataInfo(name="a", shape=(3, 8, 8), classes=("x", "y"), conditions=good)
    assert list(info.conditions) == ["label", "caption", "image", "vector"]
    assert DataInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
    assert "conditions=caption, image, vector" in repr(info)
    other = DataInfo(name="a", shape=(3, 8, 8), classes=("x", "y"), conditions={**good, "vector": (4,)})
    assert other != info
    for bad in ({"picture": (1, 4, 4)}, {"image": (4, 4)}, {"vector": ()}, {"vector": (0,)}, {"caption": (2, 3)}):
        with pytest.raises(UserError, match=rf"condition.*{next(iter(bad))}"):
            DataInfo(name="a", shape=(3, 8, 8), conditions=bad)
        with pytest.raises(UserError):
            DataInfo.from_dict({"name": "a", "shape": [3, 8, 8], "conditions": {k: list(v) for k, v in bad.items()}})


def test_both_splits_have_the_same_conditions() -> None:
    part = lambda **more: Examples(torch.zeros(4, 2), more)
    with pytest.raises(UserError, match="both splits must have the same conditions"):
        assemble("a", [part(vector=torch.zeros(4, 3)), part()], Options())
    with pytest.raises(UserError, match="vector"):
        assemble("a", [part(vector=torch.zeros(4, 3)), part(vector=torch.zeros(4, 5))], Options())


def test_a_split_refuses_conditions_of_another_length() -> None:
    with pytest.raises(UserError, match=r"vector must have shape \(4, …\), one an example; got \(3, 2\)"):
        Split(torch.zeros(4, 2), {"vector": torch.zeros(3, 2)})
    with pytest.raises(UserError, match="conditions must be a mapping"):
        Split(torch.zeros(4, 2), torch.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="crop cannot cut windows"):
        Split(torch.zeros(4, 1, 8, 8), {"mask": torch.zeros(4, 1, 8, 8)}, crop=4)


def test_captions_are_held_in_two_bytes_and_given_in_eight(tmp_path) -> None:
    tokens = torch.stack([encode_text("ab", 4), encode_text("", 4)]).to(torch.int16)
    batch = Split(torch.zeros(2, 2), {"caption": tokens}).batch(torch.tensor([1, 0]))
    assert batch["caption"].tolist() == [[256, -1, -1, -1], [97, 98, 256, -1]]
    assert batch["caption"].dtype == torch.int64
