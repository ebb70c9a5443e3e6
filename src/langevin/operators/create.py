"""Operators by name, as they are written on a command line: ``super-resolution=4``, ``blur=2``, ``jpeg=20``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .._errors import UserError, nearest, shown
from .base import Operator, Shape
from .blur import gaussian_blur, motion_blur
from .colourise import Colourise
from .fourier import Fourier, cartesian_mask, coil_maps
from .images import image_shape
from .inpaint import Inpaint
from .jpeg import JPEG
from .masks import Uncrop, box_mask, free_form_mask, random_mask
from .matrix import compressed_sensing
from .nonlinear import Phase, Saturate
from .radon import Radon, limited_angle
from .super_resolution import SuperResolution


@dataclass(frozen=True)
class Named:
    """An operator that a name stands for.

    Args:
        make: of the number, the shape of the data, the mask and the seed.
        help: one line.
        default: the number if none is written; None where one must be, NaN where the name takes none.
        whole: whether it must be an integer.
        second: of the number and a second one that may follow it after a colon; None where there is none.
    """

    make: Callable[[float, Shape, Tensor | None, int], Operator]
    help: str
    default: float | None = None
    whole: bool = False
    second: Callable[[float, float], Operator] | None = None


def _inpaint(value: float, shape: Shape, mask: Tensor | None, seed: int) -> Operator:
    if mask is None:
        raise UserError("mask must be given for inpaint (1 where a pixel is known); box, random and strokes make one")
    return Inpaint(mask)


def _fourier(value: float, shape: Shape, mask: Tensor | None, seed: int) -> Operator:
    channels, _, width = image_shape(shape)
    return Fourier(cartesian_mask(width, value, seed=seed) if mask is None else mask, channels=min(channels, 2))


def _coils(value: float, shape: Shape, mask: Tensor | None, seed: int) -> Operator:
    channels, _, width = image_shape(shape)
    lines = cartesian_mask(width, 4, seed=seed) if mask is None else mask
    return Fourier(lines, coil_maps(int(value), shape), min(channels, 2))


NAMED = {
    "inpaint": Named(_inpaint, "the pixels of a mask that is given are known", math.nan),
    "box": Named(lambda v, s, m, r: Inpaint(box_mask(s, v)), "a box of this share of the sides is hidden", 0.5),
    "random": Named(lambda v, s, m, r: Inpaint(random_mask(s, v, r)), "this share of pixels is known", 0.3),
    "strokes": Named(lambda v, s, m, r: Inpaint(free_form_mask(s, v, r)), "a brush hides this share of pixels", 0.25),
    "uncrop": Named(lambda v, s, m, r: Uncrop(s, v), "a box of this share of the sides is known", 0.5),
    "super-resolution": Named(
        lambda v, s, m, r: SuperResolution(v, size=image_shape(s)[1:]), "smaller by any factor, means of areas"
    ),
    "bicubic": Named(
        lambda v, s, m, r: SuperResolution(v, "bicubic", size=image_shape(s)[1:]), "smaller by any factor, bicubic"
    ),
    "blur": Named(lambda v, s, m, r: gaussian_blur(v, "reflect"), "a Gaussian of this standard deviation in pixels"),
    "motion-blur": Named(lambda v, s, m, r: motion_blur(v, 45.0), "a motion of this many pixels, at 45 degrees"),
    "colourise": Named(lambda v, s, m, r: Colourise(), "the grey of a picture in colour", math.nan),
    "jpeg": Named(lambda v, s, m, r: JPEG(int(v)), "JPEG of this quality, 1 to 100", None, True),
    "compressed-sensing": Named(
        lambda v, s, m, r: compressed_sensing(s, max(1, round(v * math.prod(s))), r),
        "random projections, this share of the numbers of the data",
        0.25,
    ),
    "fourier": Named(_fourier, "MRI: one in this many lines of the Fourier transform, or a mask that is given", 4.0),
    "coils": Named(_coils, "MRI with this many coils, one in 4 lines or a mask that is given", 8.0, True),
    "radon": Named(
        lambda v, s, m, r: Radon(int(v)),
        "CT: this many views, evenly spaced over 180 degrees; VIEWS:DEGREES over so many",
        None,
        True,
        lambda views, degrees: limited_angle(int(views), degrees),
    ),
    "phase": Named(lambda v, s, m, r: Phase(v), "amplitudes of the Fourier transform, oversampled so often", 2.0),
    "saturate": Named(lambda v, s, m, r: Saturate(v), "multiplied by a gain and cut off at -1 and 1", 2.0),
}
"""What :func:`create_operator` makes, by name."""


def number_of(text: str) -> float | None:
    """A finite number as it is written; None for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def create_operator(text: str, shape: Shape, *, mask: Tensor | None = None, seed: int = 0) -> Operator:
    """The operator that a text stands for, on data of a shape.

    Args:
        text: a name of ``NAMED``, with a number where it takes one: ``jpeg=20``; of ``radon`` with a second one,
            ``radon=30:120``.
        shape: of the data, ``(C, H, W)``.
        mask: for ``inpaint``, and for ``fourier`` and ``coils`` in place of theirs.
        seed: of what is random in the operator.

    Raises:
        UserError: for an unknown name, a number that is missing, is not taken or does not fit, and data that are not
            measured by it.
    """
    if not isinstance(text, str):
        raise UserError(f"operator must be text such as super-resolution=4, got {shown(text)}")
    name, equals, number = (part.strip() for part in text.partition("="))
    if name not in NAMED:
        raise UserError(f"unknown operator {name!r}.{nearest(name, NAMED)} Known: {', '.join(NAMED)}.")
    row = NAMED[name]
    value, extra = row.default, None
    if equals:
        if value is not None and math.isnan(value):
            raise UserError(f"operator {name} takes no number, got {text!r}")
        number, colon, last = number.partition(":")
        value = number_of(number)
        if value is None or (row.whole and value != int(value)):
            raise UserError(f"operator {name} takes {'an integer' if row.whole else 'a number'}, got {number!r}")
        if colon and row.second is None:
            raise UserError(f"operator {name} takes one number, got {text!r}")
        extra = number_of(last)
        if colon and extra is None:
            raise UserError(f"operator {name} takes a number after the colon, got {last!r}")
    if value is None:
        raise UserError(f"operator {name} needs a number ({row.help}), such as {name}=4")
    if mask is not None and name not in ("inpaint", "fourier", "coils"):
        raise UserError(f"mask is for inpaint, fourier and coils; operator {name} takes none")
    try:
        if row.second is not None and extra is not None:
            made = row.second(value, extra)
        else:
            made = row.make(value, tuple(shape), mask, seed)
        made.measured(tuple(shape))
    except UserError as error:
        raise UserError(f"operator {text.strip()}: {error}") from None
    return made
