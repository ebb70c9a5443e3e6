"""Formulas that models draw of held-out markup, beside real renderings: pixels, warped columns, symbols that are read.

    langevin train formulas --out runs/plain
    langevin train formulas --objective.name scheduled-sampling --out runs/rollout
    python benchmarks/formulas.py runs/plain runs/rollout [--count 200] [--steps 15] [--record]

Every model is given the same captions and the same noise. Columns:

* **RMSE** of the pixels, in [0, 1], and **DTW**, the dynamic time warping of the columns of both pictures (mean
  distance of two columns along the best path, of the first 50 pictures; after arXiv:2210.05147), which forgives what is
  drawn a little aside.
* **symbols**: the share that a reader reads as asked. It moves the picture as a whole to where it fits best (at most 4
  rows and 8 columns), knows where mathtext puts each symbol of the markup, and asks of every symbol of the data, and of
  none, how well it would explain the picture there, all others being as asked, a pixel aside allowed; the best one is
  read. It has learned nothing and knows no model, but a symbol that stands elsewhere than mathtext puts it is none.
  **edit** is the edit distance of the read to the asked symbols, over their number; **whole** the share of formulas
  without a mistake.
* **stray**: ink where the markup has none, over the ink of the markup.

The first two rows are the reader on the real renderings themselves, as they are, and three pixels aside under noise of
a tenth of the range, without which the others say nothing; the last is of renderings of other formulas: what a model
gets that ignores its caption. Places of symbols are asked of the parts of mathtext, as matplotlib 3.11 has them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro
from matplotlib import _mathtext
from matplotlib.backends.backend_agg import get_hinting_flag
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from PIL import Image
from rich.table import Table

import langevin
from langevin.data.formulas import EDGE, EM, FINER, WIDE, Formula, formulas_in_order
from langevin.generate import Recipe, generate
from record import show

MARGIN = 2
"""Pixels around a symbol that are looked at too."""

ASIDE = (4, 8)
"""How far a formula as a whole may lie from its place, in rows and columns of the picture."""

SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Places at which a symbol is looked for, in pixels from its own."""

INK = 0.1
"""Darkness, in [0, 1], beyond which a pixel holds ink."""

Name = tuple[str, int]
"""A symbol: its font and its number there."""


@dataclass(frozen=True)
class Symbol:
    """A symbol of a formula, its size, and where its origin lies in the ink that the picture is made of."""

    name: Name
    size: float
    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """A formula as mathtext lays it out, before it is made small.

    Args:
        symbols: in the order in which they are drawn.
        bars: of fractions and roots: rows and columns, as slices.
        top, left, tall, wide: the ink's.
        place: row and column of the picture at which the ink begins, and its height and width there.
    """

    symbols: tuple[Symbol, ...]
    bars: tuple[tuple[slice, slice], ...]
    top: int
    left: int
    tall: int
    wide: int
    place: tuple[int, int, int, int]


