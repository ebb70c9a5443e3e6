"""Which tokens of two captions stand for each other, on pairs written out by hand."""

from __future__ import annotations

import pytest
import torch

from langevin import UserError
from langevin.nn import encode_text
from langevin.tasks.edit import align
from langevin.tasks.edit.alignment import bytes_of, pieces
from langevin.tasks.edit.prompt_to_prompt import Controls


def spans(caption: str, *words: str) -> list[range]:
    """Where words stand among the bytes, found by search."""
    data = caption.encode()
    return [range(data.index(w.encode()), data.index(w.encode()) + len(w.encode())) for w in words]


@pytest.mark.parametrize(
    "caption", ["a red cat", "", " two  spaces ", "naïve, 日本 – “cat”?", "x\ty\nz", "हिन्दी", "🐈‍⬛!"]
)
def test_pieces_are_all_of_the_caption(caption):
    """Together, in order, they are its bytes, which are its tokens."""
    found = pieces(caption)
    assert "".join(piece.text for piece in found) == caption
    tokens = encode_text(caption, 200)
    ends = 0
    for piece in found:
        assert piece.first == ends
        ends = piece.last
        assert bytes(tokens[piece.first : piece.last].tolist()).decode() == piece.text
    assert tokens[ends] == 256


def test_equal_captions_are_the_identity():
    found = align("a naïve 日本 cat, twice: a cat", "a naïve 日本 cat, twice: a cat")
    assert torch.equal(found.matrix, torch.eye(len(found.matrix), dtype=torch.float64))
    assert found.changed() == ([], [])


@pytest.mark.parametrize(
    ("source", "target", "old", "new"),
    [
        ("a red cat", "a blue cat", "red", "blue"),
        ("a red cat", "a red dog", "cat", "dog"),
        ("ein rotes Haus", "ein grünes Haus", "rotes", "grünes"),
        ("一 猫 here", "一 ねこ here", "猫", "ねこ"),
        ("letter A on red", "letter B on red", "A", "B"),
        ("a cat, red", "a cat, green", "red", "green"),
        ("a red cat", "a dark green cat", "red", "dark green"),
    ],
)
def test_a_word_is_swapped(source, target, old, new):
    """Old to new evenly, each row a sum of 1; the rest one for one, with the end; no other token is changed."""
    (rows,), (columns,) = spans(source, old), spans(target, new)
    truth = torch.zeros(len(source.encode()) + 1, len(target.encode()) + 1, dtype=torch.float64)
    for i in range(rows.start):
        truth[i, i] = 1
    truth[rows.start : rows.stop, columns.start : columns.stop] = 1 / len(columns)
    for i in range(rows.stop, len(truth)):
        truth[i, i - rows.stop + columns.stop] = 1
    found = align(source, target)
    assert torch.equal(found.matrix, truth)
    assert found.changed() == (list(rows), list(columns))


def test_words_are_added_and_left_out():
    """A word that was added has a column of zeros, one that was left out a row; with the space beside it."""
    long, short = "a small red cat on blue", "a red cat"
    found, back = align(short, long), align(long, short)
    assert torch.equal(found.matrix.T, back.matrix)
    added = (found.matrix.sum(0) == 0).nonzero().flatten().tolist()
    assert bytes(long.encode()[i] for i in added) == b" small on blue"
    assert found.changed() == ([], added)
    assert back.changed() == (added, [])
    assert torch.equal(found.matrix.sum(1), torch.ones(len(found.matrix), dtype=torch.float64))


def test_tokens_of_words():
    """At every occurrence, whole words alone, several in a row; a word of one caption brings what it stands for."""
    caption = "a cat and a catalogue, größer"
    assert bytes_of(caption, "a") == [0, 10]
    assert bytes_of(caption, "cat") == [2, 3, 4]
    assert bytes_of(caption, "and  a") == [6, 7, 8, 9, 10]
    assert bytes_of(caption, "größer") == list(spans(caption, "größer")[0])
    found = align("a red cat", "a blue cat")
    assert found.of(["red"]) == found.of(["blue"]) == ([2, 3, 4], [2, 3, 4, 5])
    assert found.of(["cat"]) == ([6, 7, 8], [7, 8, 9])


def test_factors_of_words():
    found = align("", "a red cat").factors({"red": 3, "cat": 0.5})
    assert found.tolist() == [1, 1, 3, 3, 3, 1, 0.5, 0.5, 0.5, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bytes_of("a green cat", "gren"), r"word of the caption 'a green cat' 'gren'. Did you mean 'green'\?"),
        (lambda: bytes_of("a cat", " "), "Known: a, cat"),
        (lambda: align("a cat", "a dog").of(["cow"]), "'a cat' and 'a dog' 'cow'"),
        (lambda: align("", "a cat").factors({"dog": 2}), "unknown word"),
        (lambda: align("", "a cat").factors({"cat": "2"}), "reweight must be a finite number"),
        (lambda: align("", "a cat").factors(["cat"]), "reweight must be a mapping"),
        (lambda: align("a cat", 3), "target must be a caption"),
    ],
)
def test_bad_words(call, message):
    with pytest.raises(UserError, match=message):
        call()


def words_as_tokens(caption: str) -> tuple[range, ...]:
    """A mark, a token a word or sign and none for spaces, then marks up to eight tokens, as CLIP's."""
    found = [range(p.first, p.last) for p in pieces(caption) if p.text.strip()]
    return range(0), *found, *[range(0)] * (7 - len(found))


def test_tokens_of_several_bytes():
    """Words one for one, a swap in proportion to letters, spaces of no token; marks in order, the last for the rest."""
    found = align("a red cat", "a dark green cat", words_as_tokens)
    truth = torch.zeros(8, 8, dtype=torch.float64)
    for i, j in ((0, 0), (1, 1), (3, 4), (4, 5), (5, 6), (6, 7), (7, 7)):
        truth[i, j] = 1
    truth[2, 2:4] = torch.tensor([4 / 9, 5 / 9], dtype=torch.float64)  # "dark" and "green"
    assert (found.matrix - truth).abs().max() < 1e-15
    assert found.changed() == ([2], [2, 3])
    assert found.of(["dark"]) == ([2], [2])
    assert found.tokens_of("dark green", "target") == [2, 3]
    assert found.tokens_of("dark", "source") == []
    assert found.factors({"green": 2}).tolist() == [1, 1, 1, 2, 1, 1, 1, 1]
    added = align("a cat", "a red cat", words_as_tokens)
    assert added.matrix.sum(0).tolist()[:5] == [1, 1, 0, 1, 1]
    assert added.matrix.sum(1).tolist() == [1] * 8


def test_changed_words_and_others_together():
    """The union of what each names, as tokens of both captions."""
    one = align("a red cat on blue", "a green cat")
    sides = lambda blend: Controls(blend=blend).blended([one], 20)
    for both, changed, named in zip(sides(["changed", "cat"]), sides("changed"), sides("cat")):
        assert torch.equal(both, changed | named)
        assert not torch.equal(both, changed)
