"""Every page of the documentation begins by saying in plain words what its subject is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LEAST = 3
"""Sentences that a newcomer is owed: what the thing is for, for whom, and what it does."""
FORMULA = re.compile(r"[$=<>|²³√∫∑Σ∇∂±≤≥≈·×→]|[^\W\d_]_\w|[\u0370-\u03ff]|\w\(\w\)")
"""Signs, subscripts, superscripts, Greek letters and values of functions; code is not looked at."""


def opening(text: str) -> str:
    """The first paragraph below the title, on one line, with a word in the place of what is code."""
    _, below = text.split("\n", 1)
    return re.sub(r"`[^`]*`", "Code", " ".join(below.strip().split("\n\n")[0].split()))


def sentences(paragraph: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\)?\s+(?=[\W\d]*[A-Z])", paragraph) if re.search(r"[.!?:]\W*$", s)]


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(DOCS)) for p in PAGES])
def test_a_page_opens_with_three_sentences_without_a_formula(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    begun = opening(text)
    assert len(sentences(begun)) >= LEAST, begun
    assert not FORMULA.search(begun), FORMULA.search(begun)
    assert begun[0] not in "!<|-*", "a picture, a table or a list is no opening"


@pytest.mark.parametrize(
    ("paragraph", "count"),
    [
        ("One. Two? Three!", 3),
        ("One, e.g. this one, of 3.5 bits. `langevin` is two.", 2),
        ("A title without an end", 0),
        ("One (as in a bracket.) Two: and so on.", 2),
    ],
)
def test_sentences_are_counted(paragraph: str, count: int) -> None:
    assert len(sentences(opening(f"# Title\n\n{paragraph}\n\nMore. And more."))) == count
