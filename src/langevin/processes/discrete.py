"""Chains on tokens: replacement (absorbing, uniform), tables of matrices, and moves between neighbours."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._errors import UserError, unknown
from .._registry import register
from ..distributions import Categorical, Distribution, FiniteSet
from .base import Process, as_time, expand

MOST = 2**26
"""Numbers in the tables of a chain at most, half a gigabyte: K = 256 levels at N = 1000 steps."""

CLASSES = 2**20
"""Tokens of a replacement chain at most."""

DENSE = 1024
"""Tokens of a chain of neighbours at most, whose matrices are multiplied."""


def _tensor(name: str, value: Any) -> Tensor:
    """Nested lists of numbers as float64, or a ``UserError`` that names them."""
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{name} must be rows of numbers, all of one length ({error})") from None


def _classes(classes: int, low: int, high: int = CLASSES) -> None:
    if type(classes) is not int or classes < low:
        raise UserError(f"classes must be an integer of at least {low}, got {classes!r}")
    if classes > high:
        raise UserError(f"classes must be at most {high}, got {classes}")


class Chain(Process):
    r"""A Markov chain on S states, independent at every position of the event; data use the first K ≤ S.

    The subclass answers three sums over states; marginal, bridge and reverse follow. Written with
    :math:`Q_{s \to t}` for the transition matrix, :math:`\bar Q_t = Q_{0 \to t}` (Austin et al. 2021,
    arXiv:2107.03006 eq. 3).
    """

    discrete: ClassVar[bool] = True
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


def _cosine(chain: Replacement, t: Tensor) -> Tensor:
    r""":math:`f(t)/f(0), f(t) = \cos^2\big(\tfrac{π}{2} \tfrac{t + 0.008}{1.008}\big)` (arXiv:2102.09672 eq. 17).

    It is 0 at t = 1 and 1 at t = 0 to the bit: a prior of masks alone gives a state with any chance of being unmasked
    the probability 0, and the bound is then infinite. So the cosine is written as the sine of what is left to t = 1.
    """
    kept = torch.sin(math.pi / 2 * (1 - t) / 1.008) / math.sin(math.pi / 2 / 1.008)
    return torch.where(t == 0, 1.0, kept**2)


def _information(chain: Replacement, t: Tensor) -> Tensor:
    """α at which a uniform x_0 and x_t share the part 1 − t of log K nats (arXiv:2107.03006 app. A.7), by bisection."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        middle = (low + high) / 2
        enough = chain.information(middle) > (1 - t) * math.log(chain.classes)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(t == 0, 1.0, torch.where(t == 1, 0.0, (low + high) / 2))


SCHEDULES: dict[str, Callable[[Replacement, Tensor], Tensor]] = {
    "linear": lambda chain, t: 1 - t,
    "cosine": _cosine,
    "mutual-information": _information,
}
"""α(t), the probability that a token is still its own."""


class Replacement(Chain):
    r"""Tokens are kept, or replaced by a draw from π: :math:`q(x_t | x_0) = α_t δ_{x_0} + (1 - α_t) π`, in O(S).

    :math:`q(x_t | x_s) = r δ_{x_s} + (1 - r) π` with :math:`r = α_t / α_s`.
    """

    schedule: str

    @abstractmethod
    def target(self) -> Tensor:
        """π, ``(S,)``."""

    @abstractmethod
    def information(self, alpha: Tensor) -> Tensor:
        """I(x_0; x_t) in nats for uniform x_0, where tokens are kept with probability α."""

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)

    def keep(self, t: Tensor) -> Tensor:
        """α(t), the probability that a token is still its own."""
        return SCHEDULES[self.schedule](self, t)

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
    proof="exact: tests/processes/test_discrete.py",
)
@dataclass(frozen=True)
class Absorbing(Replacement):
    """Tokens turn into a mask and stay masked (arXiv:2107.03006 §3.1); the mask is state K.

    Args:
        classes: K ≥ 1, the number of data tokens.
        schedule: a row of ``SCHEDULES``; ``linear`` is that of mutual information, since x_t tells all or nothing.
    """

    classes: int
    schedule: str = "linear"

    def __post_init__(self) -> None:
        _classes(self.classes, 1)
        self._check_schedule()

    def information(self, alpha: Tensor) -> Tensor:
        return alpha * math.log(self.classes)

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
    proof="exact: tests/processes/test_discrete.py",
)
@dataclass(frozen=True)
class Uniform(Replacement):
    """Tokens are replaced by uniform ones (arXiv:2107.03006 §3.1; binomial diffusion of arXiv:1503.03585 at K = 2).

    Args:
        classes: K ≥ 2.
        schedule: a row of ``SCHEDULES``; the paper takes ``cosine``.
    """

    classes: int
    schedule: str = "linear"

    def __post_init__(self) -> None:
        _classes(self.classes, 2)
        self._check_schedule()

    def information(self, alpha: Tensor) -> Tensor:
        other = (1 - alpha) / self.classes
        own = alpha + other
        return math.log(self.classes) + torch.xlogy(own, own) + (self.classes - 1) * torch.xlogy(other, other)

    def target(self) -> Tensor:
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)


def _normalised(q: Tensor) -> Tensor:
    """Rows that sum to 1: without it their rounding doubles in each squaring."""
    return q / q.sum(-1, keepdim=True)


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
        return Categorical(row.expand(1, *shape, self.states))


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
    """A table that is given.

    Args:
        transitions: ``(N, S, S)``, rows ≥ 0 that sum to 1; ``transitions[n-1]`` leads from knot n − 1 to n.
        classes: K, the number of data tokens; S if not given.
    """

    transitions: Tensor
    classes: int = 0
    _products: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        q = _tensor("transitions", self.transitions)
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

    with G[i, j] = 1 where j is one of the k nearest of i. R is symmetric, so that the uniform law stays. The clock a is
    that of mutual information: a uniform x_0 and x_t share the part 1 − t of log K nats (app. A.7), down to 10⁻⁵.

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
    _clock: tuple[Tensor, Tensor] = field(init=False)
    _kept: dict[tuple[float, float], Tensor] = field(default_factory=dict, init=False)

    LEAST = 1e-5
    """The share of information left at t = 1."""
    KEPT = 2**22
    """Numbers of matrices that are kept."""

    def __post_init__(self) -> None:
        _classes(self.classes, 2, DENSE)
        levels = [[float(k)] for k in range(self.classes)]
        points = _tensor("embedding", levels if self.embedding is None else self.embedding)
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
        object.__setattr__(self, "_clock", self._measured())

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

    def clock(self, t: Tensor) -> Tensor:
        """a(t), 0 at t = 0, increasing."""
        log_a, logit = self._clock
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
            new = self._exponential(self.clock(t[missing]) - self.clock(s[missing]))
            made = {pairs[i]: q for i, q in zip(missing, new)}
            found |= made
            if (len(self._kept) + len(made)) * self.classes**2 <= self.KEPT:
                self._kept.update(made)
        return torch.stack([found[pair] for pair in pairs])
