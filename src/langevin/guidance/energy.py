"""Energy guidance: the belief, moved down the gradient of any function of the predicted clean data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Distribution
from .tilt import Tilted


@dataclass(frozen=True, eq=False)
class EnergyGuided(Tilted):
    """The base, tilted by −scale·loss(x̂_0)."""

    loss: Callable[[Tensor], Tensor]
    scale: float

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        value = self.loss(belief.mean)
        if not isinstance(value, Tensor) or value.shape != x_t.shape[:1]:
            raise UserError(f"loss must return one number a sample, ({len(x_t)},), got {shown(value)}")
        return -self.scale * value.to(torch.promote_types(x_t.dtype, torch.float32))


@register(
    "guidance",
    "energy",
    title="Energy guidance by the predicted clean data",
    arxiv="2303.09833, 2204.02641",
    proof="exact: tests/guidance/test_energy_guidance.py; data: benchmarks/task_guidance.py",
)
def energy(denoiser: Denoiser, loss: Callable[[Tensor], Tensor], *, scale: float = 1.0) -> Denoiser:
    r"""Guidance by a function of x̂_0 = E[x_0 | x_t] (arXiv:2303.09833 eq. 7–9; universal guidance 2302.07121 eq. 6):

    .. math:: \hat x_0' = \hat x_0 - s\,\frac{σ_t^2}{α_t} ∇_{x_t} \ell(\hat x_0(x_t))

    The gradient goes through the denoiser: one forward and one backward pass a call. With a network made for another
    task in the loss, a segmenter or a regressor, this is guidance by the task (2204.02641). It does not sample the law
    tilted by exp(−s·loss), since the loss of a mean is not the mean of a loss; particle methods do.

    Args:
        denoiser: the belief, on a scalar-Gaussian process, differentiable in x_t.
        loss: of clean data ``(B, *shape)``, one number a sample ``(B,)``; small is good.
        scale: s.
    """
    check_is_denoiser(denoiser)
    if not callable(loss):
        raise UserError(f"loss must be a function of clean data (B, *shape), got {shown(loss)}")
    check_numbers(scale=scale)
    return EnergyGuided(denoiser, loss, float(scale))
