"""Cartoon faces: captions name the parts they are put together of, and some pairs are never trained on."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import ImageColor

from langevin import UserError, data
from langevin.data import avatars as made_of
from langevin.data import packages, svg
from langevin.data.avatars import (
    BEARDS,
    CLOTHES,
    CLOTHES_COLOURS,
    EXPRESSIONS,
    GLASSES,
    GROUNDS,
    HAIR,
    HAIR_COLOURS,
    PLACES,
    SKINS,
    TEST,
    TRAIN,
    Avatar,
    avatars_at,
    drawing,
    held_out,
    pictures,
    places,
)
from langevin.data.dataset import limited
from langevin.data.entry import CATALOGUE
from langevin.nn.text import decode_text

PLAIN = Avatar("train", "pale", "bob", "red", "none", "none", "smiling", "hoodie", "blue", "white")


@pytest.fixture(scope="module")
def parts():
    """The drawings of the parts; skips the test where they cannot be fetched or drawn."""
    pytest.importorskip("resvg_py")
    try:
        packages.package(made_of.PACKAGE).fetch()
    except UserError as error:
        pytest.skip(f"avatars cannot be fetched here: {error}")
    return made_of.read_parts()


def test_captions_and_attributes():
    assert PLAIN.caption == "a smiling face with pale skin and a red bob, in a blue hoodie on white"
    other = Avatar("new", "dark", "long hair", "pink", "beard", "eyepatch", "angry", "overalls", "grey", "pale blue")
    assert other.caption == (
        "an angry face with dark skin, long pink hair, a beard and an eyepatch, in grey overalls on pale blue"
    )
    assert other.attributes["hair colour"] == "pink"
    kinds = (SKINS, HAIR, HAIR_COLOURS, BEARDS, GLASSES, EXPRESSIONS, CLOTHES, CLOTHES_COLOURS, GROUNDS)
    longest = lambda kind: sorted(kind, key=len)[-2:]
    every = (Avatar("train", *words).caption for words in product(*map(longest, kinds)))
    assert max(len(caption) for caption in every) + 1 < made_of.CAPTION


def test_each_is_a_function_of_its_index_and_the_pairs_are_held_out():
    everything = avatars_at(torch.arange(TRAIN + TEST))
    assert (CATALOGUE["avatars"].train, CATALOGUE["avatars"].test) == (TRAIN, TEST)
    assert avatars_at(torch.tensor([4_001, 17])) == [everything[4_001], everything[17]]
    pairs = {(s, c) for s, c in product(range(12), range(6)) if held_out(s, c)}
    held = {(list(HAIR)[s], list(HAIR_COLOURS)[c]) for s, c in pairs}
    assert len(held) == 12
    # Each style lacks a colour, and each colour as many styles.
    assert len({style for style, _ in held}) == 12
    assert {sum(colour == one for _, one in held) for colour in HAIR_COLOURS} == {2}
    seen = {(one.hair, one.hair_colour) for one in everything[:TRAIN]}
    assert seen == set(product(HAIR, HAIR_COLOURS)) - held
    for part, is_held in (("new", False), ("pair", True)):
        some = [one for one in everything[TRAIN:] if one.part == part]
        assert len(some) == TEST // 2
        assert {(one.hair, one.hair_colour) in held for one in some} == {is_held}
    assert len({one.caption for one in everything}) > 4_000


def test_colours_are_those_of_the_words(parts):
    """Of each kind the named colour fills more of the picture than any other of its kind; the corner is the ground.

    Colours of a kind differ by more than 40 from each other; shades lie over parts of what they fill.
    """
    rgb = lambda colour: np.array(ImageColor.getrgb(colour), dtype=float)
    shown = avatars_at(torch.arange(0, TRAIN + TEST, 110))
    for one, picture in zip(shown, pictures(shown, parts, 64)):
        x = picture.transpose(1, 2, 0).astype(float)
        assert np.abs(x[0, 0] - rgb(GROUNDS[one.background])).max() <= 1
        for kind, name in ((HAIR_COLOURS, one.hair_colour), (CLOTHES_COLOURS, one.clothes_colour), (SKINS, one.skin)):
            filled = {k: int((np.linalg.norm(x - rgb(v), axis=2) < 12).sum()) for k, v in kind.items()}
            assert max(filled, key=lambda k: filled[k]) == name, (one.caption, filled)


@pytest.mark.parametrize(
    ("name", "value", "rows"),
    [
        ("hair", "mohawk", slice(0, 52)),
        ("beard", "beard", slice(20, 46)),
        ("glasses", "sunglasses", slice(20, 36)),
        ("expression", "angry", slice(20, 42)),
        ("clothes", "overalls", slice(36, 64)),
    ],
)
def test_another_part_changes_its_own_place(parts, name, value, rows):
    """And nothing of the picture else."""
    other = Avatar(**{**vars(PLAIN), name: value})
    one, two = (svg.render(drawing(face, parts), 64).astype(int) for face in (PLAIN, other))
    changed = np.flatnonzero(np.abs(one - two).max((0, 2)) > 2)
    assert len(changed)
    assert rows.start <= changed[0] <= changed[-1] < rows.stop


def test_every_part_is_there(parts):
    """Each value of each attribute can be drawn, and is drawn as something of its own."""
    kinds = {"hair": HAIR, "beard": BEARDS, "glasses": GLASSES, "expression": EXPRESSIONS, "clothes": CLOTHES}
    for name, kind in kinds.items():
        faces = [Avatar(**{**vars(PLAIN), name: value}) for value in kind]
        x = pictures(faces, parts, 32)
        assert len({picture.tobytes() for picture in x}) == len(kind)
    with pytest.raises(UserError, match="the part styles-transparent has no Crown"):
        made_of._Part(parts, "styles/transparent").find("Crown")


def test_data(parts):
    found = data.load("avatars", size=16, limit=10)
    assert found.info.shape == (3, 16, 16)
    assert found.info.conditions == {"caption": (made_of.CAPTION,)}
    batch = found.train.all()
    chosen = limited([str(i) for i in range(TRAIN)], np.zeros(TRAIN, dtype=bool), 10)
    for i, one in enumerate(avatars_at(torch.from_numpy(chosen))):
        assert decode_text(batch["caption"][i]) == one.caption
        assert {name: values[i] for name, values in found.train.attributes.items()} == one.attributes
        assert ((batch["x"][i] + 1) * 127.5).round().byte().numpy().tobytes() == pictures([one], parts, 16).tobytes()


@pytest.mark.parametrize("wrong", [{"size": 8}, {"size": 65}, {"channels": 1}])
def test_refusals(wrong):
    with pytest.raises(UserError, match="in colour and whole, with a size of 16 to 64"):
        data.load("avatars", **wrong)


def test_places_have_the_colours_of_their_parts(parts):
    """Most pixels of a place show the colour of its part, to the rounding of colours (1) and shadows (10).

    Anti-aliased edges are mixtures, and shadows lie over some of the skin and clothes: the median is neither.
    """
    shown = avatars_at(torch.tensor([0, 7, 4_000, 4_399]))
    x, found = pictures(shown, parts, 64, progress=False), places(shown, parts, 64, progress=False)
    assert found.shape == (4, 64, 64)
    for one, picture, place in zip(shown, torch.from_numpy(x).double(), found):
        colours = {
            "background": GROUNDS[one.background],
            "skin": SKINS[one.skin],
            "hair": HAIR_COLOURS[one.hair_colour],
            "clothes": CLOTHES_COLOURS[one.clothes_colour],
        }
        for name, colour in colours.items():
            here = picture[:, place == PLACES.index(name)]
            assert here.shape[1] > 20
            away = (here - torch.tensor(ImageColor.getrgb(colour)).double()[:, None]).abs().amax(0)
            assert float(away.median()) <= 10, (name, one)
        assert 5 < int((place == PLACES.index("other")).sum()) < 1000
