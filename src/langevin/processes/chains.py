"""Chains on tokens: replacement (absorbing, uniform) and a general finite-state table."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._errors import UserError
from .._registry import register
from ..distributions import Categorical, Distribution, FiniteSet
from .base import Process, as_time, expand


class Chain(Process):
    r"""A Markov chain on S states, independent at every position of the event; data use the first K ≤ S.

    The subclass answers three sums over states; marginal, bridge and reverse follow. Written with
    :math:`Q_{s \to t}` for the transition matrix, :math:`\bar Q_t = Q_{0 \to t}` (Austin et al. 2021,
    arXiv:2107.03006 eq. 3).
    """

    classes: int

    @property
    def states(self) -> int:
        """S, the number of states of the chain."""
        return self.classes

    @abstractmethod
    def forward(self, weights: Tensor, t: Tensor | float) -> Tensor:
        r""":math:`\sum_k w_k \bar Q_t[k, j]`: ``(B, *event, K)`` to ``(B, *event, S)``."""

    @abstractmethod
    def transition_row(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        r""":math:`Q_{s \to t}[x_s, \cdot]`, ``(B, *event, S)``."""

    @abstractmethod
    def transition_column(self, x_t: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        r""":math:`Q_{s \to t}[\cdot, x_t]`, the likelihood of each earlier state, ``(B, *event, S)``."""

    def likelihood(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """q(x_t | x_0 = k) at every position, ``(B, *event, K)``."""
        return self.transition_column(x_t, 0.0, t)[..., : self.classes]

    def check(self, x: Tensor, states: int, name: str) -> None:
        """Tokens are int64 in [0, states)."""
        if x.is_floating_point():
            raise UserError(f"{name} must hold int64 tokens in [0, {states}), got {x.dtype}")
        outside = x[(x < 0) | (x >= states)]
        if outside.numel():
            raise UserError(f"{name} must hold int64 tokens in [0, {states}), got {int(outside[0])}")

    def marginal(self, x0: Tensor, t: Tensor | float) -> Categorical:
        self.check(x0, self.classes, "x0")
        return Categorical(self.transition_row(x0, 0.0, t))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Categorical:
        self.check(x_s, self.states, "x_s")
        return Categorical(self.transition_row(x_s, s, t))

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Categorical:
        self.check(x0, self.classes, "x0")
        belief = Categorical(one_hot(x0, self.classes).to(torch.float64))
        law = self.reverse(x_t, belief, t, s, eta)
        assert isinstance(law, Categorical)
        return law

    def reverse(
        self, x_t: Tensor, belief: Distribution, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> Distribution:
        r"""The true E_belief[q(x_s | x_t, x_0)]:

        .. math:: p(x_s = j) = Q_{s \to t}[j, x_t] \sum_k \frac{b_k}{\bar Q_t[k, x_t]} \bar Q_s[k, j]

        A belief about the positions jointly (a finite set of sequences) stays joint: it is drawn from, then bridged.
        """
        if eta != 1.0:
            raise UserError(f"eta must be 1 for {type(self).__name__} (no other bridge is defined), got {eta}")
        self.check(x_t, self.states, "x_t")
        if isinstance(belief, FiniteSet):
            return super().reverse(x_t, belief, t, s, eta)
        if not isinstance(belief, Categorical):
            raise UserError(f"belief must be Categorical or FiniteSet for tokens, got {type(belief).__name__}")
        if belief.probs.shape[-1] != self.classes:
            raise UserError(f"belief must be over {self.classes} classes, got {belief.probs.shape[-1]}")
        seen = self.likelihood(x_t, t)
        able = seen > 0
        weights = torch.where(able, belief.probs.to(torch.float64), 0.0) / torch.where(able, seen, 1.0)
        column = self.transition_column(x_t, s, t)
        law = column * self.forward(weights, s)
        # A belief that gives the evidence no chance says nothing: keep what the chain alone allows. A state that the
        # chain cannot be in (a prompt at t = 1) stays.
        for otherwise in (column * self.forward(torch.ones_like(weights), s), one_hot(x_t, self.states).to(law)):
            law = torch.where(law.sum(-1, keepdim=True) > 0, law, otherwise)
        return Categorical(law / law.sum(-1, keepdim=True))


class Replacement(Chain):
    r"""Tokens are kept, or replaced by a draw from π: :math:`q(x_t | x_0) = α_t δ_{x_0} + (1 - α_t) π`, in O(S).

    :math:`q(x_t | x_s) = r δ_{x_s} + (1 - r) π` with :math:`r = α_t / α_s`.
    """

    @abstractmethod
    def target(self) -> Tensor:
        """π, ``(S,)``."""

    def keep(self, t: Tensor) -> Tensor:
        """α(t), the probability that a token is still its own: 1 − t."""
        return 1 - t

    def _kept(self, s: Tensor | float, t: Tensor | float, like: Tensor) -> Tensor:
        s, t = as_time(s), as_time(t)
        start = self.keep(s)
        ratio = torch.where(start > 0, self.keep(t) / start.clamp_min(1e-300), (s == t).to(start))
        return expand(ratio, like)[..., None]

    def _pi(self, like: Tensor) -> Tensor:
        return self.target().to(device=like.device)

    def forward(self, weights: Tensor, t: Tensor | float) -> Tensor:
        kept = self._kept(0.0, t, weights[..., 0])
        padded = torch.nn.functional.pad(weights, (0, self.states - self.classes))
        return kept * padded + (1 - kept) * weights.sum(-1, keepdim=True) * self._pi(weights)

    def transition_row(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        kept = self._kept(s, t, x_s)
        return kept * one_hot(x_s, self.states).to(torch.float64) + (1 - kept) * self._pi(x_s)

    def transition_column(self, x_t: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        kept = self._kept(s, t, x_t)
        return kept * one_hot(x_t, self.states).to(torch.float64) + (1 - kept) * self._pi(x_t)[x_t][..., None]

    def prior(self, shape: tuple[int, ...]) -> Categorical:
        """π at every position."""
        return Categorical(self.target().expand(1, *shape, self.states))


@register(
    "processes",
    "absorbing",
    title="Absorbing (mask) chain",
    arxiv="2107.03006",
    catalogue="D1",
    proof="exact: tests/processes/test_chains.py",
)
@dataclass(frozen=True)
class Absorbing(Replacement):
    """Tokens turn into a mask and stay masked (arXiv:2107.03006 §3.1); the mask is state K.

    Args:
        classes: K ≥ 1, the number of data tokens.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"classes must be at least 1, got {self.classes}")

    @property
    def states(self) -> int:
        return self.classes + 1

    def target(self) -> Tensor:
        return one_hot(torch.tensor(self.classes), self.states).to(torch.float64)


