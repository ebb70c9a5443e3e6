r"""Reverse channel coding of normal noise by a tree of shared random numbers.

A receiver knows p(y); a sender, who also knows q(y), picks a y from numbers both can make, and sends which. Whatever
the method this takes KL(q ‖ p) bits or more, and one choice among :math:`2^K` candidates takes about :math:`\log_2 K`
bits too many (Theis and Yosri 2022, arXiv:2110.12805): a quarter of a block that is small enough to be searched. Here
all coordinates are one long code word. A path through a tree gives every small block of coordinates its candidate; the
numbers at a node are drawn anew from the path that leads there, so that the :math:`2^K` leaves are as many code words;
and a beam of the heaviest paths is followed, as in index coding (Flamich et al. 2020, arXiv:2010.01185, §3) and in
tree coding of sources. The end of a path loses some bits, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributions import Noise, Stream

BEAM = 32768
"""Paths that a sender follows, its own choice: what it loses falls with the square of the logarithm of this number."""

PATH = 4096
"""Bits of a path at least, if there are so many: two or three of them are lost where it ends."""

ROWS = 2**14
"""Blocks of normal numbers to choose among: overlapping windows of one sequence."""

DEEP = 12
"""Bits a coordinate at most."""


@dataclass(frozen=True)
class Layout:
    """How ``count`` coordinates and ``wanted`` bits are cut: a function of these two numbers alone.

    Attributes:
        paths: independent trees.
        blocks: nodes of a path.
        bits: of the choice at a node.
    """

    count: int
    wanted: int

    @property
    def bits(self) -> int:
        return max(2, -(-self.wanted // self.count))

    @property
    def paths(self) -> int:
        return max(1, self.wanted // PATH)

    @property
    def blocks(self) -> int:
        return -(-self.wanted // (self.bits * self.paths))

    @property
    def total(self) -> int:
        """Bits that are sent, ``wanted`` rounded up to whole choices."""
        return self.paths * self.blocks * self.bits

    def windows(self) -> tuple[Tensor, Tensor]:
        """First coordinate and number of coordinates of every block, int64 ``(paths, blocks)``."""
        count = self.paths * self.blocks
        edges = torch.arange(count + 1) * self.count // count
        return edges[:-1].reshape(self.paths, self.blocks), edges.diff().reshape(self.paths, self.blocks)


_ODD = (-7046029254386353131, -4658895280553007687)
"""Odd multipliers of SplitMix64."""


def _children(state: Tensor, words: Tensor) -> Tensor:
    """64 bits for each pair of a state and a word, broadcast: multiply, shift, multiply, in integers that wrap."""
    x = (state + words * _ODD[1]).mul_(_ODD[0])
    return x.bitwise_xor_(x >> 29).mul_(_ODD[1])


class Book:
    """The numbers both sides make from a noise of one sample, and the order in which coordinates are taken."""

    def __init__(self, layout: Layout, noise: Noise) -> None:
        self.layout = layout
        self.first, self.size = layout.windows()
        self.width = int(self.size.max())
        numbers = noise.fold_in(Stream.ROTATION).normal((ROWS + self.width - 1,))[0].float()
        self.table = numbers.unfold(0, self.width, 1)
        # Neighbours err together: in any other order every block holds the same share of what is to be said.
        self.order = torch.argsort(noise.fold_in(Stream.BRANCHES).uniform((layout.count,))[0], stable=True)

    def roots(self) -> Tensor:
        """The state at the root of each path, int64 ``(paths,)``."""
        return _children(torch.arange(self.layout.paths), torch.tensor(-1))

    def row(self, state: Tensor) -> Tensor:
        """The row of the table that stands at a node."""
        return (state >> 40) & (ROWS - 1)


def send(
    linear: Tensor, square: Tensor, wanted: int, noise: Noise, progress: Callable[[float], None] | None = None
) -> tuple[Tensor, Tensor]:
    r"""Choices whose numbers z weigh most.

    .. math:: \log w = \sum_i (\mathrm{linear}_i z_i + \mathrm{square}_i z_i^2)

    For q = N(m, u) against p = N(0, v), both of y = √v z, that is linear = √v m/u and square = (1 − v/u)/2.

    Args:
        linear, square: float64 ``(n,)``.
        wanted: bits to spend, about KL(q ‖ p): with fewer, the result is further from q than noise is; 1…12·n.
        noise: of one sample, shared with the receiver.
        progress: called with the share that is done.

    Returns:
        Choices, int64 ``(paths, blocks)``, and the standard normal numbers they stand for, float64 ``(n,)``.
    """
    layout = Layout(linear.numel(), wanted)
    book = Book(layout, noise)
    inside = torch.arange(book.width) < book.size[..., None]
    place = (book.first[..., None] + torch.arange(book.width)).clamp_max(layout.count - 1)
    take = lambda v: torch.where(inside, v[book.order][place], 0.0).float()
    linear, square = take(linear), take(square)
    chosen = torch.empty(layout.paths, layout.blocks, dtype=torch.int64)
    for i in range(layout.paths):
        for share in _search(book, i, linear[i], square[i], chosen[i]):
            if progress is not None:
                progress((i + share) / layout.paths)
    return chosen, receive(chosen, layout, noise, book)


def _search(book: Book, path: int, linear: Tensor, square: Tensor, chosen: Tensor) -> Iterator[float]:
    """Write the choices on the heaviest path that a beam finds to ``chosen (blocks,)``; yields the share done."""
    bits = book.layout.bits
    words = torch.arange(2**bits)
    state, weight = book.roots()[path, None], torch.zeros(1)
    table = book.table.contiguous()
    squares = table.square()
    trail = []
    for few, fewer in zip(linear.split(64), square.split(64)):
        # Every row's weight in these blocks at once: two products of matrices instead of a look-up a candidate.
        for gain in (few @ table.T).addmm_(fewer, squares.T):
            state = _children(state[:, None], words).flatten()
            weight = (weight[:, None] + gain[book.row(state)].reshape(-1, 2**bits)).flatten()
            weight, index = weight.topk(min(BEAM, len(weight)), sorted=False)
            state = state[index]
            trail.append(index.to(torch.int32))
        weight = weight - weight.max()
        yield len(trail) / len(chosen)
    best = weight.argmax()
    for j in reversed(range(len(trail))):
        index = trail[j][best].to(torch.int64)
        chosen[j], best = index & (2**bits - 1), index >> bits


def receive(choices: Tensor, layout: Layout, noise: Noise, book: Book | None = None) -> Tensor:
    """The standard normal numbers, float64 ``(n,)``, that the choices ``(paths, blocks)`` stand for."""
    book = Book(layout, noise) if book is None else book
    result = torch.empty(layout.count, dtype=torch.float64)
    state = book.roots()
    columns = torch.arange(book.width)
    for j in range(layout.blocks):
        state = _children(state, choices[:, j])
        inside = columns < book.size[:, j, None]
        place = (book.first[:, j, None] + columns)[inside]
        result[book.order[place]] = book.table[book.row(state)][inside].double()
    return result


def information(mean: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""KL(N(mean, u) ‖ N(0, v)) of each coordinate in bits: :math:`\tfrac12 (u/v + m^2/v - 1 - \log u/v) / \log 2`."""
    ratio = u / v
    return 0.5 * (ratio + mean**2 / v - 1 - torch.log(ratio)) / math.log(2)
