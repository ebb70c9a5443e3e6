"""Formulas: markup that mathtext reads, pictures of it, and a split by what a formula is."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from langevin import UserError, data
from langevin.data import formulas as made_of
from langevin.data.dataset import limited
from langevin.data.entry import CATALOGUE
from langevin.data.formulas import NESTED, TEST, TRAIN, formulas_in_order, pictures, render
from langevin.nn.text import decode_text

MARKUP = "7c31065b8901b425fcd7dc857642336a127593821eeea3070edac29e440b9b96"


@pytest.fixture(scope="module")
def everything():
    return formulas_in_order()


def test_the_split_is_by_what_a_formula_is(everything):
    train, test = everything
    assert (len(train), len(test)) == (TRAIN, TEST)
    assert (CATALOGUE["formulas"].train, CATALOGUE["formulas"].test) == (TRAIN, TEST)
    markups = [one.markup for one in (*train, *test)]
    assert len(set(markups)) == len(markups)
    assert not [one for one in train if NESTED in one.markup]
    for part, nested in (("new", False), ("nested", True)):
        some = [one for one in test if one.part == part]
        assert len(some) == TEST // 2
        assert {NESTED in one.markup for one in some} == {nested}
    # What the nested ones are made of is trained on.
    assert any(r"\sqrt{" in one.markup for one in train)
    assert any(r"\frac{" in one.markup for one in train)
    assert max(len(markup) for markup in markups) < made_of.CAPTION
    assert all(markup.count("{") == markup.count("}") for markup in markups)
    # A model trained yesterday must not have seen today's test split.
    assert hashlib.sha256("\n".join(markups).encode()).hexdigest() == MARKUP


def test_every_kind_of_term_occurs(everything):
    joined = " ".join(one.markup for one in everything[0][:500])
    kinds = (*made_of.GREEK, *made_of.OPERATORS, *made_of.RELATIONS, *made_of.FUNCTIONS)
    assert [kind for kind in (*kinds, r"\sum_", r"\int_", "^{", "_{") if kind.strip() not in joined] == []


def test_a_picture_shows_what_its_markup_says():
    """A bar between a and b; what stands above and below it; ink in the middle, none at the border."""
    ink = 255 - render(r"\frac{a}{b}", 64)[0].astype(int)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert abs(rows[0] + rows[-1] - 63) <= 1
    assert abs(columns[0] + columns[-1] - 255) <= 1
    across = (ink > 60).sum(1)
    bar = int(across.argmax())
    assert across[bar] >= columns[-1] - columns[0] - 1
    assert rows[0] < bar - 4
    assert bar + 4 < rows[-1]
    swapped = 255 - render(r"\frac{b}{a}", 64)[0].astype(int)
    above = lambda drawn: int((drawn > 60).sum(1).argmax()) - np.flatnonzero(drawn.any(1))[0]
    assert above(swapped) > above(ink) + 3  # b is taller than a


def test_what_is_too_wide_is_made_smaller():
    wide = 255 - render("+".join("abcdefghijklmnopqrstuvwxyz"), 32)[0].astype(int)
    columns = np.flatnonzero(wide.any(0))
    assert columns[0] >= 1
    assert columns[-1] <= 126
    assert columns[-1] - columns[0] > 120
    assert np.flatnonzero(wide.any(1)).size < 8
    tall = 255 - render(r"\frac{\sum_{i=0}^{n}\frac{a}{b}}{\sum_{i=0}^{n}\frac{a}{b}}", 32)[0].astype(int)
    rows = np.flatnonzero(tall.any(1))
    assert 27 <= rows[-1] - rows[0] + 1 < 32


def test_each_is_read_and_drawn_as_itself(everything):
    some = [*everything[0][:40], *everything[1][:20]]
    x = pictures(some, 32)
    assert x.shape == (60, 1, 32, 128)
    assert len({picture.tobytes() for picture in x}) == 60
    assert (x[7:9] == pictures(some[7:9], 32)).all()
    dark = (255 - x.astype(float)).mean((1, 2, 3)) / 255
    assert (dark > 0.002).all()
    assert (dark < 0.25).all()


def test_data(everything):
    found = data.load("formulas", limit=12)
    assert found.info.shape == (1, 32, 128)
    assert found.info.conditions == {"caption": (made_of.CAPTION,)}
    for split, whole in zip((found.train, found.test), everything):
        batch = split.all()
        chosen = limited([one.markup for one in whole], np.zeros(len(whole), dtype=bool), 12)
        for i, one in enumerate(whole[k] for k in chosen):
            assert decode_text(batch["caption"][i]) == one.markup == split.attributes["markup"][i]
            assert split.attributes["part"][i] == one.part
            assert ((batch["x"][i] + 1) * 127.5).round().byte().numpy().tobytes() == render(one.markup, 32).tobytes()


@pytest.mark.parametrize("wrong", [{"size": 16}, {"size": 65}, {"channels": 3}, {"flip": True}])
def test_refusals(wrong):
    with pytest.raises(UserError, match=r"grey, whole and never mirrored, with a size \(their height\) of 32 to 64"):
        data.load("formulas", **wrong)


def test_markup_that_is_none():
    with pytest.raises(UserError, match=r"mathtext cannot read '\\\\frac\{a'"):
        render(r"\frac{a", 32)
    with pytest.raises(UserError, match="draws nothing"):
        render(r"\,", 32)
