"""Thresholding: the predicted clean data kept in the range of data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser, Transform, check_is_denoiser, clamp
from ..distributions import Dirac, Distribution


def upper_quantile(values: Tensor, share: float) -> Tensor:
    """``torch.quantile(values, share, dim=1)`` of ``(B, D)``, from the largest values of each row alone.

    A share near 1 needs few of them, where ``torch.quantile`` sorts them all, and refuses more than 2²⁴ numbers.
    """
    place = share * (values.shape[1] - 1)
    low = math.floor(place)
    largest = values.topk(values.shape[1] - low, dim=1).values  # in falling order: the last is the low-th smallest
    return torch.lerp(largest[:, -1], largest[:, max(-2, -largest.shape[1])], place - low)


@dataclass(frozen=True, eq=False)
class DynamicThreshold(Transform):
    """The mean, clipped to a percentile of its own magnitudes in each sample and divided by it."""

    percentile: float
    limit: float

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        mean = self.base(x_t, t).mean
        sizes = mean.flatten(1).abs()
        sizes = sizes.to(torch.promote_types(sizes.dtype, torch.float32))
        s = upper_quantile(sizes, self.percentile).clamp_min(self.limit)
        s = s.to(mean.dtype).reshape(-1, *[1] * (mean.ndim - 1))
        return Dirac(mean.clamp(-s, s) * (self.limit / s))


@register(
    "guidance",
    "threshold",
    title="Static and dynamic thresholding",
    arxiv="2205.11487",
    proof="exact: tests/guidance/test_threshold.py",
)
def threshold(denoiser: Denoiser, percentile: float | None = 0.995, *, limit: float = 1.0) -> Denoiser:
    r"""Imagen's thresholding of x̂_0 (Saharia et al. 2022, arXiv:2205.11487 §2.3), against saturated pixels.

    .. math:: \text{static:}\ \mathrm{clip}(\hat x_0, -1, 1) \qquad
              \text{dynamic:}\ \mathrm{clip}(\hat x_0, -s, s) / s

    with s the percentile of \|x̂_0\| over the numbers of each sample, at least 1. Both leave a belief as it is whose
    mean lies in the range, but for its covariance: the result is a point. It goes around the guidance that pushes x̂_0
    out: ``threshold(classifier_free(…))``.

    Args:
        denoiser: the belief, of real data.
        percentile: a share in (0, 1], 0.995 in the paper; None for static thresholding, which is ``denoisers.clamp``.
        limit: the end of the range of data, > 0.
    """
    check_is_denoiser(denoiser)
    if denoiser.process.discrete:
        raise UserError(f"threshold needs a process of real data, got {type(denoiser.process).__name__}")
    check_numbers(limit=limit)
    if not limit > 0:
        raise UserError(f"limit must be > 0, got {limit}")
    if percentile is None:
        return clamp(denoiser, -float(limit), float(limit))
    check_numbers(percentile=percentile)
    if not 0 < percentile <= 1 or not math.isfinite(limit):
        raise UserError(f"percentile must lie in (0, 1], a share such as 0.995, got {percentile}")
    return DynamicThreshold(denoiser, float(percentile), float(limit))
