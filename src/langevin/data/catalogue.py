"""What each named data set holds and under which licence, to be read without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from .packages import PACKAGES, Package


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Attributes:
        train, test: examples to train on and held out.
        shape: of an example, at the size it has if none is asked for.
        licence: of what it is made of; empty for what is computed from random numbers alone.
    """

    train: int
    test: int
    shape: tuple[int, ...]
    licence: str = ""

    @property
    def holds(self) -> str:
        """The counts and the shape in a few words."""
        shape = "×".join(map(str, self.shape))
        return f"{self.train:,} to train on and {self.test:,} held out, of {shape} numbers"


CATALOGUE = {
    "avatars": Entry(4_000, 400, (3, 32, 32), "MIT"),
    "brain-mri": Entry(2_040, 9, (1, 64, 64), "BSD"),
    "checkerboard": Entry(20_000, 5_000, (2,)),
    "digits": Entry(1_438, 359, (1, 8, 8), "BSD"),
    "digits-17": Entry(1_438, 359, (1, 8, 8), "BSD"),
    "ellipses": Entry(5_000, 500, (1, 64, 64)),
    "emoji": Entry(12_072, 2_092, (3, 32, 32), "MIT, Apache 2.0, CC BY 4.0 and CC BY-SA 4.0, by style"),
    "formulas": Entry(5_000, 500, (1, 32, 128), "BaKoMa (fonts)"),
    "glyphs": Entry(20_000, 2_000, (3, 32, 32), "Bitstream Vera, STIX and BaKoMa (fonts)"),
    "glyphs-system": Entry(20_000, 2_000, (3, 32, 32), "of the fonts installed here, and as glyphs"),
    "heartbeat": Entry(10_000, 1_000, (20,)),
    "mixture": Entry(20_000, 5_000, (2,)),
    "mnist": Entry(9_003, 997, (1, 28, 28), "MIT"),
    "moons": Entry(20_000, 5_000, (2,)),
    "swissroll": Entry(20_000, 5_000, (2,)),
    "words": Entry(20_463, 2_623, (32,), "PSF"),
}
"""By name; the counts of ``words`` are those under Python 3.11."""


def packages_of(name: str) -> list[Package]:
    """The packages that a data set is read from; none for what needs none."""
    return [package for package in PACKAGES.values() if package.data == name]
