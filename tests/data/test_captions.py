"""Captions of a folder's pictures: text files beside them, tables, and what of both is no caption."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from langevin import data
from langevin._errors import UserError
from langevin.data import captions
from langevin.nn.text import decode_text, encode_texts


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