@functools.cache
def bitmap(name: Name, size: float) -> tuple[np.ndarray, int, float]:
    """A symbol's ink as the renderer has it, the column it begins at and its height over the origin."""
    face = FT2Font(name[0])
    face.set_size(size, 72)
    glyph = face.load_char(name[1], flags=get_hinting_flag())
    # Of the font of large symbols the origin is elsewhere: `_mathtext.BakomaFonts` says where.
    lift = glyph.height / 128 + size / 3 if face.postscript_name == "Cmex10" else 0.0
    side = int(4 * size) + 8
    canvas = np.zeros((side, 2 * side), np.uint8)
    face.draw_glyph_to_bitmap(canvas, side, 0, glyph, antialiased=True)
    rows, columns = (np.flatnonzero(canvas.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((0, 0), np.uint8), 0, 0.0
    return canvas[: rows[-1] + 1, columns[0] : columns[-1] + 1], int(columns[0]) - side, glyph.horiBearingY / 64 + lift


def onto(ink: np.ndarray, symbol: Symbol, top: int = 0, left: int = 0) -> None:
    """Draw a symbol onto ink whose first row and column are given, as far as it lies there."""
    drawn, begin, over = bitmap(symbol.name, symbol.size)
    y, x = int(symbol.y - over) - top, int(symbol.x) + begin - left
    under = ink[max(0, y) : max(0, y + drawn.shape[0]), max(0, x) : max(0, x + drawn.shape[1])]
    part = drawn[max(0, -y) :, max(0, -x) :][: under.shape[0], : under.shape[1]]
    np.maximum(under, part, out=under)


@functools.cache
def layout(markup: str, height: int) -> Layout:
    """How ``data.formulas.render`` makes a picture of a formula.

    Mathtext tells nobody where it puts the symbols of a picture, so its own parts are asked, as its ``parse`` does.
    """
    size = FINER * EM * height
    fonts = _mathtext.BakomaFonts(FontProperties(size=size, math_fontfamily="cm"), get_hinting_flag())
    box = _mathtext.Parser().parse(f"${markup}$", fonts, size, 72)
    rough = _mathtext.ship(box)
    left = min([0.0, *(x + info.metrics.xmin for x, _, info in rough.glyphs), *(x for x, *_ in rough.rects)])
    top = min([0.0, *(y - info.metrics.ymax for _, y, info in rough.glyphs), *(y for _, y, *_ in rough.rects)])
    out = _mathtext.ship(box, (1 - left, 1 - top))  # where it begins decides how places are rounded
    found = [Symbol((info.font.fname, int(info.num)), float(info.fontsize), ox, oy) for ox, oy, info in out.glyphs]
    found = [symbol for symbol in found if bitmap(symbol.name, symbol.size)[0].size]
    bars = []
    for x, y, wide, tall in out.rects:
        rows = max(int(tall) - 1, 0)
        first = int(y) if rows else int(y + tall / 2 - 0.5)
        bars.append((slice(first, first + rows + 1), slice(math.floor(x), math.ceil(x + wide) + 1)))
    ink = np.zeros((16 * height, 64 * height), np.uint8)
    for symbol in found:
        onto(ink, symbol)
    for bar in bars:
        ink[bar] = 255
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    first, begin, tall, wide = rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    least = 2 * EDGE * height
    scale = min(1 / FINER, (height - least) / tall, (WIDE * height - least) / wide)
    low, broad = (max(1, round(side * scale)) for side in (tall, wide))
    place = ((height - low) // 2, (WIDE * height - broad) // 2, low, broad)
    return Layout(tuple(found), tuple(bars), int(first), int(begin), int(tall), int(wide), place)


def window(found: Layout, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The whole pixels of ink (top, left, bottom, right) under a window of the picture, and where it lies in them."""
    y, x, low, broad = found.place
    down, across = found.tall / low, found.wide / broad
    edges = [found.top + (r - y) * down for r in rows] + [found.left + (c - x) * across for c in columns]
    top, bottom, left, right = edges
    whole = (math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right))
    return whole, (left - whole[1], top - whole[0], right - whole[1], bottom - whole[0])


def small(ink: np.ndarray, part: tuple[float, ...], rows: int, columns: int) -> np.ndarray:
    """Ink as pixels of the picture, darkness ``(rows, columns)`` in [0, 1]."""
    made = Image.fromarray(ink).resize((columns, rows), Image.Resampling.BOX, box=part)
    return np.asarray(made, np.float32) / 255


def inked(found: Layout, whole: tuple[int, ...], without: int | None = None) -> np.ndarray:
    """The ink of a formula on some of its pixels, without one of its symbols if that is asked."""
    top, left, bottom, right = whole
    ink = np.zeros((bottom - top, right - left), np.uint8)
    for i, symbol in enumerate(found.symbols):
        if i != without:
            onto(ink, symbol, top, left)
    for rows, columns in found.bars:
        clear = lambda s, begin, end: slice(max(0, s.start - begin), max(0, min(end, s.stop) - begin))
        ink[clear(rows, top, bottom), clear(columns, left, right)] = 255
    return ink


def drawn(markup: str, height: int) -> np.ndarray:
    """A formula by its layout, darkness ``(height, 4·height)``: what the reader expects of one without mistakes."""
    found = layout(markup, height)
    y, x, low, broad = found.place
    whole, part = window(found, (y, y + low), (x, x + broad))
    made = np.zeros((height, WIDE * height), np.float32)
    made[y : y + low, x : x + broad] = small(inked(found, whole), part, low, broad)
    return made


def extent(found: Layout, symbol: Symbol) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the pixels of the picture that a symbol touches."""
    drawn, begin, over = bitmap(symbol.name, symbol.size)
    y, x, low, broad = found.place
    top, left = int(symbol.y - over) - found.top, int(symbol.x) + begin - found.left
    down, across = low / found.tall, broad / found.wide
    first = (math.floor(y + top * down), math.floor(x + left * across))
    return *first, math.ceil(y + (top + drawn.shape[0]) * down), math.ceil(x + (left + drawn.shape[1]) * across)


def alphabet(held: Sequence[Formula], height: int) -> list[Name]:
    """The symbols of some formulas, each once."""
    return sorted({symbol.name for one in held for symbol in layout(one.markup, height).symbols})


def read(picture: np.ndarray, markup: str, known: Sequence[Name]) -> list[Name | None]:
    """What stands in the place of each symbol of the markup: one of ``known``, or None for nothing.

    Args:
        picture: darkness ``(H, W)`` in [0, 1].
        markup: what was asked.
        known: every symbol that may be read.
    """
    height, width = picture.shape
    layed = layout(markup, height)
    answers: list[Name | None] = []
    for i, symbol in enumerate(layed.symbols):
        top, left, bottom, right = extent(layed, symbol)
        rows = (max(1, top - MARGIN), min(height - 1, bottom + MARGIN))
        columns = (max(1, left - MARGIN), min(width - 1, right + MARGIN))
        whole, part = window(layed, rows, columns)
        rest = inked(layed, whole, i)
        ways: list[Name | None] = [None, *known]
        expected = []
        for way in ways:
            ink = rest.copy()
            if way is not None:
                onto(ink, Symbol(way, symbol.size, symbol.x, symbol.y), whole[0], whole[1])
            expected.append(small(ink, part, rows[1] - rows[0], columns[1] - columns[0]))
        seen = np.stack([picture[rows[0] + y : rows[1] + y, columns[0] + x : columns[1] + x] for y, x in SHIFTS])
        errors = np.square(seen[:, None] - np.stack(expected)[None]).sum((2, 3)).min(0)
        answers.append(ways[int(errors.argmin())])
    return answers


def centred(picture: np.ndarray, real: np.ndarray) -> np.ndarray:
    """A picture moved as a whole, by at most ``ASIDE``, to where it is most like the rendering of its markup."""
    rows, columns = picture.shape
    down, across = ASIDE
    wide = np.pad(picture, ((down, down), (across, across)))
    best = max(
        ((y, x) for y in range(2 * down + 1) for x in range(2 * across + 1)),
        key=lambda p: (float((wide[p[0] : p[0] + rows, p[1] : p[1] + columns] * real).sum()), -abs(p[0] - down)),
    )
    return wide[best[0] : best[0] + rows, best[1] : best[1] + columns]


def edits(a: Sequence[object], b: Sequence[object]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def warped(a: np.ndarray, b: np.ndarray) -> float:
    """The mean distance (root mean square of pixels) of two columns along the best alignment of two pictures."""
    apart = np.sqrt(np.square(a.T[:, None] - b.T[None]).mean(2))
    n, m = apart.shape
    total, steps = np.full((n + 1, m + 1), np.inf), np.zeros((n + 1, m + 1))
    total[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            ways = ((total[i - 1, j - 1], i - 1, j - 1), (total[i - 1, j], i - 1, j), (total[i, j - 1], i, j - 1))
            cost, p, q = min(ways)
            total[i, j], steps[i, j] = cost + apart[i - 1, j - 1], steps[p, q] + 1
    return float(total[n, m] / steps[n, m])


def measured(shown: np.ndarray, real: np.ndarray, held: Sequence[Formula], known: Sequence[Name]) -> dict[str, float]:
    """All columns for pictures, darkness ``(N, H, W)`` in [0, 1], beside the renderings of their markup."""
    right = asked = wrong = whole = 0
    stray = ink = 0.0
    for picture, truth, one in zip(shown, real, held):
        names = [symbol.name for symbol in layout(one.markup, len(picture)).symbols]
        found = read(centred(picture, truth), one.markup, known)
        right += sum(a == b for a, b in zip(found, names))
        asked += len(names)
        mistakes = edits([name for name in found if name is not None], names)
        wrong += mistakes
        whole += mistakes == 0
        near = np.pad(truth, 1)
        near = np.max([near[i : i + len(truth), j : j + truth.shape[1]] for i in range(3) for j in range(3)], axis=0)
        stray += float(np.where((near < INK) & (picture > INK), picture, 0).sum())
        ink += float(truth.sum())
    return {
        "RMSE": float(np.sqrt(np.square(shown - real).mean((1, 2))).mean()),
        "DTW": float(np.mean([warped(a, b) for a, b in zip(shown[:50], real[:50])])),
        "symbols": right / asked,
        "edit": wrong / asked,
        "whole": whole / len(held),
        "stray": stray / ink,
    }


def darkness(x: torch.Tensor) -> np.ndarray:
    """Pictures ``(N, 1, H, W)`` in [-1, 1], black on white, as darkness ``(N, H, W)`` in [0, 1]."""
    return ((1 - x[:, 0].float().clamp(-1, 1)) / 2).numpy()


def main(
    models: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    count: int = 200,
    steps: int = 15,
    guidance_scale: float = 1.0,
    part: str = "",
    seed: int = 0,
    record: bool = False,
) -> None:
    """Print the table.

    Args:
        models: directories of runs on formulas.
        count: held-out formulas.
        steps: of the default sampler.
        guidance_scale: of classifier-free guidance.
        part: ``new`` or ``nested`` alone; both if not given.
        seed: of the noise.
        record: write the record of the table.
    """
    loaded = {name: langevin.load(name) for name in models}
    height = next((model.output_shape[1] for model in loaded.values()), 32)
    data = langevin.data.load("formulas", size=height)
    held = formulas_in_order()[1]
    rows = [i for i, one in enumerate(held) if part in ("", one.part)][:count]
    batch, shown = data.test.batch(torch.tensor(rows)), [held[i] for i in rows]
    real = darkness(batch["x"])
    known = alphabet(shown, height)
    noise = np.random.default_rng(0).normal(0, 0.1, real.shape).astype(np.float32)
    found = {
        "real renderings": measured(real, real, shown, known),
        "the same, moved and noisy": measured((np.roll(real, 3, 2) + noise).clip(0, 1), real, shown, known),
    }
    for name, model in loaded.items():
        recipe = Recipe(steps=steps, seed=seed, guidance_scale=guidance_scale)
        made = generate(model, recipe, len(rows), given={"caption": batch["caption"]})
        found[f"{name} ({made.evaluations} evaluations)"] = measured(darkness(made.x), real, shown, known)
    found["renderings of other formulas"] = measured(np.roll(real, 1, 0), real, shown, known)
    table = Table("pictures", *next(iter(found.values())))
    for name, row in found.items():
        shares = ("symbols", "whole")
        table.add_row(name, *(f"{100 * v:.1f} %" if key in shares else f"{v:.3f}" for key, v in row.items()))
    symbols = sum(len(layout(one.markup, height).symbols) for one in shown)
    print(f"{len(shown)} held-out formulas {part} of {symbols} symbols, {len(known)} different ones")
    show("formulas" + f"-{part}" * bool(part), table)


if __name__ == "__main__":
    tyro.cli(main)
