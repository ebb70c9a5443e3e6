"""Chains on tokens: what every chain answers, from three sums over its states."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._errors import UserError, shown
from ..distributions import Categorical, Distribution, FiniteSet
from .base import Process, check_times


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
        if not isinstance(x, Tensor) or x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else shown(x)
            raise UserError(f"{name} must hold int64 tokens in [0, {states}), got {got}")
        outside = x[(x < 0) | (x >= states)]
        if outside.numel():
            raise UserError(f"{name} must hold int64 tokens in [0, {states}), got {int(outside[0])}")

    def marginal(self, x0: Tensor, t: Tensor | float) -> Categorical:
        self.check(x0, self.classes, "x0")
        (t,) = check_times(t=t)
        return Categorical(self.transition_row(x0, 0.0, t))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Categorical:
        self.check(x_s, self.states, "x_s")
        s, t = check_times(s=s, t=t)
        return Categorical(self.transition_row(x_s, s, t))

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Categorical:
        self.check(x0, self.classes, "x0")
        belief = Categorical(one_hot(x0, self.classes).to(torch.float64))
        t, s = check_times(t=t, s=s)
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


def check_classes(classes: int, low: int, high: int) -> None:
    if type(classes) is not int or classes < low:
        raise UserError(f"classes must be an integer of at least {low}, got {classes!r}")
    if classes > high:
        raise UserError(f"classes must be at most {high}, got {classes}")
