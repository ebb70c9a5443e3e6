"""A classifier of noisy data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, shown
from ..processes import Process, ScalarGaussian, as_time, expand, require
from .base import EvaluationCounter
from .parameterization import TIME_INPUTS


@dataclass(frozen=True, eq=False, repr=False)
class NoisyClassifier:
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

    def __post_init__(self) -> None:
        require(self.process, ScalarGaussian, "a classifier of noisy data")
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data must be > 0, got {self.sigma_data}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of the data."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """None: it says what a condition is."""
        return {}

    def counted(self) -> NoisyClassifier:
        """The same with a counter of its own."""
        return replace(self, counter=EvaluationCounter())

    def conditions(self) -> tuple[str, ...]:
        """None: it says what a condition is."""
        return ()

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"NoisyClassifier({type(self.network).__name__} {count / 1e6:.2f} M, {self.process}) of {self.data}"

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != self.shape:
            got = tuple(x_t.shape) if isinstance(x_t, Tensor) else shown(x_t)
            raise UserError(f"x_t must have shape (B, {', '.join(map(str, self.shape))}), got {got}")
        x, time = preconditioned(x_t, t, self.process, self.sigma_data, self.dtype, self.device)
        self.counter.calls += 1
        logits: Tensor = self.network(x, time, None)
        return torch.log_softmax(logits.to(torch.promote_types(x_t.dtype, torch.float32)), -1)


def preconditioned(
    x_t: Tensor, t: Tensor | float, process: Process, sigma_data: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    r"""What a network that recognises noisy data is shown: :math:`x_t / \sqrt{σ^2 + α^2 σ_d^2}`, and the time.

    Args:
        x_t: states ``(B, *shape)`` at times t, ``()`` or ``(B,)``.
        process: of scalar-Gaussian noise.
        sigma_data: σ_d, RMS of the data.
        dtype, device: the network's.

    Returns:
        The states in the dtype of the network, and ``log_sigma`` of the times, ``(B,)``, in float32 at least.
    """
    own: ScalarGaussian = require(process, ScalarGaussian, "a network of noisy data")
    t = as_time(t)
    scale = (own.sigma(t) ** 2 + own.alpha(t) ** 2 * sigma_data**2) ** -0.5
    time = TIME_INPUTS["log_sigma"](own, t).to(device, torch.promote_types(dtype, torch.float32))
    return (x_t * expand(scale, x_t).to(x_t)).to(dtype), time.expand(len(x_t))
