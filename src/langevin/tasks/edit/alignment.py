"""Two captions, word by word: which tokens of one stand for which of the other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        first, last: its bytes in UTF-8, from ``first`` up to but without ``last``.
    """

    text: str
    first: int
    last: int


def pieces(caption: str) -> list[Piece]:
    """A caption cut into words, spaces and signs, which together are all of its bytes."""
    found, place = [], 0
    for text in PIECES.findall(caption):
        end = place + len(text.encode())
        found.append(Piece(text, place, end))
        place = end
    return found


def bytes_of(caption: str, word: str) -> list[int]:
    """The places of a word's bytes in a caption, at every occurrence; of several words in a row, all of theirs.

    Raises:
        UserError: for a word that is not in the caption: it names the nearest.
    """
    found = places(caption, word)
    if not found:
        raise unknown(f"word of the caption {caption!r}", word, words(caption))
    return found


def places(caption: str, word: str) -> list[int]:
    """``bytes_of``, and nothing for a word that is not in the caption."""
    check_instance("word", word, str, "text")
    asked, there = [SPACE.sub(" ", piece.text) for piece in pieces(word.strip())], pieces(caption)
    runs = (there[i : i + len(asked)] for i in range(len(there) - len(asked) + 1) if asked)
    alike = (run for run in runs if [SPACE.sub(" ", piece.text) for piece in run] == asked)
    return [k for run in alike for piece in run for k in range(piece.first, piece.last)]


def words(caption: str) -> list[str]:
    """The words and signs of a caption."""
    return [piece.text for piece in pieces(caption) if not SPACE.fullmatch(piece.text)]


Tokens = tuple[range, ...]
"""The tokens of a caption: of each the bytes it stands for; none for the marks of its beginning and of its end."""

Tokenizer = Callable[[str], Tokens]
"""What says which tokens a caption has."""


def byte_tokens(caption: str) -> Tokens:
    """Those of ``nn.text``: every byte is one, and one more is the end."""
    length = len(caption.encode())
    return *(range(i, i + 1) for i in range(length)), range(length, length)


@dataclass(frozen=True, eq=False)
class Alignment:
    r"""Which tokens of a target caption take the attention of which of a source caption.

    ``matrix`` is :math:`M`, ``(L, L')``: the target's attention to its token j is :math:`\sum_i A_i M_{ij}` of the
    source's attention A. A token of a word in both captions has one 1 in its column; a word swapped for another one
    has 1/n in all its columns, n the bytes of the new one, so that the attention to the old word, whole, is spread
    evenly over the new one (arXiv:2208.01626 §3.2, where captions differ in their numbers of tokens); a word that was
    added has zeros, and keeps its own attention. A row of zeros is a word that was left out. Tokens of several bytes
    have the sums of their bytes' columns and the means of their rows. Marks stand for each other in their order, those
    of the source that are more for the last of the target.

    Attributes:
        source, target: the captions.
        before, after: their tokens.
        matrix: float64 ``(L, L')``; every row sums to 1 or 0, but for a token that is partly left out.
    """

    source: str
    target: str
    before: Tokens
    after: Tokens
    matrix: Tensor

    def changed(self) -> tuple[list[int], list[int]]:
        """Tokens of the source that are swapped or left out, and those of the target that are swapped or added."""
        old, new = ([caption.encode()[t.start : t.stop] for t in tokens] for caption, tokens in self._sides())
        same = self.matrix > 1 - 1e-9
        same = same & torch.tensor([[a == b for b in new] for a in old])
        rows, columns = ((~same.any(axis)).nonzero().flatten().tolist() for axis in (1, 0))
        return [i for i in rows if self.before[i]], [j for j in columns if self.after[j]]

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
            before.update(holding(self.before, old))
            after.update(holding(self.after, new))
        columns = self.matrix[:, sorted(after)].any(1).nonzero().flatten().tolist() if after else []
        rows = self.matrix[sorted(before)].any(0).nonzero().flatten().tolist() if before else []
        return sorted(before | set(columns)), sorted(after | set(rows))

    def _sides(self) -> tuple[tuple[str, Tokens], tuple[str, Tokens]]:
        return (self.source, self.before), (self.target, self.after)

    def tokens_of(self, word: str, side: str) -> list[int]:
        """The tokens of a word in the ``source`` or the ``target``; none where it is not in it."""
        caption, tokens = self._sides()[side == "target"]
        return holding(tokens, places(caption, word))

    def factors(self, reweight: Mapping[str, float]) -> Tensor:
        """How much each token of the target is weighted by: 1, or what is said of its word; float64 ``(L',)``.

        Raises:
            UserError: for a word that is not in the target, or a weight that is not a finite number.
        """
        check_instance("reweight", reweight, Mapping, "a mapping such as {'red': 2.0}")
        found = torch.ones(len(self.after), dtype=torch.float64)
        for word, factor in reweight.items():
            check_numbers(reweight=factor)
            found[holding(self.after, bytes_of(self.target, word))] = float(factor)
        return found


def holding(tokens: Tokens, chosen: Iterable[int]) -> list[int]:
    """The tokens that hold any of these bytes."""
    asked = set(chosen)
    return [i for i, token in enumerate(tokens) if asked.intersection(token)]


def align(source: str, target: str, tokenizer: Tokenizer = byte_tokens) -> Alignment:
    """The alignment of two captions: the longest runs of words in both stand for each other, the rest is swapped.

    Between two runs, words in the source alone are left out, words in the target alone are added, and words in both
    are swapped, all for all if their numbers differ.

    Args:
        source, target: the captions.
        tokenizer: which tokens a caption has; bytes if not given.
    """
    for name, caption in (("source", source), ("target", target)):
        check_instance(name, caption, str, "a caption")
    before, after = pieces(source), pieces(target)
    rows, columns = tokenizer(source), tokenizer(target)
    read = {b for token in columns for b in token}  # a space may be of no token
    matrix = torch.zeros(len(source.encode()), len(target.encode()), dtype=torch.float64)
    match = difflib.SequenceMatcher(None, [p.text for p in before], [p.text for p in after], autojunk=False)
    for what, i, j, k, m in match.get_opcodes():
        if what in ("equal", "replace"):
            old = range(before[i].first, before[j - 1].last)
            new = range(after[k].first, after[m - 1].last)
            if what == "equal":
                matrix[list(old), list(new)] = 1
            elif there := [b for b in new if b in read]:
                matrix[old.start : old.stop, there] = 1 / len(there)
    member = lambda tokens, length: torch.tensor(
        [[float(b in token) for b in range(length)] for token in tokens], dtype=torch.float64
    ).reshape(len(tokens), length)
    left, right = member(rows, len(matrix)), member(columns, matrix.shape[1])
    tokens = left @ matrix @ right.T / left.sum(1, keepdim=True).clamp_min(1)
    ends = [j for j, token in enumerate(columns) if not token]
    for number, i in enumerate(i for i, token in enumerate(rows) if not token):
        tokens[i, ends[min(number, len(ends) - 1)]] = 1
    return Alignment(source, target, rows, columns, tokens)
