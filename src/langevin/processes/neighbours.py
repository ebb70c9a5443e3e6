"""Tokens that move to those whose embeddings are near."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._errors import UserError
from .._registry import register
from .discrete import check_classes
from .tables import MOST, MatrixChain, as_table

DENSE = 1024
"""Tokens of a chain of neighbours at most, whose matrices are multiplied."""


@register(
    "processes",
    "neighbours",
    title="Embedding-neighbour chain",
    arxiv="2107.03006",
    proof="exact: tests/processes/test_ordinal_chains.py",
)
@dataclass(frozen=True, eq=False, repr=False)
class Neighbours(MatrixChain):
    r"""Tokens move to those whose embeddings are near (arXiv:2107.03006 §3.1, app. A.2.4), at any time:

    .. math:: A = \frac{G + G^T}{2k}, \quad R = A - \mathrm{diag}(A 1), \quad Q_{s \to t} = e^{(a(t) - a(s)) R}

    with G[i, j] = 1 where j is one of the k nearest of i. R is symmetric, so that the uniform law stays. The
    integrated rate a(t) is that of mutual information: a uniform x_0 and x_t share the part 1 − t of log K nats (app.
    A.7), down to 10⁻⁵.

    The exponential is a power series in R + c·1 ≥ 0, squared: sums and products of numbers ≥ 0, so that each entry,
    however small, is known to a relative rounding, which ``reverse`` divides by.

    Args:
        classes: K ≥ 2.
        embedding: K rows of numbers; the levels themselves if not given.
        nearest: k, in [1, K − 1]; enough that every token can be reached from every other.
    """

    classes: int
    embedding: Any = None
    nearest: int = 2
    generator: Tensor = field(init=False)
    _integrated: tuple[Tensor, Tensor] = field(init=False)
    _kept: dict[tuple[float, float], Tensor] = field(default_factory=dict, init=False)

    LEAST = 1e-5
    """The share of information left at t = 1."""
    KEPT = 2**22
    """Numbers of matrices that are kept."""

    def __post_init__(self) -> None:
        check_classes(self.classes, 2, DENSE)
        levels = [[float(k)] for k in range(self.classes)]
        points = as_table("embedding", levels if self.embedding is None else self.embedding)
        if points.ndim != 2 or points.shape[0] != self.classes or not points.isfinite().all():
            raise UserError(f"embedding must be ({self.classes}, E) numbers, got shape {tuple(points.shape)}")
        if self.classes * points.numel() > MOST:
            raise UserError(f"classes^2 times the embedding's length must be at most {MOST}, got {points.shape[1]}")
        if type(self.nearest) is not int or not 1 <= self.nearest < self.classes:
            raise UserError(f"nearest must be an integer in [1, {self.classes - 1}], got {self.nearest!r}")
        apart = (points[:, None] - points).square().sum(-1)
        apart.fill_diagonal_(math.inf)
        near = one_hot(apart.argsort(dim=-1, stable=True)[:, : self.nearest], self.classes).sum(1).to(torch.float64)
        joined = (near + near.T) / (2 * self.nearest)
        reached = (joined + torch.eye(self.classes) > 0).to(torch.float64)
        for _ in range(self.classes.bit_length()):
            reached = (reached @ reached > 0).to(torch.float64)
        if not reached.all():
            raise UserError(f"nearest must be larger than {self.nearest}: some tokens cannot be reached from others")
        object.__setattr__(self, "embedding", points.tolist())
        object.__setattr__(self, "generator", joined - torch.diag(joined.sum(-1)))
        object.__setattr__(self, "_integrated", self._measured())

    def __repr__(self) -> str:
        return f"Neighbours(classes={self.classes}, nearest={self.nearest})"

    def _measured(self) -> tuple[Tensor, Tensor]:
        """log a, and log of the information lost over that left, to interpolate between."""
        first = 1e-9 / self.classes * torch.exp2(torch.arange(8, dtype=torch.float64) / 8)
        q, shares = self._exponential(first), [torch.ones(8, dtype=torch.float64)]
        while shares[-1][0] > self.LEAST:  # an octave of a at a time: the next one is the square
            shares.append(1 + torch.xlogy(q, q).sum(-1).mean(-1) / math.log(self.classes))
            q = _normalised(q @ q)
        a = (first * torch.exp2(torch.arange(len(shares) - 1, dtype=torch.float64))[:, None]).reshape(-1)
        left = torch.cat(shares[1:]).clamp_min(1e-12)
        logit = torch.log((1 - left) / left)
        rising = torch.cat((torch.tensor([True]), logit[1:] > torch.cummax(logit, 0).values[:-1]))
        return torch.log(a[rising]), logit[rising]

    def integrated_rate(self, t: Tensor) -> Tensor:
        """a(t), 0 at t = 0, increasing."""
        log_a, logit = self._integrated
        lost = t * (1 - self.LEAST)
        at = torch.log(lost.clamp_min(1e-300)) - torch.log1p(-lost)
        i = torch.searchsorted(logit, at.contiguous()).clamp(1, len(logit) - 1)
        slope = (log_a[i] - log_a[i - 1]) / (logit[i] - logit[i - 1])
        return torch.where(t > 0, torch.exp(log_a[i - 1] + slope * (at - logit[i - 1])), 0.0)

    def _exponential(self, a: Tensor) -> Tensor:
        r""":math:`e^{aR} = \big(e^{-b} \sum_n \tfrac{b^n}{n!} (R/c + 1)^n\big)^{2^m}` with b = ac/2ᵐ ≤ 1, for a ≥ 0."""
        c = float(-self.generator.diagonal().min())
        power = self.generator / c + torch.eye(self.classes, dtype=torch.float64)
        halvings = torch.log2((a * c).clamp_min(0.5)).ceil().clamp_min(0)
        b = (a * c * 2.0**-halvings)[:, None, None]  # at most 1: 20 terms leave 1/20!
        term = torch.eye(self.classes, dtype=torch.float64).expand(len(a), -1, -1)
        total = term
        for n in range(1, 21):
            term = term @ power * (b / n)
            total = total + term
        q = total * torch.exp(-b)
        for m in range(int(halvings.max())):
            q = torch.where((halvings > m)[:, None, None], _normalised(q @ q), q)
        return _normalised(q)

    def matrices(self, s: Tensor, t: Tensor) -> Tensor:
        if (s > t).any():
            raise UserError(f"a chain runs from s to t >= s, got {float(s[s > t][0])} and {float(t[s > t][0])}")
        pairs = list(zip(s.tolist(), t.tolist()))
        found = {pair: self._kept[pair] for pair in pairs if pair in self._kept}
        missing = [i for i, pair in enumerate(pairs) if pair not in found]
        if missing:
            new = self._exponential(self.integrated_rate(t[missing]) - self.integrated_rate(s[missing]))
            made = {pairs[i]: q for i, q in zip(missing, new)}
            found |= made
            if (len(self._kept) + len(made)) * self.classes**2 <= self.KEPT:
                self._kept.update(made)
        return torch.stack([found[pair] for pair in pairs])


def _normalised(q: Tensor) -> Tensor:
    """Rows that sum to 1: without it their rounding doubles in each squaring."""
    return q / q.sum(-1, keepdim=True)
