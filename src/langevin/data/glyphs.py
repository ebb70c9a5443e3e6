"""Letters and digits in many faces, colours, sizes and places, with captions."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._registry import register
from ..distributions import Noise
from ..numerics.streams import Stream
from . import _hash
from . import faces as _faces
from ._progress import track
from .dataset import Dataset, Options
from .entry import Entry
from .faces import CHARACTERS, FACES, LONG_SIDE, MARGIN, Face, digest, system_faces
from .made import chosen, code_of, drawn_set, side_of

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

TRAIN, TEST = 20_000, 2_000
COUNTS = (0, TRAIN, TRAIN + TEST)
"""The indices at which the examples to train on and those held out begin, and the end."""

SEED = 0

SIZES = {"small": (0.30, 0.38), "medium": (0.48, 0.58), "large": (0.72, 0.86)}
"""The longer side of the letter's ink as a share of the picture's side."""

COLOURS = {
    "red": (205, 35, 40),
    "orange": (240, 130, 30),
    "yellow": (250, 220, 60),
    "green": (30, 160, 70),
    "blue": (35, 75, 205),
    "purple": (125, 45, 165),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
}
"""The middle of each named colour, sRGB in 0…255."""

VARIED = 12
"""How far each channel of a colour may lie from the middle."""

SHADED = 0.1
"""How far the brightness of a background may rise from one side to the middle, along each axis, as a share."""

APART = 140.0
"""The least distance between the colours of a letter and its background, in the units of ``COLOURS``."""

EDGE = 0.04
"""The share of the picture's side that stays empty around the letter."""

MIDDLE = (0.38, 0.62)
"""Where the middle of the letter lies along an axis for its place to be called the middle."""

HELD_OUT_FAMILIES = ("STIX",)
"""Families of which no face is trained on."""

CAPTION = 104
"""Tokens of a caption."""

WORDINGS = (
    "a {size} {colour} {looks} {what} on {ground}{place}",
    "a {size} {colour} {what} in {a_looks} face on {a_ground} background{place}",
    "a {size} {looks} {what} in {colour} on {ground}{place}",
    "on {a_ground} background, a {size} {colour} {looks} {what}{place}",
)


def place_of(across: float, down: float) -> str:
    """The name of a place, such as ``top left``, or ``middle``: shares of the side, from the left and from the top."""
    name = lambda v, low, high: low if v < MIDDLE[0] else high if v > MIDDLE[1] else ""
    words = name(down, "top", "bottom"), name(across, "left", "right")
    return " ".join(word for word in words if word) or "middle"


@dataclass(frozen=True)
class Glyph:
    """What an example shows, in words and in numbers.

    Attributes:
        part: ``train``, or why it is held out: ``family`` or ``combination``.
        character: a capital or a digit.
        face: of the character.
        size: one of ``SIZES``.
        colour, background: two of ``COLOURS``.
        extent: the longer side of the ink as a share of the picture's.
        across, down: where the middle of the ink lies, from the left and from the top, as shares of the picture's side.
        ink, ground: the colours themselves, sRGB in 0…255.
        slope: how far the ground's brightness rises from the middle to the right and to the lower side, as shares.
        wording: of the caption, one of ``WORDINGS``.
        says_place: whether the caption says where the character stands.
    """

    part: str
    character: str
    face: Face
    size: str
    colour: str
    background: str
    extent: float
    across: float
    down: float
    ink: tuple[float, ...]
    ground: tuple[float, ...]
    slope: tuple[float, ...]
    wording: int
    says_place: bool

    @property
    def place(self) -> str:
        """Where the character stands, such as ``top left``, or ``middle``."""
        return place_of(self.across, self.down)

    @property
    def attributes(self) -> dict[str, str]:
        """The words alone, by name."""
        return {
            "part": self.part,
            "character": self.character,
            "size": self.size,
            "colour": self.colour,
            "background": self.background,
            "style": self.face.style,
            "weight": "bold" if self.face.bold else "regular",
            "slant": "italic" if self.face.italic else "upright",
            "family": self.face.family,
            "place": self.place,
        }

    @property
    def caption(self) -> str:
        """One sentence that says all of it but the family, such as ``a small green serif letter Q on blue``."""
        looks = " ".join(["bold"] * self.face.bold + ["italic"] * self.face.italic + [self.face.style])
        where = {"middle": "in the middle", "left": "on the left", "right": "on the right"}
        return WORDINGS[self.wording].format(
            size=self.size,
            colour=self.colour,
            looks=looks,
            a_looks=_with_article(looks),
            what=f"{'digit' if self.character.isdigit() else 'letter'} {self.character}",
            ground=self.background,
            a_ground=_with_article(self.background),
            place=f", {where.get(self.place, f'at the {self.place}')}" if self.says_place else "",
        )


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def held_out(size: int, colour: int, character: int) -> bool:
    """Whether a combination of size, colour and character is never trained on: one in twelve is.

    A Latin design, character + 3·colour + size ≡ 3 (mod 12) for indices into ``CHARACTERS``, ``COLOURS`` and ``SIZES``:
    the large green Q is held out, and every two of the three occur together in training.
    """
    return (character + 3 * colour + size) % 12 == 3


