"""Two captions, word by word: which tokens of one stand for which of the other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import check_instance, check_numbers, unknown

PIECES = re.compile(r"\w+|\s+|[^\w\s]")
"""What a caption is cut into: words, the space between them, and every other sign by itself."""

SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Piece:
    """A word, a space or a sign of a caption.

    Attributes:
        text: as it stands there.
        first, last: its tokens, from ``first`` up to but without ``last``: bytes of UTF-8.
    """

    text: str
    first: int
    last: int

    @property
    def tokens(self) -> range:
        """The places of its tokens."""
        return range(self.first, self.last)


def pieces(caption: str) -> list[Piece]:
    """A caption cut into words, spaces and signs, which together are all of its bytes."""
    found, place = [], 0
    for text in PIECES.findall(caption):
        end = place + len(text.encode())
        found.append(Piece(text, place, end))
        place = end
    return found


def tokens_of(caption: str, word: str) -> list[int]:
    """The places of a word's tokens in a caption, at every occurrence; of several words in a row, all of theirs.

    Raises:
        UserError: for a word that is not in the caption: it names the nearest.
    """
    found = places(caption, word)
    if not found:
        raise unknown(f"word of the caption {caption!r}", word, words(caption))
    return found


def places(caption: str, word: str) -> list[int]:
    """``tokens_of``, and nothing for a word that is not in the caption."""
    check_instance("word", word, str, "text")
    asked, there = [SPACE.sub(" ", piece.text) for piece in pieces(word.strip())], pieces(caption)
    runs = (there[i : i + len(asked)] for i in range(len(there) - len(asked) + 1) if asked)
    alike = (run for run in runs if [SPACE.sub(" ", piece.text) for piece in run] == asked)
    return [k for run in alike for piece in run for k in piece.tokens]


def words(caption: str) -> list[str]:
    """The words and signs of a caption."""
    return [piece.text for piece in pieces(caption) if not SPACE.fullmatch(piece.text)]


@dataclass(frozen=True, eq=False)
class Alignment:
    r"""Which tokens of a target caption take the attention of which of a source caption.

    ``matrix`` is :math:`M`, ``(L, L')``: the target's attention to its token j is :math:`\sum_i A_i M_{ij}` of the
    source's attention A. A token of a word in both captions has one 1 in its column; a word swapped for another one
    has 1/n in all its columns, n the target's tokens, so that the attention to the old word, whole, is spread evenly
    over the new one (arXiv:2208.01626 §3.2, where captions differ in their numbers of tokens); a word that was added
    has zeros, and keeps its own attention. A row of zeros is a word that was left out.

    Attributes:
        source, target: the captions.
        matrix: float64 ``(L, L')``, of the tokens with the end of the caption; every row sums to 1 or 0.
    """

    source: str
    target: str
    matrix: Tensor

    def changed(self) -> tuple[list[int], list[int]]:
        """Tokens of the source that are swapped or left out, and those of the target that are swapped or added."""
        same = self.matrix == 1
        same = same & (self._letters(self.source)[:, None] == self._letters(self.target)[None])
        rows, columns = ((~same.any(axis)).nonzero().flatten().tolist() for axis in (1, 0))
        return rows, columns

    def of(self, asked: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens of words in the source and in the target; a word in one alone is joined by what it stands for.

        Raises:
            UserError: for a word in neither.
        """
        before: set[int] = set()
        after: set[int] = set()
        for word in asked:
            old, new = places(self.source, word), places(self.target, word)
            if not old and not new:
                known = words(self.source) + words(self.target)
                raise unknown(f"word of the captions {self.source!r} and {self.target!r}", word, known)
            before.update(old)
            after.update(new)
        columns = self.matrix[:, sorted(after)].any(1).nonzero().flatten().tolist() if after else []
        rows = self.matrix[sorted(before)].any(0).nonzero().flatten().tolist() if before else []
        return sorted(before | set(columns)), sorted(after | set(rows))

    @staticmethod
    def _letters(caption: str) -> Tensor:
        return torch.tensor([*caption.encode(), 256])


def align(source: str, target: str) -> Alignment:
    """The alignment of two captions: the longest runs of words in both stand for each other, the rest is swapped.

    Between two runs, words in the source alone are left out, words in the target alone are added, and words in both
    are swapped, all for all if their numbers differ.
    """
    for name, caption in (("source", source), ("target", target)):
        check_instance(name, caption, str, "a caption")
    before, after = pieces(source), pieces(target)
    rows, columns = len(source.encode()) + 1, len(target.encode()) + 1
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    match = difflib.SequenceMatcher(None, [p.text for p in before], [p.text for p in after], autojunk=False)
    for what, i, j, k, m in match.get_opcodes():
        if what in ("equal", "replace"):
            old = range(before[i].first, before[j - 1].last)
            new = range(after[k].first, after[m - 1].last)
            if what == "equal":
                matrix[list(old), list(new)] = 1
            else:
                matrix[old.start : old.stop, new.start : new.stop] = 1 / len(new)
    matrix[-1, -1] = 1
    return Alignment(source, target, matrix)


def factors(caption: str, reweight: Mapping[str, float]) -> Tensor:
    """How much each token of a caption is weighted by: 1, or what ``reweight`` says of its word; float64 ``(L,)``.

    Raises:
        UserError: for a word that is not in the caption, or a weight that is not a finite number.
    """
    check_instance("reweight", reweight, Mapping, "a mapping such as {'red': 2.0}")
    found = torch.ones(len(caption.encode()) + 1, dtype=torch.float64)
    for word, factor in reweight.items():
        check_numbers(reweight=factor)
        found[tokens_of(caption, word)] = float(factor)
    return found
