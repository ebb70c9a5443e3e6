"""The moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, shown
from .distributed import local, spread, whole

LONGEST = 0.28
"""Of relative widths: a plain mean has 0.288."""

RAMP = 0.05
"""A constant half-life is at most this share of the images seen, so that the average forgets the first weights."""


def check_width(width: Any, name: str = "width") -> None:
    """Refuse a relative width σ_rel outside (0, 0.28]."""
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= LONGEST:
        raise UserError(f"{name} must be a relative length (sigma_rel) in (0, {LONGEST}], got {shown(width)}")


def power_exponent(width: float) -> float:
    r"""γ of the power-function profile of a relative width (arXiv:2312.02696, eq. 2–3 and app. C).

    .. math:: σ_{rel} = \sqrt{\frac{γ + 1}{(γ + 2)^2 (γ + 3)}}

    Args:
        width: σ_rel in (0, 0.28]: standard deviation of the profile over the length of training. 0.288 is a plain mean.
    """
    check_width(width)
    # The profile narrows as γ grows: bisect.
    spread = lambda g: math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3)))
    low, high = 0.0, 4.0
    while spread(high) > width:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spread(middle) > width else (low, middle)
    return (low + high) / 2


class EMA:
    r"""θ̂ ← β θ̂ + (1 − β) θ, in float32, with a β that depends on the step.

    Power function (arXiv:2312.02696, eq. 2): :math:`β_n = (1 - 1/n)^{γ + 1}` at step n, a profile ∝ τ^γ that scales
    with the length of training. Constant: :math:`β = 2^{-B/H}` for B images a step and a half-life of H images, ramped
    up.

    Attributes:
        network: a copy of the network that holds the average, in evaluation mode; after ``shard`` it holds what the
            average was at the last ``gather``.

    Args:
        network: whose weights are averaged.
        batch: images a step.
        width: σ_rel of the power function; None for a constant half-life.
        half_life: H in images, > 0; read only if width is None.
    """

    def __init__(self, network: nn.Module, batch: int, width: float | None = 0.1, half_life: float = 0.0) -> None:
        self.exponent = None if width is None else power_exponent(width)
        self.half_life = float(half_life)
        if width is None and not self.half_life > 0:
            raise UserError(f"half_life must be > 0 images, got {half_life}")
        self.batch = batch
        # Weights that do not learn are shared, not copied.
        shared = {id(p): p for p in network.parameters() if not p.requires_grad and p.dtype == torch.float32}
        self._learning = [p.requires_grad or id(p) not in shared for p in network.parameters()]
        self.network = copy.deepcopy(network, shared).float().eval().requires_grad_(False)
        self._shadow: list[Tensor] = self._of(self.network)
        self._like = self._shadow

    def _of(self, network: nn.Module) -> list[Tensor]:
        """The weights of a network that are averaged."""
        return [p for p, learning in zip(network.parameters(), self._learning) if learning]

    def decay(self, step: int) -> float:
        """β of step n = 1, 2, …"""
        if self.exponent is not None:
            return float((1 - 1 / step) ** (self.exponent + 1))
        return float(0.5 ** (self.batch / min(self.half_life, RAMP * step * self.batch)))

    def shard(self, network: nn.Module) -> None:
        """Spread the average over a team as the network now is, whose weights are averaged."""
        self._like = self._of(network)
        self._shadow = [local(spread(mine, p)).clone() for mine, p in zip(self._of(self.network), self._like)]

    @torch.no_grad()
    def gather(self) -> None:
        """Put the average together in ``network``; every process of a team that shares it must call."""
        if self._like is self._shadow:
            return
        for mine, part, like in zip(self._of(self.network), self._shadow, self._like):
            mine.copy_(whole(_as(part, like)))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over an average, by the names of ``network.state_dict()`` of weights that learn, and of buffers."""
        self.network.load_state_dict(tensors, strict=False)  # those that do not learn are not kept in checkpoints
        if self._like is self._shadow:
            return
        names = (name for (name, _), kept in zip(self.network.named_parameters(), self._learning) if kept)
        for name, part, like in zip(names, self._shadow, self._like):
            part.copy_(local(spread(tensors[name], like)))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step n; buffers are copied."""
        fresh = [local(p.detach()) for p in self._of(network)]
        torch._foreach_lerp_(self._shadow, fresh, 1 - self.decay(step))
        for mine, theirs in zip(self.network.buffers(), network.buffers()):
            mine.copy_(theirs)


def _as(part: Tensor, like: Tensor) -> Tensor:
    """A process's part of a tensor as what the tensor is."""
    if not hasattr(like, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