@functools.cache
def _combinations(held: bool) -> list[tuple[int, int, int]]:
    """Those of size, colour and character that are held out, or those that are not."""
    grid = np.ndindex(len(SIZES), len(COLOURS), len(CHARACTERS))
    return [(s, c, k) for s, c, k in grid if held_out(s, c, k) is held]


@functools.cache
def _grounds(colour: str) -> list[str]:
    """The backgrounds that a letter of a colour is told from."""
    return [name for name, other in COLOURS.items() if math.dist(COLOURS[colour], other) >= APART]


def held_out_family(family: str) -> bool:
    """Whether a family of fonts is never trained on: STIX, and by its name one in four of those that are installed."""
    ours = {face.family for face in FACES}
    return family in HELD_OUT_FAMILIES or (family not in ours and _hash.text(f"glyphs/{family}") % 4 == 0)


def _families(faces: Sequence[Face], held: bool) -> list[list[Face]]:
    """The faces of each family that is held out, or of each that is not."""
    names = dict.fromkeys(face.family for face in faces if held_out_family(face.family) is held)
    return [[face for face in faces if face.family == name] for name in names]


def glyphs_at(indices: Tensor, faces: Sequence[Face] = FACES) -> list[Glyph]:
    """The examples at some indices, int64 ``(N,)``, each a function of its index and the faces there are.

    The first 20,000 are those to train on; those that follow show a held-out family or combination in turn.
    """
    families = {held: _families(faces, held) for held in (False, True)}
    u = Noise(SEED, indices).fold_in(Stream.GLYPH).uniform((17,)).tolist()
    parts = ["train" if i < TRAIN else ("family", "combination")[i % 2] for i in indices.tolist()]
    return [_glyph(row, part, families[part == "family"]) for row, part in zip(u, parts)]


def _glyph(u: Sequence[float], part: str, families: Sequence[Sequence[Face]]) -> Glyph:
    """The example of a part of the data that 17 uniform numbers make, in a face of one of these families."""
    face = _one(_one(families, u[0]), u[1])
    s, c, k = _one(_combinations(part == "combination"), u[2])
    size, colour = list(SIZES)[s], list(COLOURS)[c]
    background = _one(_grounds(colour), u[3])
    extent = SIZES[size][0] + (SIZES[size][1] - SIZES[size][0]) * u[4]
    least = EDGE + extent / 2
    return Glyph(
        part=part,
        character=CHARACTERS[k],
        face=face,
        size=size,
        colour=colour,
        background=background,
        extent=extent,
        across=least + (1 - 2 * least) * u[5],
        down=least + (1 - 2 * least) * u[6],
        ink=_varied(colour, u[7:10]),
        ground=_varied(background, u[10:13]),
        slope=tuple(SHADED * (2 * v - 1) for v in u[13:15]),
        wording=int(u[15] * len(WORDINGS)),
        says_place=u[16] < 0.5,
    )


def _one(options: Sequence[T], u: float) -> T:
    """The option that a number in (0, 1) picks."""
    return options[int(u * len(options))]


def _varied(colour: str, u: Sequence[float]) -> tuple[float, ...]:
    return tuple(middle + VARIED * (2 * v - 1) for middle, v in zip(COLOURS[colour], u))


def coverage(letter: Image.Image, glyph: Glyph, side: int) -> np.ndarray:
    """How much of each pixel a letter covers, float64 ``(side, side)`` in [0, 1].

    Args:
        letter: its large picture, see :meth:`Face.letter`.
        glyph: says how large it is to be and where.
        side: of the picture in pixels.
    """
    from PIL.Image import Resampling

    scale = glyph.extent * side / LONG_SIDE  # pixels of the picture in one of the letter's
    width, height = letter.width - 2 * MARGIN, letter.height - 2 * MARGIN
    left, top = glyph.across * side - width * scale / 2, glyph.down * side - height * scale / 2
    # Only the pixels that the ink touches are computed; the margin is empty as far as they reach beyond it.
    x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
    x1, y1 = min(side, math.ceil(left + width * scale)), min(side, math.ceil(top + height * scale))
    of = lambda v, start: (v - start) / scale + MARGIN
    box = (of(x0, left), of(y0, top), of(x1, left), of(y1, top))
    drawn = np.zeros((side, side))
    drawn[y0:y1, x0:x1] = np.asarray(letter.resize((x1 - x0, y1 - y0), Resampling.BOX, box=box)) / 255
    return drawn


