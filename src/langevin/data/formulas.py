"""Formulas with their markup: black on white, by matplotlib's mathtext."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .._errors import UserError
from .._registry import register
from . import _hash
from .dataset import Dataset, Options
from .entry import Entry
from .made import chosen, code_of, drawn_set, side_of, stacked

TRAIN, TEST = 5_000, 500
SEED = 0

WIDE = 4
"""Width of a picture, in heights."""

EM = 0.36
"""Height of the font (1 em) as a share of the picture's height, for a formula that fits."""

EDGE = 0.04
"""The share of the picture's height that stays empty around a formula."""

FINER = 4
"""A formula is drawn with so many times as many pixels, and each pixel is the mean of what it then holds."""

CAPTION = 96
"""Tokens of a caption: markup of 95 bytes, and its end."""

HELD_OUT = 20
"""Of formulas without a fraction under a root, one in so many is held out."""

NESTED = r"\sqrt{\frac"
"""What is never trained on: a root of a fraction, though roots and fractions are, and fractions with roots in them."""

LETTERS = ("a", "b", "c", "k", "m", "n", "p", "q", "t", "u", "v", "x", "y", "z")
GREEK = (r"\alpha", r"\beta", r"\gamma", r"\theta", r"\lambda", r"\mu", r"\pi", r"\sigma", r"\phi", r"\omega")
OPERATORS = ("+", "-", r"\cdot ", r"\times ")
RELATIONS = ("=", "<", r"\leq ", r"\approx ")
FUNCTIONS = (r"\sin", r"\cos", r"\log", r"\exp")


class Formula(NamedTuple):
    """A formula and the part of the data it belongs to: ``train``, or why it is held out, ``new`` or ``nested``."""

    markup: str
    part: str

    @property
    def caption(self) -> str:
        """The markup."""
        return self.markup

    @property
    def attributes(self) -> dict[str, str]:
        """The part and the markup."""
        return {"part": self.part, "markup": self.markup}


class _Draw:
    """Choices that are a function of (seed, index, how many were made before)."""

    def __init__(self, index: int) -> None:
        self.u = iter(_hash.uniform(SEED, index, np.arange(512)).tolist())

    def one(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]

    def below(self, count: int) -> int:
        return int(next(self.u) * count)

    def atom(self) -> str:
        kind = self.below(6)
        return str(self.below(10)) if kind < 2 else self.one(LETTERS) if kind < 5 else self.one(GREEK)

    def term(self, depth: int) -> str:
        """A term with so many levels below it at most."""
        kind = self.below(9) if depth else 0
        if kind < 2:
            return self.atom()
        inner = functools.partial(self.expression, depth - 1)
        made: Sequence[Callable[[], str]] = (
            lambda: rf"\frac{{{inner()}}}{{{inner()}}}",
            lambda: rf"\sqrt{{{inner()}}}",
            lambda: f"{self.one(LETTERS)}^{{{inner()}}}",
            lambda: f"{self.one(LETTERS)}_{{{self.atom()}}}",
            lambda: f"{self.one(FUNCTIONS)}({inner()})",
            lambda: rf"\sum_{{{(i := self.one(('i', 'j', 'k')))}={self.below(2)}}}^{{{self.one(LETTERS)}}}x_{{{i}}}",
            lambda: rf"\int_{{{self.atom()}}}^{{{self.atom()}}}{inner()}\,dx",
        )
        return made[kind - 2]()

    def expression(self, depth: int) -> str:
        made = self.term(depth)
        while self.below(4) == 0:
            made += self.one(OPERATORS) + self.term(depth)
        return made

    def formula(self) -> str:
        made = self.expression(2)
        return made + self.one(RELATIONS) + self.expression(1) if self.below(2) else made


