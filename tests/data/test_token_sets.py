"""Sets of tokens are what their pages say."""

from __future__ import annotations

import pytest
import torch

from langevin import data, training
from langevin._errors import UserError
from langevin.data import DataInfo, words


def test_heartbeat_is_five_phases() -> None:
    found = data.load("heartbeat")
    assert (found.info.shape, found.info.tokens, found.info.mean, found.info.low) == ((20,), ("0", "1"), None, None)
    for split, count in ((found.train, 10_000), (found.test, 1000)):
        x = split.all()["x"]
        assert (x.shape, x.dtype) == ((count, 20), torch.int64)
        rows, times = x.unique(dim=0, return_counts=True)
        assert times.tolist() == [count // 5] * 5
        beats = {tuple(row.nonzero()[:, 0].tolist()) for row in rows}
        assert beats == {tuple(range(phase, 20, 5)) for phase in range(5)}


def test_words_are_rows_of_running_text() -> None:
    found = data.load("words")
    assert (found.info.shape, "".join(found.info.tokens)) == ((32,), " abcdefghijklmnopqrstuvwxyz")
    for split in (found.train, found.test):
        x = split.all()["x"]
        assert x.dtype == torch.int64
        assert (int(x.min()), int(x.max())) == (0, 26)
        row = x.flatten()
        assert not ((row[1:] == 0) & (row[:-1] == 0)).any()  # single spaces, across rows too: the text runs on
        # English: e is the letter seen most, and a fifth to a sixth of the text is spaces.
        counts = torch.bincount(row, minlength=27)
        assert found.info.tokens[int(counts[1:].argmax()) + 1] == "e"
        assert 1 / 7 < float(counts[0] / counts.sum()) < 1 / 5
    assert 7 < len(found.train) / len(found.test) < 12  # a tenth of the paragraphs, whose lengths differ
    text = training.text(found.test.all()["x"], found.info.tokens).replace("\n", "")
    assert " the " in text


def test_a_paragraph_is_in_one_split() -> None:
    """The split is decided by a paragraph's own text, and each is there once."""
    found = words.paragraphs()
    assert len(found) == len(set(found))
    rows = {tuple(row) for row in data.load("words").train.all()["x"].tolist()}
    shared = [tuple(row) in rows for row in data.load("words").test.all()["x"].tolist()]
    # What stands in both are phrases of the house: rows start anywhere, so even those agree by chance alone.
    assert sum(shared) < 0.005 * len(shared)


def test_digits_17_are_the_digits() -> None:
    tokens, greys = data.load("digits-17"), data.load("digits")
    for mine, theirs in ((tokens.train, greys.train), (tokens.test, greys.test)):
        assert torch.equal(mine.all()["x"].float() / 8 - 1, theirs.all()["x"])
        assert torch.equal(mine.all()["label"], theirs.all()["label"])
    assert (tokens.info.low, tokens.info.high, tokens.info.levels, len(tokens.info.tokens)) == (0.0, 16.0, 17, 17)
    assert tokens.info.classes == greys.info.classes


def test_limits() -> None:
    assert len(data.load("words", limit=7).train) == len(data.load("digits-17", limit=7).test) == 7


def test_a_description_of_tokens_travels() -> None:
    info = data.load("heartbeat").info
    assert DataInfo.from_dict(info.to_dict()) == info
    assert "tokens=2" in repr(info)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokens": ("a",)}, "two or more names"),
        ({"tokens": ("a", "b", "a")}, "differ from each other"),
        ({"tokens": ("a", "b"), "mean": torch.zeros(20, dtype=torch.float64)}, "tokens have no moments"),
    ],
)
def test_descriptions_that_contradict_themselves(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DataInfo("x", (20,), None, None, **settings)  # type: ignore[arg-type]


def test_what_is_for_images() -> None:
    with pytest.raises(UserError, match="heartbeat: these are sequences of tokens"):
        data.load("heartbeat", size=8)
    with pytest.raises(UserError, match="flip mirrors images"):
        data.load("heartbeat", flip=True)