def draw(glyph: Glyph, letter: Image.Image, side: int) -> np.ndarray:
    """The picture of an example, uint8 ``(3, side, side)``: ground · (1 − coverage) + ink · coverage.

    One example at another side is the same picture in another resolution.
    """
    at = (2 * np.arange(side) + 1) / side - 1
    shade = 1 + glyph.slope[0] * at[None, :] + glyph.slope[1] * at[:, None]
    covered = coverage(letter, glyph, side)
    ground = np.array(glyph.ground)[:, None, None] * shade
    ink = np.array(glyph.ink)[:, None, None]
    return np.rint(ground + (ink - ground) * covered).clip(0, 255).astype(np.uint8)


def pictures(shown: Sequence[Glyph], side: int, progress: bool = True) -> np.ndarray:
    """The pictures of examples, uint8 ``(N, 3, side, side)``."""
    x = np.empty((len(shown), 3, side, side), np.uint8)
    alike: dict[tuple[Face, str], list[int]] = {}
    for i, glyph in enumerate(shown):
        alike.setdefault((glyph.face, glyph.character), []).append(i)

    def draw_all() -> Iterator[None]:
        for (face, character), rows in alike.items():
            letter = face.letter(character)
            for i in rows:
                x[i] = draw(shown[i], letter, side)
                yield

    for _ in track(draw_all(), len(shown), "glyphs", progress):
        pass
    return x


@register(
    "data",
    "glyphs",
    title="Letters and digits in colour, many faces, sizes and places, with captions (made)",
    proof="exact: tests/data/test_glyphs.py",
    about=Entry(20_000, 2_000, (3, 32, 32), "Bitstream Vera, STIX and BaKoMa (fonts)"),
)
def glyphs(options: Options | None = None) -> Dataset:
    """Capitals and digits in the faces that ship with matplotlib, in colour on a coloured ground, with captions.

    20,000 to train on and 2,000 held out, 36 classes, 32×32 pixels unless ``size`` says otherwise (16 to 64); at
    another size an example is the same picture in another resolution. The condition ``caption`` is a sentence such as
    "a small green serif letter Q on blue"; ``Split.attributes`` has the words of each example by name.

    Half of the held-out examples show a face of STIX, a family that is never trained on (``part`` is ``family``); the
    others a combination of size, colour and character that is never trained on, as the large green Q
    (``combination``): one in twelve, and every two of the three occur together in training.

    The pictures are made once and kept in the cache; the same bytes with the same versions of matplotlib and Pillow.

    Raises:
        UserError: for a size out of its range, grey images, windows of them or mirrored ones.
    """
    return _glyphs("glyphs", FACES, options or Options())


@register(
    "data",
    "glyphs-system",
    title="Glyphs in the fonts of this machine too (made)",
    proof="exact: tests/data/test_glyphs.py",
    about=Entry(20_000, 2_000, (3, 32, 32), "of the fonts installed here, and as glyphs"),
)
def glyphs_system(options: Options | None = None) -> Dataset:
    """The letters of ``glyphs`` in more faces: those installed on this machine beside those that ship with matplotlib.

    Latin text faces of regular and bold weight, as their own tables say. Of the families that are installed one in four
    is held out, by its name, and STIX as ever. Other machines have other fonts, and so other pictures.

    Raises:
        UserError: as ``glyphs``.
    """
    return _glyphs("glyphs-system", (*FACES, *system_faces()), options or Options())


def _glyphs(name: str, faces: tuple[Face, ...], options: Options) -> Dataset:
    side = side_of(name, options, 16, 64)
    rows = [torch.arange(first, last)[chosen(range(last - first), options.limit)] for first, last in pairwise(COUNTS)]
    return drawn_set(
        name,
        [glyphs_at(part, faces) for part in rows],
        lambda shown: pictures(shown, side, options.progress),
        options,
        shape=(3, side, side),
        words=_decides(faces),
        caption=CAPTION,
        classes=tuple(CHARACTERS),
        label=lambda glyph: CHARACTERS.index(glyph.character),
    )


def _decides(faces: tuple[Face, ...]) -> tuple[str, ...]:
    """All that decides what the pictures are: the fonts, the library that draws, and the code."""
    import PIL

    return digest(faces), PIL.__version__, code_of(str(_faces.__file__), __file__)
