"""What belongs to examples beside them: arrays of a file, captions of pictures, and their description."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import data
from langevin._errors import UserError
from langevin.data import DataInfo, Split, captions
from langevin.data.dataset import Examples, Options, assemble
from langevin.nn.text import decode_text, encode_text, encode_texts

N = 40


def photos(root: Path, count: int = 20, where: str = "") -> list[Path]:
    """Pictures whose red tells their number."""
    (root / where).mkdir(parents=True, exist_ok=True)
    paths = [root / where / f"{i:02d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    return paths


def told(made: data.Dataset) -> dict[int, str | None]:
    """The caption of each picture by its red, over both splits."""
    found: dict[int, str | None] = {}
    for split in (made.train, made.test):
        batch = split.all()
        assert batch["caption"].dtype == torch.int64
        reds = ((batch["x"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        for red, tokens in zip(reds, batch["caption"]):
            found[red] = None if bool((tokens == -1).all()) else decode_text(tokens)
    return found


# --- text files beside pictures ---


def test_a_text_file_beside_a_picture_is_its_caption(tmp_path) -> None:
    paths = photos(tmp_path / "p")
    for i, path in enumerate(paths[:15]):
        path.with_suffix(".txt").write_text(f"  picture {i} é\n", encoding="utf-8")
    paths[3].with_suffix(".txt").write_bytes("\ufeffmarked".encode())
    paths[4].with_suffix(".txt").write_text("")
    paths[5].with_suffix(".txt").rename(paths[5].with_suffix(".TXT"))
    made = data.load(tmp_path / "p")
    expected = {i: f"picture {i} é" for i in range(15)} | {3: "marked", 4: ""} | dict.fromkeys(range(15, 20))
    assert told(made) == expected
    assert made.skipped == ()
    # The longest is "picture 10 é": 13 bytes and the end.
    assert made.info.conditions == {"caption": (14,)}
    assert made.info.condition_sizes == {"caption": 14}
    assert data.load(**made.info.source).info == made.info


def test_captions_leave_pictures_and_splits_as_they_are(tmp_path) -> None:
    paths = photos(tmp_path / "p")
    plain = data.load(tmp_path / "p")
    for path in paths:
        path.with_suffix(".txt").write_text("red")
    made = data.load(tmp_path / "p")
    for a, b in ((plain.train, made.train), (plain.test, made.test)):
        assert torch.equal(a.all()["x"], b.all()["x"])
    assert "caption" not in plain.train.all()
    assert plain.info.conditions == {}
    few = data.load(tmp_path / "p", limit=5)
    assert len(few.train) == 4  # no picture is held out by its own hash: one of five is moved there
    assert set(told(few).values()) == {"red"}


def test_captions_beside_classes_and_in_splits(tmp_path) -> None:
    for where in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        for path in photos(tmp_path / "p", 3, where):
            path.with_suffix(".txt").write_text(where)
    made = data.load(tmp_path / "p")
    assert made.info.classes == ("cats", "dogs")
    assert list(made.info.conditions) == ["label", "caption"]
    for split, name in ((made.train, "train"), (made.test, "test")):
        batch = split.all()
        for label, tokens in zip(batch["label"].tolist(), batch["caption"]):
            assert decode_text(tokens) == f"{name}/{made.info.classes[label]}"


def test_long_captions_are_cut_at_256_tokens(tmp_path) -> None:
    paths = photos(tmp_path / "p", 4)
    paths[0].with_suffix(".txt").write_text("é" * 300, encoding="utf-8")
    paths[1].with_suffix(".txt").write_text("a" * 255)
    paths[2].with_suffix(".txt").write_text("b" * 256)
    made = data.load(tmp_path / "p")
    assert made.info.conditions == {"caption": (256,)}
    assert told(made) == {0: "é" * 127, 1: "a" * 255, 2: "b" * 255, 3: None}
    texts = ["é" * 300, "a" * 255, None, "\U0001f600" * 64, ""]
    assert torch.equal(captions.tokens(texts, "t"), encode_texts(texts, 256).to(torch.int16))
    assert captions.tokens([None, None], "t") is None
    assert captions.tokens([], "t") is None


def test_text_that_is_no_caption_is_skipped_with_a_reason(tmp_path, monkeypatch) -> None:
    paths = photos(tmp_path / "p", 12)
    root = tmp_path / "p"
    (root / "notes.txt").write_text("of no picture")
    (root / "broken.png").write_bytes(b"no picture")
    (root / "broken.txt").write_text("its caption")
    paths[0].with_suffix(".txt").write_bytes(b"caf\xe9")
    paths[1].with_suffix(".txt").write_bytes(b"x" * (captions.TEXT + 1))
    paths[2].with_suffix(".txt").mkdir()
    paths[3].with_suffix(".txt").write_bytes(b"y" * captions.TEXT)
    with pytest.warns(UserWarning, match="files skipped"):
        made = data.load(root)
    reasons = {Path(path).name: reason for path, reason in made.skipped}
    assert set(reasons) == {"notes.txt", "broken.png", "broken.txt", "00.txt", "01.txt"}
    assert reasons["00.txt"] == "it is not UTF-8 (byte 3)"
    assert "at most 65536 bytes, got 65537" in reasons["01.txt"]
    assert "no picture" in reasons["broken.txt"]
    assert told(made) == dict.fromkeys(range(12)) | {3: "y" * 255}


def test_one_text_for_two_pictures_of_a_name(tmp_path) -> None:
    paths = photos(tmp_path / "p", 6)
    Image.new("RGB", (8, 8), (100, 0, 0)).save(tmp_path / "p" / "00.bmp")
    paths[0].with_suffix(".txt").write_text("both")
    assert told(data.load(tmp_path / "p")) == dict.fromkeys(range(1, 6)) | {0: "both", 100: "both"}


# --- tables at the top ---


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def cells(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def test_tables_of_captions(tmp_path) -> None:
    photos(tmp_path / "a", 6)
    rows = [{"file_name": f"{i:02d}.png", "text": f"number {i}", "other": [i]} for i in range(4)]
    lines(
        tmp_path / "a" / "metadata.jsonl",
        [*rows, {"file_name": "04.png", "text": None}, {"file_name": "x", "text": "y"}],
    )
    made = data.load(tmp_path / "a")
    assert told(made) == {0: "number 0", 1: "number 1", 2: "number 2", 3: "number 3", 4: None, 5: None}
    assert made.skipped == ()

    photos(tmp_path / "b", 4, "cats")
    photos(tmp_path / "b", 4, "dogs")
    rows = [["cats/00.png", 'a "cat",\nblack'], ["./dogs/01.png", "ein Hündchen"], ["dogs/02.png", ""]]
    cells(tmp_path / "b" / "metadata.csv", ["file_name", "caption"], rows)
    made = data.load(tmp_path / "b")
    assert made.info.classes == ("cats", "dogs")
    found = set()
    for split in (made.train, made.test):
        batch = split.all()
        for label, red, tokens in zip(batch["label"].tolist(), batch["x"][:, 0, 0, 0], batch["caption"]):
            if (tokens >= 0).any():
                found.add((label, round(float(red + 1) * 127.5), decode_text(tokens)))
    assert found == {(0, 0, 'a "cat",\nblack'), (1, 1, "ein Hündchen")}


def test_tables_of_splits_and_above_them(tmp_path) -> None:
    for where in ("train", "test"):
        photos(tmp_path / "p", 3, where)
        lines(tmp_path / "p" / where / "metadata.jsonl", [{"file_name": "00.png", "text": f"{where} 0"}])
    cells(tmp_path / "p" / "metadata.csv", ["text", "file_name"], [["above", "test/01.png"], ["lost", "train/00.png"]])
    made = data.load(tmp_path / "p")
    assert made.skipped == ()
    spoken = [
        [None if (row < 0).all() else decode_text(row) for row in s.all()["caption"]] for s in (made.train, made.test)
    ]
    assert spoken == [["train 0", None, None], ["test 0", "above", None]]


def test_a_text_file_wins_over_a_table_and_jsonl_over_csv(tmp_path) -> None:
    paths = photos(tmp_path / "p", 4)
    lines(tmp_path / "p" / "metadata.jsonl", [{"file_name": f"{i:02d}.png", "text": "lines"} for i in (0, 1)])
    rows = [[f"{i:02d}.png", "cells", "caption first"] for i in (0, 1, 2)]
    cells(tmp_path / "p" / "metadata.csv", ["file_name", "text", "caption"], rows)
    paths[0].with_suffix(".txt").write_text("beside")
    assert told(data.load(tmp_path / "p")) == {0: "beside", 1: "lines", 2: "caption first", 3: None}


DAMAGED = {
    "not json": ("jsonl", b'{"file_name": "00.png"', "line 1"),
    "no object": ("jsonl", b"[1]", "must be a JSON object, got list"),
    "not UTF-8": ("jsonl", b'\n{"file_name": "00.png", "text": "\xff"}', "line 2: it is not UTF-8"),
    "key twice": ("jsonl", b'{"file_name": "00.png", "text": "a", "text": "b"}', "twice"),
    "half a character": ("jsonl", b'{"file_name": "00.png", "text": "\\ud800"}', "surrogate"),
    "deep": ("jsonl", b'{"file_name": "00.png", "text": ' + b"[" * 99 + b"]" * 99 + b"}", "nested"),
    "no text": ("jsonl", b'{"file_name": "00.png", "text": 3}', "text must be text, got int"),
    "no name": ("jsonl", b'{"file_name": 3, "text": "a"}', "must have file_name"),
    "no column": ("jsonl", b'{"file_name": "00.png", "words": "a"}', "caption or text, got file_name, words"),
    "a picture twice": (
        "jsonl",
        b'{"file_name": "00.png", "text": "a"}\n{"file_name": "./00.png", "text": "a"}',
        "second",
    ),
    "long": ("jsonl", b'{"file_name": "00.png", "text": "' + b"a" * 65537 + b'"}', "at most 65536 bytes, got 65537"),
    "no columns": ("csv", b"a,b\n1,2\n", "file_name"),
    "column twice": ("csv", b"file_name,text,text\n00.png,a,b\n", "a column twice"),
    "short row": ("csv", b"file_name,text\n00.png\n", "line 2 has 1 columns, line 1 has 2"),
    "open quote": ("csv", b'file_name,text\n00.png,"a\n', "line 2"),
    "huge cell": ("csv", b"file_name,text\n00.png," + b"a" * 200000, "field larger"),
    "latin-1": ("csv", b"file_name,text\n00.png,caf\xe9\n", "not UTF-8"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_table_is_skipped_with_a_reason(tmp_path, case: str) -> None:
    photos(tmp_path / "p", 4)
    kind, content, reason = DAMAGED[case]
    (tmp_path / "p" / f"metadata.{kind}").write_bytes(content)
    with pytest.warns(UserWarning, match="1 files skipped"):
        made = data.load(tmp_path / "p")
    assert made.info.conditions == {}
    ((path, why),) = made.skipped
    assert Path(path).name == f"metadata.{kind}"
    assert reason in why


def test_a_table_is_bounded_and_opens_nothing_it_names(tmp_path, monkeypatch) -> None:
    photos(tmp_path / "p", 4)
    (tmp_path / "secret.txt").write_text("secret")
    names = ["../secret.txt", "/etc/passwd", "00.png/../../secret.txt", "a\0b", "01.png"]
    lines(tmp_path / "p" / "metadata.jsonl", [{"file_name": name, "text": "seen"} for name in names])
    opened: list[str] = []
    real = captions.contents
    monkeypatch.setattr(captions, "contents", lambda path, most: (opened.append(path), real(path, most))[1])
    assert told(data.load(tmp_path / "p")) == {0: None, 1: "seen", 2: None, 3: None}
    assert opened == [str(tmp_path / "p" / "metadata.jsonl")]
    monkeypatch.setattr(captions, "TABLE", 10)
    with pytest.warns(UserWarning, match="at most 10 bytes"):
        data.load(tmp_path / "p")


def test_pipes_are_not_opened(tmp_path) -> None:
    paths = photos(tmp_path / "p", 4)
    os.mkfifo(paths[0].with_suffix(".txt"))
    os.mkfifo(tmp_path / "p" / "metadata.csv")
    with pytest.warns(UserWarning, match="2 files skipped"):
        made = data.load(tmp_path / "p")
    assert {Path(path).name for path, reason in made.skipped if "no regular file" in reason} == {
        "00.txt",
        "metadata.csv",
    }
    assert made.info.conditions == {}


def test_a_table_below_the_top_is_no_table(tmp_path) -> None:
    photos(tmp_path / "p", 4, "cats")
    photos(tmp_path / "p", 4, "dogs")
    lines(tmp_path / "p" / "cats" / "metadata.jsonl", [{"file_name": "00.png", "text": "a"}])
    with pytest.warns(UserWarning, match="1 files skipped"):
        made = data.load(tmp_path / "p")
    assert "caption" not in made.info.conditions


def test_a_folder_of_captions_alone_is_refused(tmp_path) -> None:
    (tmp_path / "p").mkdir()
    lines(tmp_path / "p" / "metadata.jsonl", [{"file_name": "00.png", "text": "a"}])
    with pytest.raises(UserError, match="holds no file that may be a picture"):
        data.load(tmp_path / "p")


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
