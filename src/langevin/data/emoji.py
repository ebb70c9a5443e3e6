"""Emoji in four styles, with their names as captions."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._registry import register
from . import _hash, svg
from .dataset import Dataset, Options
from .entry import Entry
from .made import chosen, code_of, drawn_set, side_of, stacked
from .packages import package

OPENMOJI = "openmoji"

ICONIFY = {
    "fluent": "@iconify-json/fluent-emoji-flat",
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
}
"""Styles whose drawings lie in one JSON file, in the format of Iconify, and their packages."""

NAMES, PAIRS = 12, 4
"""One name in so many is held out in every style; of the names that are left, one in so many in one of its styles."""

CAPTION = 96
"""Tokens of a caption."""

TONE = re.compile(r"(light|medium-light|medium|medium-dark|dark) skin tone")

_SINGULAR = ("ss", "us", "is")
_PLURALS = {"people", "men", "women", "children"}
_AN = re.compile(r"(?!uni|use|ut|eu|ew|one)[aeiou]|hour", re.IGNORECASE)


@dataclass(frozen=True)
class Emoji:
    """A drawing of an emoji in a style.

    Attributes:
        code: its Unicode code points, as those of OpenMoji's table, in small letters.
        base: its name without a skin tone, in small letters.
        name: as Unicode's short name, such as ``red apple``, or ``man golfing, dark skin tone``.
        group: of Unicode, or ``extras-openmoji`` and ``extras-unicode``.
        style: whose drawing it is.
        part: ``train``, or why it is held out: ``name`` or ``pair``.
        drawing: the SVG.
    """

    code: str
    base: str
    name: str
    group: str
    style: str
    part: str
    drawing: str

    @property
    def attributes(self) -> dict[str, str]:
        """The words alone, by name."""
        tone = TONE.search(self.name)
        about = {"part": self.part, "name": self.name, "style": self.style, "group": self.group}
        return {**about, "skin tone": tone[1] if tone else ""}

    @property
    def caption(self) -> str:
        """Such as ``a red apple, openmoji style``."""
        name = self.name if self.group == "symbols" else with_article(self.name)
        return f"{name}, {self.style} style"


def with_article(name: str) -> str:
    """A name with ``a`` or ``an`` before it, or as it is where its noun is a plural."""
    words = re.split(r" (?:with|without|in|on|of|and|holding) |[,:]", name)[0].split()
    last = words[-1].lower()
    if _PLURALS & {word.lower() for word in words} or (last.endswith("s") and not last.endswith(_SINGULAR)):
        return name
    return f"{'an' if _AN.match(name) else 'a'} {name}"


def part_of(base: str, style: str, styles: Sequence[str]) -> str:
    """The part of the data that the drawings of a name in a style belong to, see :class:`Emoji`.

    Args:
        base: the name without a skin tone.
        style: of the drawing.
        styles: those in which the name is drawn.
    """
    if _hash.text(f"emoji/{base}") % NAMES == 0:
        return "name"
    if len(styles) > 1 and _hash.text(f"emoji/pair/{base}") % PAIRS == 0:
        return "pair" if style == min(styles, key=lambda one: _hash.text(f"emoji/{base}/{one}")) else "train"
    return "train"


def plain(code: str) -> str:
    """Code points in small letters, without those that ask for a picture (FE0F), which sets have or leave out."""
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def table(content: bytes) -> dict[str, dict[str, str]]:
    """OpenMoji's table by plain code points: those that stand alone and show at most one skin tone."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    chosen = (row for row in rows if row["group"] != "component" and "," not in row["skintone"])
    return {plain(row["hexcode"]): row for row in chosen}


def iconify(icons: Any, chars: Any) -> dict[str, str]:
    """The drawings of a set in the format of Iconify, by plain code points."""
    found = {}
    for code, name in chars.items():
        if (icon := icons["icons"].get(name)) is None:
            continue
        box = [icon.get(key, icons.get(key, default)) for key, default in BOX.items()]
        view = " ".join(map(str, box))
        found[plain(code)] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'
    return found


BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
"""The view box of an icon, and what each number is where a set does not say it."""


def drawings() -> dict[str, dict[str, str]]:
    """The drawings of each style by plain code points, out of the packages.

    Raises:
        UserError: if one has not been fetched.
    """
    found = {}
    for style, name in ICONIFY.items():
        held = package(name).read_all("package/", "s.json")
        icons, chars = (json.loads(held[f"package/{file}.json"]) for file in ("icons", "chars"))
        found[style] = iconify(icons, chars)
    start = "package/color/svg/"
    held = package(OPENMOJI).read_all(start, ".svg")
    found[OPENMOJI] = {plain(name[len(start) : -4]): content.decode() for name, content in held.items()}
    return found


def emojis() -> list[Emoji]:
    """All drawings, style by style, in the order of OpenMoji's table.

    Raises:
        UserError: if a package has not been fetched.
    """
    found = drawings()
    rows = table(package(OPENMOJI).read("package/data/openmoji.csv"))
    bases = {}
    for code, row in rows.items():
        plainer = rows.get(plain(row["skintone_base_hexcode"]), row) if row["skintone"] else row
        bases[code] = plainer["annotation"].lower()
    # OpenMoji has drawings of its own under names that Unicode has too: what is held out is the name.
    styles: dict[str, set[str]] = {}
    for style, drawn in found.items():
        for code in rows.keys() & drawn.keys():
            styles.setdefault(bases[code], set()).add(style)
    made = []
    for style, drawn in found.items():
        for code, row in rows.items():
            if code not in drawn:
                continue
            name = row["annotation"].replace(": ", ", ", 1) if row["skintone"] else row["annotation"]
            part = part_of(bases[code], style, sorted(styles[bases[code]]))
            made.append(Emoji(code, bases[code], name, row["group"], style, part, drawn[code]))
    return made


def pictures(shown: Sequence[Emoji], side: int, progress: bool = True) -> np.ndarray:
    """The pictures of some emoji, uint8 ``(N, 3, side, side)``."""

    return stacked((svg.render(one.drawing, side) for one in shown), len(shown), "emoji", progress)


@register(
    "data",
    "emoji",
    title="Emoji in four styles, in colour, with their names as captions (fetched)",
    proof="data: tests/data/test_emoji.py",
    about=Entry(12_072, 2_092, (3, 32, 32), "MIT, Apache 2.0, CC BY 4.0 and CC BY-SA 4.0, by style"),
)
def emoji(options: Options | None = None) -> Dataset:
    """Emoji of four designs on white, with captions such as "a red apple, openmoji style".

    `langevin data get emoji` fetches them: Microsoft's Fluent (flat), Google's Noto, Twitter's Twemoji and OpenMoji.
    32×32 pixels unless ``size`` says otherwise (16 to 64). Emoji of two skin tones are left out.

    One name in twelve is held out in every style, with all its skin tones (``part`` of ``Split.attributes`` is
    ``name``). Of the others, one in four is held out in one of its styles and trained on in the rest (``pair``).

    Raises:
        UserError: for a size out of its range, grey images, windows of them or mirrored ones; before the packages have
            been fetched; without resvg-py.
    """
    options = options or Options()
    side = side_of("emoji", options, 16, 64)
    sums = [package(name).sha256 for name in (*ICONIFY.values(), OPENMOJI)]
    words = (*sums, svg.renderer().__version__, code_of(__file__, str(svg.__file__)))
    every = emojis()
    shown = [[one for one in every if (one.part == "train") is trained] for trained in (True, False)]
    parts = [[part[i] for i in chosen((f"{one.style}/{one.code}" for one in part), options.limit)] for part in shown]
    draw = lambda some: pictures(some, side, options.progress)
    return drawn_set("emoji", parts, draw, options, shape=(3, side, side), words=words, caption=CAPTION)
