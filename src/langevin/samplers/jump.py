"""One step from noise to data, for models that were trained for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import Process
from .loop import Sampler, State


@register(
    "samplers",
    "jump",
    title="One step from noise to data",
    arxiv="1406.2661",
    proof="exact: tests/samplers/test_jump.py",
)
@dataclass(frozen=True)
class Jump(Sampler[Process]):
    """x_0 = E[x_0 | x_1] at the one step from t = 1: what a generator (arXiv:1406.2661) makes of noise."""

    def default_grid(self, process: Process, steps: int) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=torch.float64)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        belief = denoiser(state.x, state.t)
        return replace(state, x=belief.mean, t=s, belief=belief)
