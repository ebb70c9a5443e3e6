"""Drawings in SVG as pixels, by the package resvg-py."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .._errors import UserError
from ..storage.untrusted import reason

FINER = 2
"""A drawing is rendered so many times as large, and each pixel is the mean of what it then holds."""


def renderer() -> Any:
    """The module resvg_py.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise UserError('drawings need the package resvg-py: pip install "langevin[emoji]"') from None
    return resvg_py


def render(drawing: str, side: int, ground: str = "white") -> np.ndarray:
    """A square drawing on a colour, uint8 ``(3, side, side)``.

    Fonts of the machine are not used, so that the pixels are the same everywhere.

    Raises:
        UserError: without resvg-py, or for what is no SVG.
    """
    from PIL import Image

    sides = {"width": FINER * side, "height": FINER * side}
    try:
        content = renderer().svg_to_bytes(svg_string=drawing, background=ground, skip_system_fonts=True, **sides)
    except ValueError as error:
        raise UserError(f"a drawing cannot be rendered: {reason(error)}") from None
    with Image.open(io.BytesIO(bytes(content))) as image:
        small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).transpose(2, 0, 1)
