"""How a network is read as a law of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softplus

from .._errors import UserError, unknown
from ..distributions import Categorical
from ..processes import Chain, Process, as_time
from .parameterization import TIME_INPUTS, Parameterization, TimeInputs, Variance

Head = Callable[[Chain, Tensor, Tensor, Tensor], Tensor]


def values(chain: Chain, x: Tensor) -> Tensor:
    """Ordinals 0…K − 1 as real numbers from −1 to 1, in float32; states that no data have are 0."""
    return torch.where(x < chain.classes, 2 * x.to(torch.float32) / max(chain.classes - 1, 1) - 1, 0.0)


def _evidence(chain: Chain, raw: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    seen = chain.likelihood(x_t, t)
    # Where no datum leads to x_t (a prompt at t = 1) the state says nothing.
    seen = torch.where((seen > 0).any(-1, keepdim=True), seen, 1.0)
    return log_softmax(raw, -1) + torch.log(seen)


def _ordinal(chain: Chain, raw: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    r"""log of the logistic law's mass in the bin of each level: differences of log σ without cancellation."""
    loc = torch.tanh(values(chain, x_t).to(raw) + raw[..., 0])[..., None]
    inverse = torch.exp(-(raw[..., 1] - 2.0).clamp(-7.0, 7.0))[..., None]
    half = 1 / max(chain.classes - 1, 1)
    level = values(chain, torch.arange(chain.classes, device=raw.device)).to(raw)
    upper, lower = (level + half - loc) * inverse, (level - half - loc) * inverse
    # log(σ(u) − σ(l)) = log(1 − e^{l−u}) − softplus(−u) − softplus(l)
    return torch.log(-torch.expm1(lower - upper)) - softplus(-upper) - softplus(lower)


HEADS: dict[str, tuple[Head, int]] = {
    "logits": (lambda chain, raw, x_t, t: raw, 0),
    "evidence": (_evidence, 0),
    "ordinal": (_ordinal, 2),
}
"""What a network's output at a position stands for: a function to log-weights ``(B, *event, K)``, and the number of
outputs a position (0 for K)."""


@dataclass(frozen=True)
class TokenParameterization(Parameterization):
    r"""A network's output as independent laws of the clean tokens: :math:`b(x_0 = k) \propto e^{\ell_k}` a position.

    The x_0-parameterisation of D3PM (Austin et al. 2021, arXiv:2107.03006 §3.3), with the outputs y standing for

    * ``logits``: :math:`\ell = y`, the belief itself;
    * ``evidence``: :math:`\ell_k = \log \mathrm{softmax}(y)_k + \log q(x_t | x_0 = k)`: y is what the *other* positions
      say about this one, and its own state is taken in by Bayes' rule. The paper's
      :math:`p_θ(x_s | x_t) \propto \sum_k q(x_s, x_t | x_0 = k)\, \mathrm{softmax}(y)_k` (eq. 4) is this belief,
      reversed;
    * ``ordinal``: a logistic law with location :math:`\tanh(x_t + y_1)` and scale :math:`e^{y_2 - 2}`, its mass in each
      level's bin, renormalised to the levels there are (app. "truncated logistic"); for tokens that are levels.

    The network sees the states one-hot, ``(B, C·S, *size)`` for data ``(C, *size)`` and ``(B, S, L)`` for sequences
    ``(L,)``; with ``ordinal`` it sees a value in [−1, 1] and whether the state is none of the data's.

    Args:
        prediction: a row of ``HEADS``.
        time: a row of ``TIME_INPUTS`` that chains know: ``time``.
    """

    kind: ClassVar[str] = "tokens"

    prediction: str = "evidence"
    time: str = "time"

    def __post_init__(self) -> None:
        if self.prediction not in HEADS:
            raise unknown("prediction", self.prediction, HEADS)
        if self.time != "time":
            if self.time not in TIME_INPUTS:
                raise unknown("time input", self.time, TIME_INPUTS)
            raise UserError(f"time input must be 'time' for tokens, got {self.time!r}")

    def check(self, process: Process) -> None:
        if not isinstance(process, Chain):
            raise UserError(f"prediction {self.prediction!r} needs a chain on tokens, got {type(process).__name__}")

    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        assert isinstance(process, Chain)
        channels, size = (1, shape) if len(shape) == 1 else (shape[0], shape[1:])
        given = 2 if self.prediction == "ordinal" else process.states
        return (channels * given, *size), channels * (HEADS[self.prediction][1] or process.classes)

    def precondition(self, process: Process, x_t: Tensor, now: TimeInputs) -> Tensor:
        assert isinstance(process, Chain)
        process.check(x_t, process.states, "x_t")
        if self.prediction == "ordinal":
            features = torch.stack((values(process, x_t), (x_t >= process.classes).to(torch.float32)), -1)
        else:
            features = one_hot(x_t, process.states).to(torch.float32)
        if x_t.ndim == 2:  # a sequence has no channels of its own
            return features.movedim(-1, 1)
        return features.movedim(-1, 2).flatten(1, 2)

    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: TimeInputs, variance: Variance | None = None
    ) -> Categorical:
        assert isinstance(process, Chain)
        apart = out if x_t.ndim == 2 else out.unflatten(1, (x_t.shape[1], -1))
        raw = apart.movedim(1 if x_t.ndim == 2 else 2, -1).to(torch.float64)
        weights = HEADS[self.prediction][0](process, raw, x_t, as_time(now.t))
        return Categorical(torch.softmax(weights, -1))
