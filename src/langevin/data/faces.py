"""Faces of letters: the fonts that ship with matplotlib, and letters of them as large pictures."""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import UserError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CHARACTERS = string.ascii_uppercase + string.digits
"""Capitals and digits. Small letters are left out: c, o, s, v, w, x and z differ from their capitals by size alone."""

LONG_SIDE = 512
"""Pixels of the longer side of a letter's picture."""

MARGIN = 128
"""Empty pixels around it, more than one pixel of the smallest letter that is made of it: 512 / (0.3 · 16) = 107."""


@dataclass(frozen=True)
class Face:
    """A font file and what it looks like.

    Attributes:
        file: its whole path, or its name among those that ship with matplotlib.
        family: the name of its design, which its upright, bold and italic faces share.
        style: ``serif``, ``sans serif`` or ``monospace``.
        bold, italic: whether it is.
    """

    file: str
    family: str
    style: str
    bold: bool = False
    italic: bool = False

    @property
    def path(self) -> Path:
        """Where the file lies."""
        import matplotlib

        return Path(matplotlib.get_data_path(), "fonts", "ttf", self.file)

    def letter(self, character: str) -> Image.Image:
        """A character, white on black, grey levels, its ink ``LONG_SIDE`` pixels long with ``MARGIN`` around it.

        Raises:
            UserError: if the file is not there or draws no such character.
        """
        from PIL import ImageFont

        try:
            # The basic layout engine is in every build of Pillow; what the other adds says nothing of one letter.
            font = ImageFont.truetype(str(self.path), LONG_SIDE, layout_engine=ImageFont.Layout.BASIC)
            once, box = _drawn(font, character)
            if box is not None:
                font = font.font_variant(size=LONG_SIDE**2 / max(box[2] - box[0], box[3] - box[1]))
                once, box = _drawn(font, character)
        except OSError as error:
            raise UserError(f"the font {self.path} cannot be read: {error}") from None
        if box is None:
            raise UserError(f"{self.path} draws nothing for {character!r}")
        return once.crop((box[0] - MARGIN, box[1] - MARGIN, box[2] + MARGIN, box[3] + MARGIN))


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[Image.Image, tuple[int, int, int, int] | None]:
    """A character, and the box of its ink; None if there is none."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = map(int, font.getbbox(character))
    drawn = Image.new("L", (right - left + 2 * MARGIN, bottom - top + 2 * MARGIN))
    ImageDraw.Draw(drawn).text((MARGIN - left, MARGIN - top), character, fill=255, font=font)
    return drawn, drawn.getbbox()


def _family(family: str, style: str, upright: str, bold: str = "", italic: str = "", both: str = "") -> list[Face]:
    """The faces of a family that there are, by their files without the suffix."""
    files = ((upright, False, False), (bold, True, False), (italic, False, True), (both, True, True))
    return [Face(f"{file}.ttf", family, style, *looks) for file, *looks in files if file]


def _dejavu(name: str, style: str, slanted: str) -> list[Face]:
    file = name.replace(" ", "")
    return _family(name, style, file, *(f"{file}-{looks}" for looks in ("Bold", slanted, f"Bold{slanted}")))


FACES: tuple[Face, ...] = (
    *_dejavu("DejaVu Sans", "sans serif", "Oblique"),
    *_dejavu("DejaVu Serif", "serif", "Italic"),
    *_dejavu("DejaVu Sans Mono", "monospace", "Oblique"),
    *_family("Computer Modern Roman", "serif", "cmr10", "cmb10", "cmti10"),
    *_family("Computer Modern Sans", "sans serif", "cmss10"),
    *_family("Computer Modern Typewriter", "monospace", "cmtt10"),
    *_family("STIX", "serif", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
"""The faces with Latin letters that ship with matplotlib."""


def read_face(path: str) -> Face | None:
    """What the tables of a font file say of it; None if it is not a Latin text face of usual weight and width.

    The style is that of PANOSE: a Latin text face (2), whose second number tells serifs (2 to 10) from none (11 to 15).
    """
    from matplotlib.ft2font import FT2Font, StyleFlags

    try:
        font = FT2Font(path)
        table: dict[str, Any] = dict(font.get_sfnt_table("OS/2") or {})
        characters = font.get_charmap()
    except (OSError, RuntimeError, ValueError):
        return None
    if any(ord(character) not in characters for character in CHARACTERS):
        return None
    family, serifs = (table.get("panose") or bytes(10))[:2]
    bold = StyleFlags.BOLD in font.style_flags
    usual = table.get("usWeightClass") == (700 if bold else 400) and table.get("usWidthClass") == 5
    if family != 2 or not 2 <= serifs <= 15 or not usual:
        return None
    # Not every monospace font says that it is one.
    font.set_size(100, 72)
    alike = font.load_char(ord("I")).linearHoriAdvance == font.load_char(ord("W")).linearHoriAdvance
    style = "monospace" if alike else "serif" if serifs <= 10 else "sans serif"
    return Face(path, font.family_name, style, bold, StyleFlags.ITALIC in font.style_flags)


def system_faces() -> tuple[Face, ...]:
    """The faces that are installed on this machine and do not ship with matplotlib, each look of a family once."""
    from matplotlib.font_manager import findSystemFonts

    known, files = {face.family for face in FACES}, {face.file for face in FACES}
    found: dict[tuple[str, bool, bool], Face] = {}
    for path in sorted(findSystemFonts(fontext="ttf")):
        # The Computer Modern of matplotlib is described wrongly by its tables.
        face = None if Path(path).name in files else read_face(path)
        if face is not None and face.family not in known:
            found.setdefault((face.family, face.bold, face.italic), face)
    return tuple(sorted(found.values(), key=lambda face: (face.family, face.bold, face.italic)))


def digest(faces: tuple[Face, ...]) -> str:
    """A checksum of what the files of some faces hold, in hexadecimal.

    Raises:
        UserError: for a file that is not there.
    """
    found = hashlib.sha256()
    for face in faces:
        try:
            found.update(face.path.read_bytes())
        except OSError as error:
            raise UserError(f"the font {face.path} cannot be read: {error.strerror or error}") from None
    return found.hexdigest()
