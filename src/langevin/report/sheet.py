"""Pictures with a text under each, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .._errors import UserError
from ..training import image

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CELL = 128
"""Pixels that a picture is enlarged to at least, by a whole factor."""

GAP = 8
"""Pixels between pictures."""

LETTERS, LINE = 12, 15
"""Height of the letters and of a line of text, in pixels."""

LINES = 8
"""Lines under a picture at most; what is left of a longer text is cut off."""


def sheet(x: Tensor, texts: Sequence[str], columns: int = 0, *, low: float = -1.0, high: float = 1.0) -> Image.Image:
    """Pictures in rows, each enlarged by a whole factor, with its text in lines under it.

    Args:
        x: ``(N, C, H, W)``.
        texts: one each.
        columns: pictures in a row; about √N if 0.
        low, high: the values shown black and white.

    Raises:
        UserError: for another number of texts than of pictures.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    if x.ndim != 4 or not len(x) or len(texts) != len(x):
        raise UserError(
            f"x must be pictures (N, C, H, W) with a text each, got {tuple(x.shape)} and {len(texts)} texts"
        )
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), LETTERS)
    columns = columns or math.ceil(math.sqrt(len(x)))
    # A wide picture is enlarged until its shorter side is half of that.
    scale = max(1, math.ceil(CELL / max(x.shape[2:])), math.ceil(CELL / 2 / min(x.shape[2:])))
    height, width = (side * scale for side in x.shape[2:])
    wide = max(width, CELL)
    lines = [wrapped(text, font, wide) for text in texts]
    rows = [lines[i : i + columns] for i in range(0, len(lines), columns)]
    tops = [GAP]
    for row in rows:
        tops.append(tops[-1] + height + LINE * max(map(len, row)) + 2 * GAP)
    made = Image.new("RGB", (columns * (wide + GAP) + GAP, tops[-1]), "white")
    draw = ImageDraw.Draw(made)
    for i, text in enumerate(lines):
        left, top = GAP + i % columns * (wide + GAP), tops[i // columns]
        picture = image(x[i], low=low, high=high).resize((width, height), Image.Resampling.NEAREST)
        made.paste(picture, (left + (wide - width) // 2, top))
        for k, line in enumerate(text):
            draw.text((left, top + height + 3 + k * LINE), line, fill="black", font=font)
    return made


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A text in at most ``LINES`` lines that are no wider than so many pixels, broken at spaces where there are any."""
    text = "".join(c if c.isprintable() else " " for c in text)
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines += [""] if lines[-1] else []
        for letter in word:  # a word that is wider than the line is broken anywhere
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > LINES:
        last = lines[LINES - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        lines = [*lines[: LINES - 1], f"{last}…"]
    return lines
