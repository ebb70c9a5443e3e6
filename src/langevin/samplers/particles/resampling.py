"""Weights of particles: effective sample size, and systematic resampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normalised(log_weights: Tensor) -> Tensor:
    """Weights that sum to 1 over the last axis, ``(…, n)``; 0 where every weight is."""
    top = log_weights.amax(-1, keepdim=True)
    weights = torch.exp(log_weights - torch.where(top > -torch.inf, top, 0.0))
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def effective(log_weights: Tensor) -> Tensor:
    r"""The effective sample size of weights ``(…, n)``: from 1 to n, and 0 where every weight is 0.

    .. math:: \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}
    """
    weights = normalised(log_weights)
    square = weights.square().sum(-1)
    size = 1 / torch.where(square > 0, square, 1.0)
    return torch.where(square > 0, size.clamp(1.0, float(log_weights.shape[-1])), 0.0)


def log_mean(log_weights: Tensor) -> Tensor:
    """log of the mean of exp(log_weights) over the last axis."""
    return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])


def systematic(log_weights: Tensor, uniform: Tensor, count: int | None = None) -> Tensor:
    r"""Systematic resampling (Carpenter et al. 1999; arXiv:1202.6163 §2.2): index i is taken
    :math:`\lfloor m w_i \rfloor` or :math:`\lceil m w_i \rceil` times, m·w_i in the mean.

    .. math:: a_j = \min\{i : w_1 + … + w_i > (u + j) / m\}, \quad j = 0, …, m - 1

    Args:
        log_weights: ``(P, n)``, each row a population.
        uniform: u in (0, 1), ``(P,)``.
        count: m, how many are taken of each population; n if not given.

    Returns:
        int64 ``(P, m)``, ascending. An index of weight 0 is never taken.
    """
    m = log_weights.shape[-1] if count is None else count
    cumulative = torch.cumsum(normalised(log_weights.to(torch.float64)), -1)
    places = (uniform[:, None] + torch.arange(m, device=uniform.device)) / m * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, places.contiguous(), right=True)
    # Rounding may put the last place on the end itself: the last index with a weight is meant.
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(index, last.clamp_max(log_weights.shape[-1] - 1))
