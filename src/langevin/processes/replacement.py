"""Replacement chains: tokens are kept or drawn anew, into a mask (absorbing) or any token (uniform)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._errors import unknown
from .._registry import register
from ..distributions import Categorical
from .base import as_time, expand, one_of
from .discrete import Chain, check_classes

_PROOF = "exact: tests/processes/test_discrete.py"

CLASSES = 2**20
"""Tokens of a replacement chain at most."""


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
        return Categorical(self.target().expand(*one_of(shape), self.states))


@register("processes", "absorbing", title="Absorbing (mask) chain", arxiv="2107.03006", proof=_PROOF)
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
        check_classes(self.classes, 1, CLASSES)
        self._check_schedule()

    def information(self, alpha: Tensor) -> Tensor:
        return alpha * math.log(self.classes)

    @property
    def states(self) -> int:
        return self.classes + 1

    def target(self) -> Tensor:
        return one_hot(torch.tensor(self.classes), self.states).to(torch.float64)


@register("processes", "uniform", title="Uniform replacement chain", arxiv="2107.03006", proof=_PROOF)
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
        check_classes(self.classes, 2, CLASSES)
        self._check_schedule()

    def information(self, alpha: Tensor) -> Tensor:
        other = (1 - alpha) / self.classes
        own = alpha + other
        return math.log(self.classes) + torch.xlogy(own, own) + (self.classes - 1) * torch.xlogy(other, other)

    def target(self) -> Tensor:
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)
