"""Emoji: drawings belong to their names, and what is held out by name or by style is never trained on."""

from __future__ import annotations

import colorsys
import sys

import numpy as np
import pytest
import torch

from langevin import UserError, data
from langevin.data import emoji, packages, svg
from langevin.data.dataset import limited
from langevin.data.entry import CATALOGUE, packages_of
from langevin.nn.text import decode_text

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#c81e28" d="M0 0h4v8H0z"/></svg>'


@pytest.fixture(scope="module")
def drawn():
    """All drawings; the packages are fetched into the user's cache, or the test is skipped where they cannot be."""
    try:
        for package in packages_of("emoji"):
            package.fetch()
    except UserError as error:
        pytest.skip(f"emoji cannot be fetched here: {error}")
    return emoji.emojis()


@pytest.mark.parametrize(
    "words",
    [
        *("a red apple", "an open book", "an hourglass done", "a unicorn", "a cactus", "a compass", "a tennis"),
        *("scissors", "clinking glasses", "eyes", "women with bunny ears", "people hugging", "houses"),
        *("a man in tuxedo, dark skin tone", "a sheaf of rice", "a cat with tears of joy", "a flag: Malta"),
        *("a pair of chopsticks", "an otter", "a ewe", "a one-piece swimsuit"),
    ],
)
def test_an_article_where_the_noun_is_not_a_plural(words):
    first, _, rest = words.partition(" ")
    assert emoji.with_article(rest if first in ("a", "an") else words) == words


def test_the_parts_of_names_and_styles():
    """A name is held out in all styles or in at most one; a name drawn in one style alone is never held out for it."""
    styles = ["fluent", "noto", "openmoji"]
    parts = [[emoji.part_of(str(k), style, styles) for style in styles] for k in range(6000)]
    by_name = [row for row in parts if "name" in row]
    assert all(row == ["name"] * 3 for row in by_name)
    # Binomial shares, within five standard deviations.
    assert abs(len(by_name) - 500) < 5 * (6000 * (1 / 12) * (11 / 12)) ** 0.5
    by_pair = [row for row in parts if "pair" in row]
    assert all(sorted(row) == ["pair", "train", "train"] for row in by_pair)
    assert abs(len(by_pair) - 5500 / 4) < 5 * (5500 * (1 / 4) * (3 / 4)) ** 0.5 + 5 * 21 / 4
    for k in range(3):
        assert sum(row[k] == "pair" for row in by_pair) > len(by_pair) / 4
    assert "pair" not in {emoji.part_of(str(k), "noto", ["noto"]) for k in range(200)}


def test_the_table_and_sets_of_drawings_are_read():
    content = (
        "hexcode,group,annotation,skintone,skintone_base_hexcode\n"
        "1F44B-1F3FB,people-body,waving hand: light skin tone,1,1F44B\n"
        '1F91D-1F3FB-1F3FD,people-body,handshake,"1,3",1F91D\n'
        "1F3FB,component,light skin tone,,\n"
        "2764-FE0F,smileys-emotion,red heart,,\n"
    )
    assert list(emoji.table(content.encode())) == ["1f44b-1f3fb", "2764"]
    icons = {"width": 32, "height": 32, "icons": {"a": {"body": "<g/>"}, "b": {"body": "<path/>", "width": 40}}}
    found = emoji.iconify(icons, {"2764-fe0f": "a", "1f600": "b", "1f601": "gone"})
    assert set(found) == {"2764", "1f600"}
    assert 'viewBox="0 0 32 32"><g/>' in found["2764"]
    assert 'viewBox="0 0 40 32"' in found["1f600"]


def test_a_drawing_as_pixels():
    pytest.importorskip("resvg_py")
    x = svg.render(SQUARE, 16)
    assert x.shape == (3, 16, 16)
    assert (x[:, :, :8] == np.array([0xC8, 0x1E, 0x28])[:, None, None]).all()
    assert (x[:, :, 8:] == 255).all()
    with pytest.raises(UserError, match="a drawing cannot be rendered"):
        svg.render("no drawing", 16)