@functools.cache
def formulas_in_order() -> tuple[list[Formula], list[Formula]]:
    """Those to train on and those held out, each once, in the order of their indices.

    A formula is held out by what it is: always with a fraction right under a root, else by a hash of its markup.
    """
    train: list[Formula] = []
    test: dict[str, list[Formula]] = {"new": [], "nested": []}
    seen = set()
    index = -1
    while len(train) < TRAIN or any(len(part) < TEST // 2 for part in test.values()):
        index += 1
        try:
            markup = _Draw(index).formula()
        except StopIteration:  # longer than its numbers
            continue
        if not 5 <= len(markup) < CAPTION or markup in seen:
            continue
        seen.add(markup)
        if NESTED in markup:
            test["nested"].append(Formula(markup, "nested"))
        elif _hash.text(f"formulas/{markup}") % HELD_OUT == 0:
            test["new"].append(Formula(markup, "new"))
        else:
            train.append(Formula(markup, "train"))
    held = [one for pair in zip(test["new"], test["nested"]) for one in pair]
    return train[:TRAIN], held[:TEST]


def render(markup: str, height: int) -> np.ndarray:
    """A formula in the middle of a picture, uint8 ``(1, height, 4·height)``, black on white.

    Of the usual size where it fits, else as large as it can be.

    Raises:
        UserError: for what mathtext cannot read.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from PIL import Image

    font = FontProperties(size=FINER * EM * height, math_fontfamily="cm")
    try:
        # At 72 dots an inch a point is a pixel.
        ink = np.asarray(MathTextParser("agg").parse(f"${markup}$", 72, font).image)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"mathtext cannot read {markup!r}: {str(error).strip().splitlines()[-1]}") from None
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise UserError(f"{markup!r} draws nothing")
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    least = 2 * EDGE * height
    scale = min(1 / FINER, (height - least) / ink.shape[0], (WIDE * height - least) / ink.shape[1])
    tall, wide = (max(1, round(side * scale)) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((wide, tall), Image.Resampling.BOX))
    x = np.full((1, height, WIDE * height), 255, np.uint8)
    top, left = (height - tall) // 2, (WIDE * height - wide) // 2
    x[0, top : top + tall, left : left + wide] -= small
    return x


def pictures(shown: Sequence[Formula], height: int, progress: bool = True) -> np.ndarray:
    """The pictures of formulas, uint8 ``(N, 1, height, 4·height)``."""

    return stacked((render(one.markup, height) for one in shown), len(shown), "formulas", progress)


@register(
    "data",
    "formulas",
    title="Formulas, black on white, with their markup as captions (made)",
    proof="exact: tests/data/test_formulas.py",
    about=Entry(5_000, 500, (1, 32, 128), "BaKoMa (fonts)"),
)
def formulas(options: Options | None = None) -> Dataset:
    r"""Random formulas as matplotlib's mathtext draws them, with their markup as the caption, as in arXiv:2210.05147.

    5,000 to train on and 500 held out, each once. Grey pictures four times as wide as high, 32×128 unless ``size``,
    the height, says otherwise (32 to 64). Letters and digits, sums of terms, fractions, roots, powers, indices,
    functions, sums and integrals, up to two levels deep.

    Half of the held-out formulas are drawn as those to train on are (``part`` of ``Split.attributes`` is ``new``); the
    others have a fraction right under a root, which is never trained on (``nested``).

    Raises:
        UserError: for a size out of its range, colour, windows of pictures or mirrored ones.
    """
    options = options or Options()
    height = side_of("formulas", options, 32, 64, grey=True, side=" (their height)")
    parts = [[part[i] for i in chosen((one.markup for one in part), options.limit)] for part in formulas_in_order()]
    draw = lambda shown: pictures(shown, height, options.progress)
    shape = (1, height, WIDE * height)
    return drawn_set("formulas", parts, draw, options, shape=shape, words=_decides(), caption=CAPTION)


def _decides() -> tuple[str, ...]:
    """All that decides what the pictures are: the libraries that draw, and the code."""
    import matplotlib
    import PIL

    return matplotlib.__version__, PIL.__version__, code_of(__file__)
