"""Operators as they are written on a command line."""

from __future__ import annotations

import math

import pytest
import torch
from operator_table import f64

from langevin import UserError
from langevin import operators as O

MASK = torch.tensor([1.0, 0.0]).repeat(8)
CASES = {
    "inpaint": O.Inpaint,
    "box": O.Inpaint,
    "box=0.3": O.Inpaint,
    "random=0.1": O.Inpaint,
    "strokes": O.Inpaint,
    "uncrop=0.5": O.Uncrop,
    "super-resolution=4": O.SuperResolution,
    "super-resolution = 1.6": O.SuperResolution,
    "super-resolution=5": O.SuperResolution,
    "bicubic=2.3": O.SuperResolution,
    "bicubic=2": O.SuperResolution,
    "blur=2.0": O.Blur,
    "motion-blur=9": O.Blur,
    "colourise": O.Colourise,
    "jpeg=20": O.JPEG,
    "compressed-sensing": O.Matrix,
    "fourier": O.Fourier,
    "fourier=4": O.Fourier,
    "coils=3": O.Fourier,
    "radon=30": O.Radon,
    "radon=30:120": O.Radon,
    "phase": O.Phase,
    "saturate=3": O.Saturate,
}


def shape_for(text: str) -> tuple[int, int, int]:
    return (3, 16, 16) if text.startswith(("colourise", "jpeg", "box")) else (1, 16, 16)


@pytest.mark.parametrize("text", CASES)
def test_made_by_name(text):
    shape = shape_for(text)
    op = O.create_operator(text, shape, mask=MASK if text == "inpaint" else None)
    assert type(op) is CASES[text]
    x = f64(2, *shape)
    assert tuple(op(x).shape[1:]) == op.measured(shape)


def test_every_name_is_tried_and_helps():
    assert {text.partition("=")[0].strip() for text in CASES} == set(O.NAMED)
    for row in O.NAMED.values():
        assert 10 < len(row.help) < 90
        assert "\n" not in row.help


def test_they_are_what_they_say():
    x = f64(1, 1, 16, 16)
    same = lambda text, op, **given: torch.equal(O.create_operator(text, (1, 16, 16), **given)(x), op(x))
    assert same("super-resolution=4", O.SuperResolution(4))
    assert same("bicubic=4", O.SuperResolution(4, "bicubic"))
    assert same("blur=2", O.gaussian_blur(2.0, "reflect"))
    assert same("random=0.2", O.Inpaint(O.random_mask((16, 16), 0.2, 5)), seed=5)
    assert same("strokes=0.2", O.Inpaint(O.free_form_mask((16, 16), 0.2, 5)), seed=5)
    assert same("inpaint", O.Inpaint(MASK), mask=MASK)
    assert same("fourier=2", O.Fourier(O.cartesian_mask(16, 2, seed=1)), seed=1)
    assert same("fourier", O.Fourier(MASK), mask=MASK)
    assert same("compressed-sensing=0.5", O.compressed_sensing((1, 16, 16), 128, 3), seed=3)
    assert same("radon=7", O.Radon(7))
    assert same("radon=4:120", O.Radon([0.0, 30.0, 60.0, 90.0]))
    assert same("radon = 7 : 180", O.Radon(7))
    assert O.create_operator("fourier=2", (2, 16, 16)).channels == 2
    assert O.create_operator("coils", (2, 16, 16)).coils.shape == (8, 16, 16)


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("blurr=2", {}, "unknown operator 'blurr'. Did you mean 'blur'"),
        ("", {}, "unknown operator ''"),
        (None, {}, "operator must be text"),
        ("blur", {}, "operator blur needs a number"),
        ("blur=", {}, "operator blur takes a number, got ''"),
        ("blur=wide", {}, "operator blur takes a number, got 'wide'"),
        ("blur=nan", {}, "operator blur takes a number"),
        ("jpeg=20.5", {}, "operator jpeg takes an integer"),
        ("jpeg=200", {}, "quality must be"),
        ("colourise=2", {}, "operator colourise takes no number"),
        ("colourise", {}, "x must be images"),
        ("inpaint", {}, "mask must be given for inpaint"),
        ("inpaint", {"mask": torch.ones(3, 3)}, "mask must have the shape of the data"),
        ("blur=2", {"mask": MASK}, "mask is for inpaint"),
        ("super-resolution=0.5", {}, "factor must be >= 1"),
        ("super-resolution=32", {}, "factor must be at most"),
        ("radon=0", {}, "angles must be"),
        ("radon=0:90", {}, "operator radon=0:90: views must be an integer of at least 1, got 0"),
        ("radon=4:0", {}, r"degrees must lie in \(0, 180\], half a turn being the whole, got 0"),
        ("radon=4:181", {}, r"degrees must lie in \(0, 180\], half a turn being the whole, got 181"),
        ("radon=4:", {}, "operator radon takes a number after the colon, got ''"),
        ("radon=4:wide", {}, "operator radon takes a number after the colon, got 'wide'"),
        ("radon=4.5:90", {}, "operator radon takes an integer, got '4.5'"),
        ("radon=:90", {}, "operator radon takes an integer, got ''"),
        ("blur=2:3", {}, "operator blur takes one number, got 'blur=2:3'"),
        ("uncrop=1", {}, "box must be between"),
        ("fourier=0.5", {}, "acceleration must be"),
    ],
)
def test_refused(text, given, message):
    with pytest.raises(UserError, match=message):
        O.create_operator(text, (1, 16, 16), **given)


def test_data_that_are_no_images():
    for text in ("super-resolution=2", "blur=1", "radon=3", "fourier", "box", "jpeg=20", "phase"):
        with pytest.raises(UserError, match=r"(x|shape) must be"):
            O.create_operator(text, (64,))
    assert O.create_operator("saturate", (64,)).measured((64,)) == (64,)
    assert not any(math.isnan(row.default or 0) and row.whole for row in O.NAMED.values())
