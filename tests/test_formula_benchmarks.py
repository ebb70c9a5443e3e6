"""The reader of formulas: it knows how pictures are made, and reads what stands in them, not what was asked."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from langevin.data.formulas import formulas_in_order, render

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytest.importorskip("matplotlib", "3.11", reason="the reader asks the parts of mathtext of 3.11")
formulas = importlib.import_module("formulas")

HELD = formulas_in_order()[1]
KNOWN = formulas.alphabet(HELD[:100], 32)


def real(markup: str, height: int = 32) -> np.ndarray:
    return 1 - render(markup, height)[0].astype(np.float32) / 255


def names(markup: str) -> list[tuple[str, int]]:
    return [symbol.name for symbol in formulas.layout(markup, 32).symbols]


@pytest.mark.parametrize("height", [32, 64])
def test_the_layout_is_that_of_the_pictures(height: int) -> None:
    """A formula put together of its symbols is the picture of the data, up to the rounding of float32."""
    for one in HELD[: 40 if height == 32 else 15]:
        drawn, truth = formulas.drawn(one.markup, height), real(one.markup, height)
        np.testing.assert_allclose(drawn, truth, rtol=0, atol=1e-6, err_msg=one.markup)


def test_real_pictures_are_read_right() -> None:
    """Moved as a whole and under noise too, for nine symbols of ten at least."""
    clean = noisy = count = 0
    noise = np.random.default_rng(0)
    for one in HELD[:12]:
        truth, asked = real(one.markup), names(one.markup)
        moved = np.roll(truth, (1, 3), (0, 1)) + noise.normal(0, 0.1, truth.shape).astype(np.float32)
        clean += sum(a == b for a, b in zip(formulas.read(truth, one.markup, KNOWN), asked))
        read = formulas.read(formulas.centred(moved, truth), one.markup, KNOWN)
        noisy += sum(a == b for a, b in zip(read, asked))
        count += len(asked)
    assert count > 100
    assert clean >= 0.98 * count
    assert noisy >= 0.9 * count


def test_it_reads_what_stands_there() -> None:
    """Another symbol in one place is read as that one, nothing as nothing, and all the rest as asked."""
    asked, shown = r"a+\frac{b}{x}", r"a+\frac{b}{u}"
    read = formulas.read(real(shown), asked, KNOWN)
    assert read == names(shown)
    assert read != names(asked)
    blank = np.zeros((32, 128), np.float32)
    assert formulas.read(blank, asked, KNOWN) == [None] * len(names(asked))
    half = real(asked)
    half[:, 64:] = 0  # what is left of it: a + and a part of the fraction
    read = formulas.read(half, asked, KNOWN)
    assert read[0] == names(asked)[0]
    assert read[-1] is None or read[-1] != names(asked)[-1]


def test_the_measures() -> None:
    """Of the pictures themselves all are at their best; of others the reader finds next to nothing."""
    shown = HELD[:6]
    truth = np.stack([real(one.markup) for one in shown])
    best = formulas.measured(truth, truth, shown, KNOWN)
    assert best == {"RMSE": 0, "DTW": 0, "symbols": 1, "edit": 0, "whole": 1, "stray": 0}
    other = formulas.measured(np.roll(truth, 1, 0), truth, shown, KNOWN)
    assert other["symbols"] < 0.1
    assert other["edit"] > 0.8
    assert other["whole"] == 0
    assert other["stray"] > 0.2
    # One ink pixel where the markup has none, of darkness 1, over all the ink.
    stray = truth.copy()
    stray[0, 0, 0] = 1
    assert formulas.measured(stray, truth, shown, KNOWN)["stray"] == pytest.approx(1 / float(truth.sum()), rel=1e-5)


def test_distances() -> None:
    for a, b, count in (("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abcd", "acd", 1)):
        assert formulas.edits(a, b) == formulas.edits(b, a) == count
    ramp = np.tile(np.arange(8, dtype=np.float32) / 8, (4, 1))
    assert formulas.warped(ramp, ramp) == 0
    # Columns that stand twice are no distance; a constant one is the distance itself.
    assert formulas.warped(ramp, np.repeat(ramp, 2, 1)) == 0
    assert formulas.warped(ramp, ramp + 0.25) < 0.25
    flat = np.zeros((4, 8), np.float32)
    assert formulas.warped(flat, flat + 0.25) == pytest.approx(0.25)
    picture = np.zeros((8, 20), np.float32)
    picture[3:5, 6:9] = 1
    moved = np.roll(picture, (-1, 5), (0, 1))
    np.testing.assert_array_equal(formulas.centred(moved, picture), picture)