def test_without_the_package_that_draws(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r'need the package resvg-py: pip install "langevin\[emoji\]"'):
        data.load("emoji")


@pytest.mark.parametrize("wrong", [{"size": 8}, {"size": 65}, {"channels": 1}, {"flip": True}])
def test_refusals(wrong):
    with pytest.raises(UserError, match="in colour, whole and never mirrored, with a size of 16 to 64"):
        data.load("emoji", **wrong)


def test_before_it_is_fetched(tmp_path, monkeypatch):
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="has not been fetched; `langevin data get emoji` does so once"):
        data.load("emoji")


def test_what_is_held_out_is_never_trained_on(drawn):
    entry = CATALOGUE["emoji"]
    train = [one for one in drawn if one.part == "train"]
    assert (len(train), len(drawn) - len(train)) == (entry.train, entry.test)
    assert {one.style for one in drawn} == {*emoji.ICONIFY, emoji.OPENMOJI}
    seen = {(one.base, one.style) for one in train}
    names = {base for base, _ in seen}
    for one in drawn:
        if one.part == "name":
            assert one.base not in names
        if one.part == "pair":
            assert (one.base, one.style) not in seen
            assert one.base in names
    assert not {one.caption for one in train} & {one.caption for one in drawn if one.part != "train"}
    assert len({(one.code, one.style) for one in drawn}) == len(drawn)
    assert max(len(one.caption.encode()) for one in drawn) < emoji.CAPTION
    assert "a red apple, openmoji style" in {one.caption for one in drawn}


def test_drawings_belong_to_their_names(drawn):
    """In each style the hues of the red, orange, yellow, green, blue and purple circles are in that order."""
    pytest.importorskip("resvg_py")
    order = ["red", "orange", "yellow", "green", "blue", "purple"]
    for style in (*emoji.ICONIFY, emoji.OPENMOJI):
        named = {one.name: one for one in drawn if one.style == style}
        middle = lambda name, named=named: svg.render(named[name].drawing, 32)[:, 12:20, 12:20].mean((1, 2)) / 255
        hues = [(colorsys.rgb_to_hsv(*middle(f"{colour} circle"))[0] + 0.1) % 1 for colour in order]
        assert hues == sorted(hues), (style, hues)
        assert hues[0] < 0.15
        assert middle("black circle").max() < 0.35 < 0.75 < middle("white circle").min()


def test_data(drawn):
    pytest.importorskip("resvg_py")
    found = data.load("emoji", size=16, limit=40)
    assert (len(found.train), len(found.test)) == (40, 40)
    assert found.info.shape == (3, 16, 16)
    assert found.info.conditions == {"caption": (emoji.CAPTION,)}
    assert set(found.test.attributes["part"]) == {"name", "pair"}
    batch = found.train.all()
    test = np.array([one.part != "train" for one in drawn])
    chosen = limited([f"{one.style}/{one.code}" for one in drawn], test, 40)
    for i, one in enumerate(drawn[k] for k in chosen if not test[k]):
        assert decode_text(batch["caption"][i]) == one.caption
        assert {name: values[i] for name, values in found.train.attributes.items()} == one.attributes
        assert ((batch["x"][i] + 1) * 127.5).round().byte().numpy().tobytes() == svg.render(one.drawing, 16).tobytes()


@pytest.mark.slow
def test_all_of_it(drawn, tmp_path, monkeypatch):
    """The set as it was made is the one that comes from the cache."""
    pytest.importorskip("resvg_py")
    there = [package.path for package in packages_of("emoji")]
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    (tmp_path / "packages").mkdir()
    for path in there:
        (tmp_path / "packages" / path.name).symlink_to(path)
    first, again = data.load("emoji", size=16), data.load("emoji", size=16)
    assert torch.equal(first.train.all()["x"], again.train.all()["x"])
    assert first.info == again.info
    assert len(list((tmp_path / "made").iterdir())) == 1
    assert packages.cache() == tmp_path
