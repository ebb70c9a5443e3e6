"""A classifier of noisy data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, shown
from ..processes import Process
from .base import EvaluationCounter
from .noisy import NoisyDataModel


@dataclass(frozen=True, eq=False, repr=False)
class NoisyClassifier(NoisyDataModel):
    r"""``classifier(x_t, t)`` is log p(label | x_t), ``(B, K)`` (arXiv:2105.05233 §4).

    The network is shown :math:`x_t / \sqrt{σ^2 + α^2 σ_d^2}` and the time as ``log_sigma``; differentiable in x_t.

    Args:
        network: called as ``network(x, time, condition)``, returns K logits ``(B, K)``.
        process: of scalar-Gaussian noise.
        data: the description of the data, with the names of the classes.
        sigma_data: RMS of the data, σ_d > 0.
        config: how the model was made, as plain JSON.
        counter: where evaluations are counted.
    """

    network: nn.Module
    process: Process
    data: Any
    sigma_data: float
    config: Mapping[str, Any] = field(default_factory=dict)
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)
    kind = "classifier"
    what = "a classifier of noisy data"

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"NoisyClassifier({type(self.network).__name__} {count / 1e6:.2f} M, {self.process}) of {self.data}"

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != self.shape:
            got = tuple(x_t.shape) if isinstance(x_t, Tensor) else shown(x_t)
            raise UserError(f"x_t must have shape (B, {', '.join(map(str, self.shape))}), got {got}")
        x, time = self.precondition(x_t, t)
        self.counter.calls += 1
        logits: Tensor = self.network(x, time, None)
        return torch.log_softmax(logits.to(torch.promote_types(x_t.dtype, torch.float32)), -1)
