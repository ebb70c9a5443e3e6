"""Who learns: the parts of a model that have losses of their own, and turns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..distributions import Noise

Loss = Callable[[Any, Tensor, Mapping[str, Any] | None, Noise], Tensor]
"""``loss(model, x0, condition, noise)``, ``(B,)``."""


@dataclass(frozen=True, eq=False)
class Player:
    """A part of a model with a loss of its own: it has its own optimiser, and a step is its turn.

    Args:
        module: what learns, the model's network or a part of it.
        loss: the loss it minimises; its gradient reaches no other player.
        every: steps of the run from one of its turns to the next, at least 1.
        betas: of its AdamW, each in [0, 1); those of the run if not given.
    """

    module: nn.Module
    loss: Loss
    every: int = 1
    betas: tuple[float, float] | None = None


def without(network: nn.Module, part: str) -> nn.Module:
    """A network without one of its parts; weights are shared."""
    made = copy.copy(network)
    made._modules = {name: module for name, module in network._modules.items() if name != part}
    return made
