"""Chains given by matrices: tables of any transitions, and levels that move as a Gaussian would."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Categorical
from .base import as_time, one_of
from .discrete import Chain

MOST = 2**26
"""Numbers in the tables of a chain at most, half a gigabyte: K = 256 levels at N = 1000 steps."""


def as_table(name: str, value: Any) -> Tensor:
    """Nested lists of numbers as float64, or a ``UserError`` that names them."""
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{name} must be rows of numbers, all of one length ({error})") from None


class MatrixChain(Chain):
    """A chain whose sums are products with the matrices between two times."""

    @abstractmethod
    def matrices(self, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`Q_{s \to t}` of pairs of times ``(U,)`` s ≤ t, float64 ``(U, S, S)``."""

    def _matrices(self, s: Tensor | float, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """The different matrices ``(U, S, S)``, and which one is a sample's, ``(B or 1,)``."""
        pairs = torch.stack(torch.broadcast_tensors(as_time(s), as_time(t)), -1).reshape(-1, 2)
        different, which = torch.unique(pairs.cpu(), dim=0, return_inverse=True)
        return self.matrices(*different.unbind(-1)).to(like.device), which.to(like.device)

    def _picked(self, q: Tensor, which: Tensor, x: Tensor) -> Tensor:
        """Rows x of a sample's own matrix, ``(B, *event, S)``."""
        return q[which.reshape(-1, *[1] * (x.ndim - 1)), x]

    def forward(self, weights: Tensor, t: Tensor | float) -> Tensor:
        q, which = self._matrices(0.0, t, weights)
        flat = weights.reshape(weights.shape[0], -1, self.classes)
        return (flat @ q[which, : self.classes]).reshape(*weights.shape[:-1], self.states)

    def transition_row(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        q, which = self._matrices(s, t, x_s)
        return self._picked(q, which, x_s)

    def transition_column(self, x_t: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        q, which = self._matrices(s, t, x_t)
        return self._picked(q.mT, which, x_t)

    def prior(self, shape: tuple[int, ...]) -> Categorical:
        """The mean row of Q̄_1 over data tokens: what the chain has forgotten its start to, if it has."""
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        row = self.matrices(*ends)[0, : self.classes].mean(0)
        return Categorical(row.expand(*one_of(shape), self.states))


class TableChain(MatrixChain):
    r"""A table of transition matrices Q_1…Q_N; knot n stands at t = n/N, and other times are a ``ValueError``.

    Products :math:`Q_{s \to t} = Q_{s+1} \cdots Q_t` are made when first asked for and kept; nothing is inverted.
    """

    transitions: Tensor
    _products: dict[tuple[int, int], Tensor]

    @property
    def states(self) -> int:
        return int(self.transitions.shape[1])

    @property
    def steps(self) -> int:
        """N."""
        return int(self.transitions.shape[0])

    @property
    def t_min(self) -> float:
        return 1 / self.steps

    def knot(self, t: Tensor | float) -> Tensor:
        """n of t = n/N, int64; a time between the knots is a ``ValueError``."""
        scaled = as_time(t) * self.steps
        n = torch.round(scaled)
        off = (scaled - n).abs() > 1e-6
        if off.any():
            raise UserError(
                f"t must be a knot n/{self.steps} of the table, got {float(scaled[off][0]) / self.steps:.6g}"
            )
        return n.long()

    def product(self, m: int, n: int) -> Tensor:
        """The matrix from knot m to knot n ≥ m, ``(S, S)``."""
        if m > n:
            raise UserError(f"a chain runs from s to t >= s, got knots {m} and {n}")
        if (m, n) not in self._products:
            # Continue the longest product from m that is already there.
            start = max((b for a, b in self._products if a == m and b < n), default=m)
            q = self._products.get((m, start), torch.eye(self.states, dtype=torch.float64))
            for i in range(start, n):
                q = q @ self.transitions[i]
            self._products[m, n] = q
        return self._products[m, n]

    def matrices(self, s: Tensor, t: Tensor) -> Tensor:
        return torch.stack([self.product(m, n) for m, n in zip(self.knot(s).tolist(), self.knot(t).tolist())])


@register(
    "processes",
    "chain",
    title="General finite-state chain",
    arxiv="2107.03006",
    proof="exact: tests/processes/test_discrete.py",
)
@dataclass(frozen=True, eq=False, repr=False)
class FiniteChain(TableChain):
    """A chain whose transition matrices are given.

    Args:
        transitions: ``(N, S, S)``, rows ≥ 0 that sum to 1; ``transitions[n-1]`` leads from knot n − 1 to n.
        classes: K, the number of data tokens; S if not given.
    """

    transitions: Tensor
    classes: int = 0
    _products: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        q = as_table("transitions", self.transitions)
        if q.ndim != 3 or q.shape[1] != q.shape[2] or not q.numel():
            raise UserError(f"transitions must have shape (N, S, S), got {tuple(q.shape)}")
        if not (q >= 0).all() or not torch.allclose(q.sum(-1), torch.ones_like(q[..., 0]), atol=1e-9):
            raise UserError("transitions must have rows that are >= 0 and sum to 1")
        object.__setattr__(self, "transitions", q)
        object.__setattr__(self, "classes", self.classes or q.shape[1])
        if not 1 <= self.classes <= q.shape[1]:
            raise UserError(f"classes must lie in [1, {q.shape[1]}], got {self.classes}")

    def __repr__(self) -> str:
        return f"FiniteChain(N={self.steps}, states={self.states}, classes={self.classes})"

    def to_dict(self) -> dict[str, Any]:
        return {"name": "chain", "transitions": self.transitions.tolist(), "classes": self.classes}


@register(
    "processes",
    "discretised-gaussian",
    title="Discretised Gaussian chain on ordinals",
    arxiv="2107.03006",
    proof="exact: tests/processes/test_ordinal_chains.py",
)
@dataclass(frozen=True)
class DiscretisedGaussian(TableChain):
    r"""Levels move to near levels as a Gaussian on [−1, 1] would (arXiv:2107.03006 §3.1, app. A.2.3):

    .. math:: Q_n[i, j] = \frac{e^{-4 |i-j|^2 / ((K-1)^2 β_n)}}{\sum_{m=-(K-1)}^{K-1} e^{-4 m^2 / ((K-1)^2 β_n)}},
        \quad i ≠ j, \qquad Q_n[i, i] = 1 - \sum_{j ≠ i} Q_n[i, j]

    Symmetric, so that the uniform law stays. The bands grow linearly in n from β_1 = ``beta_min``/N to β_N =
    ``beta_max``/N: at N = 1000 the paper's 10⁻⁴ to 0.02. A single step has ``beta_max``.

    Args:
        classes: K ≥ 2 levels.
        steps: N ≥ 1.
        beta_min, beta_max: β of the first and the last step, a unit of time, 0 < beta_min ≤ beta_max.
    """

    classes: int
    steps: int = 100
    beta_min: float = 0.1
    beta_max: float = 20.0
    transitions: Tensor = field(init=False, repr=False, compare=False)
    _products: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, low in (("classes", 2), ("steps", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < low:
                raise UserError(f"{name} must be an integer of at least {low}, got {getattr(self, name)!r}")
        if self.steps * self.classes**2 > MOST:
            raise UserError(f"steps * classes^2 must be at most {MOST}, got {self.steps} * {self.classes}^2")
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise UserError(
                f"beta_min, beta_max must satisfy 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )
        k = torch.arange(self.classes, dtype=torch.float64)
        beta = torch.linspace(self.beta_max, self.beta_min, self.steps, dtype=torch.float64).flip(0) / self.steps
        scale = (4 / ((self.classes - 1) ** 2 * beta))[:, None, None]
        weight = torch.exp(-scale * (k[:, None] - k) ** 2)
        q = weight / (2 * weight[:, :1].sum(-1, keepdim=True) - 1)  # both wings of the sum from one
        eye = torch.eye(self.classes, dtype=torch.float64)
        q = q * (1 - eye)
        object.__setattr__(self, "transitions", q + torch.diag_embed(1 - q.sum(-1)))
