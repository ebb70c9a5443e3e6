"""Characters of English words, from text that ships with Python itself."""

from __future__ import annotations

import os
import re
import sysconfig

import numpy as np
import torch

from .._errors import UserError
from .._registry import register
from . import _hash
from .dataset import HELD_OUT, Dataset, Examples, Options, assemble, subset
from .entry import Entry
from .heartbeat import fixed

LENGTH = 32
ALPHABET = " abcdefghijklmnopqrstuvwxyz"

_DOCUMENTATION = re.compile(r'^[ \t]*[rR]?"""(.*?)"""', re.DOTALL | re.MULTILINE)
_OTHER = re.compile(r"[^a-zA-Z\s.,]")
_SKIPPED = ("test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "__pycache__")
_PROSE = 0.96
"""Share of letters, spaces, commas and full stops from which on a paragraph is prose, not code or a table."""


@register(
    "data",
    "words",
    title="Words: English from the documentation strings of Python's standard library",
    proof="data: tests/data/test_token_sets.py",
    about=Entry(20_463, 2_623, (32,), "PSF"),  # under Python 3.11
)
def words(options: Options | None = None) -> Dataset:
    """English in rows of 32 characters, a–z and the space, from the standard library's documentation strings.

    Paragraphs of prose, each once, in the order of their files; all that is no letter becomes one space. A tenth of the
    paragraphs is held out, each by a hash of its own text; those of a split run on in one text, which is cut into rows:
    20,463 to train on and 2,623 held out under Python 3.11. Another version of Python has some other paragraphs, but
    splits the same one no other way.
    """
    options = options or Options()
    fixed("words", options)
    found = paragraphs()
    if len(found) < 100:
        raise UserError(f"words: the sources of Python's standard library are not in {sysconfig.get_path('stdlib')}.")
    held = np.array([_hash.text(p) % HELD_OUT == 0 for p in found])
    parts = []
    for split in (~held, held):
        text = " ".join(p for p, ours in zip(found, split) if ours)
        code = np.frombuffer(text[: len(text) // LENGTH * LENGTH].encode(), dtype=np.uint8).astype(np.int64)
        x = torch.from_numpy(np.where(code == ord(" "), 0, code - ord("a") + 1)).reshape(-1, LENGTH)
        parts.append(subset(Examples(x), options.limit))
    return assemble("words", parts, options, tokens=tuple(ALPHABET))


def paragraphs() -> list[str]:
    """The paragraphs of prose, in small letters and single spaces."""
    found: dict[str, None] = {}
    for folder, below, files in os.walk(sysconfig.get_path("stdlib")):
        below[:] = sorted(b for b in below if b not in _SKIPPED)
        for file in sorted(f for f in files if f.endswith(".py")):
            with open(os.path.join(folder, file), encoding="utf-8", errors="ignore") as opened:
                text = opened.read()
            for string in _DOCUMENTATION.findall(text):
                for paragraph in re.split(r"\n\s*\n", string):
                    if len(_OTHER.findall(paragraph)) > (1 - _PROSE) * len(paragraph):
                        continue
                    plain = re.sub("[^a-z]+", " ", paragraph.lower()).strip()
                    if len(plain) >= 2 * LENGTH:
                        found[plain] = None
    return list(found)
