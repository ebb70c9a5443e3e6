"""Cartoon faces put together of parts, with captions that name the parts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Noise
from ..numerics.streams import Stream
from . import svg
from .dataset import Dataset, Options
from .entry import Entry
from .made import chosen, code_of, drawn_set, side_of, stacked
from .packages import package

T = TypeVar("T")

PACKAGE = "python-avatars"
PARTS = "python_avatars/avatar_parts/"

TRAIN, TEST = 4_000, 400
COUNTS = (0, TRAIN, TRAIN + TEST)
"""The indices at which the faces to train on and those held out begin, and the end."""

SEED = 0

SKINS = {"pale": "#ffdbb4", "light": "#edb98a", "brown": "#c27d4b", "dark": "#614335"}

HAIR = {
    "bob": ("bob", "a {} bob"),
    "bun": ("bun", "a {} bun"),
    "afro": ("fro", "a {} afro"),
    "mohawk": ("mohawk", "a {} mohawk"),
    "quiff": ("quiff", "a {} quiff"),
    "dreadlocks": ("dreads", "{} dreadlocks"),
    "braids": ("braids", "{} braids"),
    "short hair": ("short_flat", "short {} hair"),
    "long hair": ("straight_strand", "long {} hair"),
    "curly hair": ("curly", "curly {} hair"),
    "spiky hair": ("evil_spike", "spiky {} hair"),
    "pixie cut": ("pixie", "a {} pixie cut"),
}
"""The drawing of each style of hair, and its words around a colour."""

HAIR_COLOURS = {
    "black": "#1e1412",
    "brown": "#7a4a2a",
    "blond": "#e0b84c",
    "red": "#c93305",
    "pink": "#f57fa8",
    "blue": "#3a62c8",
}

BEARDS = {"none": ("", ""), "beard": ("beard_medium", "a beard"), "moustache": ("moustache_magnum", "a moustache")}

GLASSES = {
    "none": ("", ""),
    "round glasses": ("round", "round glasses"),
    "sunglasses": ("wayfarers", "sunglasses"),
    "eyepatch": ("eyepatch", "an eyepatch"),
}

EXPRESSIONS = {
    "smiling": ("smile", "happy", "default"),
    "sad": ("sad", "default", "sad_concerned"),
    "angry": ("serious", "squint", "angry"),
    "surprised": ("disbelief", "surprised", "raised_excited"),
    "winking": ("twinkle", "wink", "default"),
}
"""The mouth, the eyes and the eyebrows of each."""

CLOTHES = {
    "hoodie": ("hoodie", "a {} hoodie"),
    "shirt": ("shirt_crew_neck", "a {} shirt"),
    "sweater": ("collar_sweater", "a {} sweater with a collar"),
    "overalls": ("overall", "{} overalls"),
}

CLOTHES_COLOURS = {
    "red": "#e63946",
    "green": "#2a9d5c",
    "blue": "#2f6fde",
    "yellow": "#f5d33c",
    "purple": "#8a4bbf",
    "grey": "#8d99a6",
}

GROUNDS = {"pale blue": "#cfe6ff", "pale green": "#d2f2d2", "pale pink": "#ffdce6", "white": "#ffffff"}

CAPTION = 160
"""Tokens of a caption."""


@dataclass(frozen=True)
class Avatar:
    """A face, each attribute one of the names in the table of its kind; ``part`` is ``train``, ``new`` or ``pair``."""

    part: str
    skin: str
    hair: str
    hair_colour: str
    beard: str
    glasses: str
    expression: str
    clothes: str
    clothes_colour: str
    background: str

    @property
    def attributes(self) -> dict[str, str]:
        """The words alone, by name."""
        return {name.replace("_", " "): value for name, value in vars(self).items()}

    @property
    def caption(self) -> str:
        """Such as ``a smiling face with pale skin, a red bob and round glasses, in a blue hoodie on white``."""
        told = [f"{self.skin} skin", HAIR[self.hair][1].format(self.hair_colour)]
        told += [words for words in (BEARDS[self.beard][1], GLASSES[self.glasses][1]) if words]
        article = "an" if self.expression[0] in "aeiou" else "a"
        clothes = CLOTHES[self.clothes][1].format(self.clothes_colour)
        listed = f"{', '.join(told[:-1])} and {told[-1]}"
        return f"{article} {self.expression} face with {listed}, in {clothes} on {self.background}"


def held_out(hair: int, colour: int) -> bool:
    """Whether a style of hair is never trained on in a colour: each colour lacks two styles, each style one colour."""
    return hair % len(HAIR_COLOURS) == colour


@functools.cache
def _looks(held: bool) -> list[tuple[str, str]]:
    """The styles of hair with their colours that are held out, or those that are not."""
    both = [(s, c) for s in range(len(HAIR)) for c in range(len(HAIR_COLOURS)) if held_out(s, c) is held]
    return [(list(HAIR)[s], list(HAIR_COLOURS)[c]) for s, c in both]


def avatars_at(indices: Tensor) -> list[Avatar]:
    """The faces at some indices, int64 ``(N,)``, each a function of its index alone.

    The first 4,000 are those to train on; those that follow are new ones of the same kind, and held-out pairs, in turn.
    """
    u = Noise(SEED, indices).fold_in(Stream.AVATAR).uniform((8,)).tolist()
    parts = ["train" if i < TRAIN else ("new", "pair")[i % 2] for i in indices.tolist()]
    made = []
    for v, part in zip(u, parts):
        hair, hair_colour = _one(_looks(part == "pair"), v[0])
        kinds = [list(kind) for kind in (SKINS, BEARDS, GLASSES, EXPRESSIONS, CLOTHES, CLOTHES_COLOURS, GROUNDS)]
        skin, beard, glasses, *others = (_one(kind, w) for kind, w in zip(kinds, v[1:]))
        made.append(Avatar(part, skin, hair, hair_colour, beard, glasses, *others))
    return made


def _one(options: Sequence[T], u: float) -> T:
    """The option that a number in (0, 1) picks."""
    return options[int(u * len(options))]


def drawing(avatar: Avatar, parts: Mapping[str, bytes], fills: Mapping[str, str] | None = None) -> str:
    """The SVG of a face, square.

    Args:
        avatar: what it is to be.
        parts: files of the package by their path below its parts, without the suffix.
        fills: the colours of ``skin``, ``hair`` (and beard) and ``clothes``, if not those of the face.
    """
    fills = fills or {
        "skin": SKINS[avatar.skin],
        "hair": HAIR_COLOURS[avatar.hair_colour],
        "clothes": CLOTHES_COLOURS[avatar.clothes_colour],
    }
    mouth, eyes, eyebrows = EXPRESSIONS[avatar.expression]
    face = _Part(parts, "styles/transparent")
    face.fill("Skin-Color", fills["skin"])
    clothes = _Part(parts, f"clothes/{CLOTHES[avatar.clothes][0]}")
    clothes.fill("Fabric-Color", fills["clothes"])
    face.put("Clothing", clothes)
    for place, name in (("Mouth", f"mouth/{mouth}"), ("Nose", "nose/default"), ("Eyes", f"eyes/{eyes}")):
        face.put(place, _Part(parts, name))
    face.put("Eyebrow", _Part(parts, f"eyebrows/{eyebrows}"))
    top = _Part(parts, f"top/hair/{HAIR[avatar.hair][0]}")
    top.fill("Hair-Color", fills["hair"])
    if beard := BEARDS[avatar.beard][0]:
        grown = _Part(parts, f"facial_hair/{beard}")
        grown.fill("Facial-Hair-Color", fills["hair"])
        top.put("Facial-Hair", grown)
    if glasses := GLASSES[avatar.glasses][0]:
        top.put("Accessory", _Part(parts, f"accessories/{glasses}"))
    face.put("Top", top)
    # The drawing is 264 wide and 280 high.
    for name, value in {"viewBox": "-8 0 280 280", "width": "280", "height": "280"}.items():
        face.root.set(name, value)
    return ElementTree.tostring(face.root, encoding="unicode")


class _Part:
    """A drawing whose elements have names of their own, so that several can be one."""

    def __init__(self, parts: Mapping[str, bytes], name: str) -> None:
        self.root = ElementTree.fromstring(parts[name])
        self.prefix = name.replace("/", "-") + "-"
        for element in self.root.iter():
            for key, value in element.attrib.items():
                if key == "id":
                    element.set(key, self.prefix + value)
                elif key.endswith("href"):
                    element.set(key, value.replace("#", f"#{self.prefix}", 1))
                else:
                    element.set(key, re.sub(r"url\(#", f"url(#{self.prefix}", value))

    def find(self, name: str) -> ElementTree.Element:
        found = next((e for e in self.root.iter() if e.get("id") == self.prefix + name), None)
        if found is None:
            raise UserError(f"avatars: the part {self.prefix[:-1]} has no {name}")
        return found

    def fill(self, name: str, colour: str) -> None:
        self.find(name).set("fill", colour)

    def put(self, name: str, part: _Part) -> None:
        self.find(name).extend(list(part.root))


def read_parts() -> dict[str, bytes]:
    """The drawings of the package by their path below its parts, without the suffix.

    Raises:
        UserError: if it has not been fetched.
    """
    found = package(PACKAGE).read_all(PARTS, ".svg")
    return {name[len(PARTS) : -4]: content for name, content in found.items()}


def pictures(shown: Sequence[Avatar], parts: Mapping[str, bytes], side: int, progress: bool = True) -> np.ndarray:
    """The pictures of some faces, uint8 ``(N, 3, side, side)``."""

    frames = (svg.render(drawing(one, parts), side, GROUNDS[one.background]) for one in shown)
    return stacked(frames, len(shown), "avatars", progress)


PLACES = ("background", "skin", "hair", "clothes", "other")
"""What a pixel of a face can show, the classes of :func:`places`; ``other`` is eyes, mouth, glasses and so on."""


def places(shown: Sequence[Avatar], parts: Mapping[str, bytes], side: int, progress: bool = True) -> Tensor:
    """What most of each pixel shows, int64 ``(N, side, side)``, an index into ``PLACES``.

    How much of a pixel a part covers is how much the pixel changes with the part's colour: each face is drawn once all
    in black, once with its skin, hair and clothes in red, green and blue, and once on white.

    Args:
        shown: the faces.
        parts: as :func:`read_parts` gives them.
        side: of the pictures, in pixels.
        progress: whether to show a bar.
    """
    black = dict.fromkeys(("skin", "hair", "clothes"), "#000000")
    primary = {"skin": "#ff0000", "hair": "#00ff00", "clothes": "#0000ff"}

    def drawn(one: Avatar) -> np.ndarray:
        draw = lambda fills, ground: svg.render(drawing(one, parts, fills), side, ground).astype(np.int16)
        dark, coloured, bright = draw(black, "#000000"), draw(primary, "#000000"), draw(black, "#ffffff")
        covered = np.concatenate([(bright - dark)[:1], coloured - dark])
        return np.concatenate([covered, 255 - covered.sum(0, keepdims=True)]).argmax(0).astype(np.uint8)

    return torch.from_numpy(stacked(map(drawn, shown), len(shown), "places", progress)).long()


@register(
    "data",
    "avatars",
    title="Cartoon faces put together of parts, with captions that name them (fetched)",
    proof="data: tests/data/test_avatars.py",
    about=Entry(4_000, 400, (3, 32, 32), "MIT"),
)
def avatars(options: Options | None = None) -> Dataset:
    """Cartoon faces with captions such as "a sad face with dark skin and a pink bun, in a red shirt on white".

    `langevin data get avatars` fetches the parts, those of the package python-avatars, of which nothing is run. 4,000
    to train on and 400 held out, 32×32 pixels unless ``size`` says otherwise (16 to 64): four colours of skin, twelve
    styles of hair in six colours, beards, glasses, five expressions, four kinds of clothes in six colours.

    Half of the held-out faces are new ones of the same kind (``part`` of ``Split.attributes`` is ``new``); the others
    have a style of hair in the one colour in which it is never trained on (``pair``), as a black bob.

    Raises:
        UserError: for a size out of its range, grey images or windows of them; before the package has been fetched;
            without resvg-py.
    """
    options = options or Options()
    side = side_of("avatars", options, 16, 64, mirrored=True)
    words = (package(PACKAGE).sha256, svg.renderer().__version__, code_of(__file__, str(svg.__file__)))
    parts = read_parts()
    rows = [torch.arange(first, last)[chosen(range(last - first), options.limit)] for first, last in pairwise(COUNTS)]
    draw = lambda shown: pictures(shown, parts, side, options.progress)
    shape = (3, side, side)
    return drawn_set("avatars", [*map(avatars_at, rows)], draw, options, shape=shape, words=words, caption=CAPTION)