@register(
    "processes",
    "uniform",
    title="Uniform replacement chain",
    arxiv="2107.03006",
    catalogue="D1",
    proof="exact: tests/processes/test_chains.py",
)
@dataclass(frozen=True)
class Uniform(Replacement):
    """Tokens are replaced by uniform ones (arXiv:2107.03006 §3.1; binomial diffusion of arXiv:1503.03585 at K = 2).

    Args:
        classes: K ≥ 2.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UserError(f"classes must be at least 2, got {self.classes}")

    def target(self) -> Tensor:
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)


@register(
    "processes",
    "chain",
    title="General finite-state chain",
    arxiv="2107.03006",
    catalogue="D1",
    proof="exact: tests/processes/test_chains.py",
)
@dataclass(frozen=True, eq=False)
class FiniteChain(Chain):
    r"""A table of transition matrices Q_1…Q_N; knot n stands at t = n/N, and other times are a ``ValueError``.

    Products :math:`Q_{s \to t} = Q_{s+1} \cdots Q_t` are made when first asked for and kept; nothing is inverted.

    Args:
        transitions: ``(N, S, S)``, rows ≥ 0 that sum to 1; ``transitions[n-1]`` leads from knot n − 1 to n.
        classes: K, the number of data tokens; S if not given.
    """

    transitions: Tensor
    classes: int = 0
    _products: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        q = torch.as_tensor(self.transitions, dtype=torch.float64)
        if q.ndim != 3 or q.shape[1] != q.shape[2]:
            raise UserError(f"transitions must have shape (N, S, S), got {tuple(q.shape)}")
        if not (q >= 0).all() or not torch.allclose(q.sum(-1), torch.ones_like(q[..., 0]), atol=1e-9):
            raise UserError("transitions must have rows that are >= 0 and sum to 1")
        object.__setattr__(self, "transitions", q)
        object.__setattr__(self, "classes", self.classes or q.shape[1])
        if not 1 <= self.classes <= q.shape[1]:
            raise UserError(f"classes must lie in [1, {q.shape[1]}], got {self.classes}")

    def __repr__(self) -> str:
        return f"FiniteChain(N={self.steps}, states={self.states}, classes={self.classes})"

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
        if ((scaled - n).abs() > 1e-6).any():
            raise UserError(f"t must be a knot n/{self.steps} of the table, got {t}")
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

    def _matrices(self, s: Tensor | float, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """The different matrices ``(U, S, S)``, and which one is a sample's, ``(B or 1,)``."""
        pairs = torch.stack(torch.broadcast_tensors(self.knot(s), self.knot(t)), -1).reshape(-1, 2)
        different, which = torch.unique(pairs.cpu(), dim=0, return_inverse=True)
        q = torch.stack([self.product(a, b) for a, b in different.tolist()])
        return q.to(like.device), which.to(like.device)

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
        """The mean row of Q̄_N over data tokens: what the chain has forgotten its start to, if it has."""
        row = self.product(0, self.steps)[: self.classes].mean(0)
        return Categorical(row.expand(1, *shape, self.states))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "chain", "transitions": self.transitions.tolist(), "classes": self.classes}
