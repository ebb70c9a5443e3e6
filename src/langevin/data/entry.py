"""What each named data set holds and under which licence, to be read without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from .._registry import Table
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


CATALOGUE: Table[Entry] = Table("data", lambda row: row.about)
"""What is registered with the data sets, by name."""


def packages_of(name: str) -> list[Package]:
    """The packages that a data set is read from; none for what needs none."""
    return [package for package in PACKAGES.values() if package.data == name]
