"""Kernel distance: the squared maximum mean discrepancy."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import pair


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float


@register(
    "metrics",
    "kernel",
    title="Kernel distance (KID with Inception features)",
    arxiv="1801.01401",
    proof="exact: tests/metrics/test_kernel.py::test_closed_form_of_the_cubic_kernel",
)
def kernel_distance(
    samples: Tensor, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    r"""Squared maximum mean discrepancy with the kernel k(x, y) = (xᵀy/D + 1)³ (arXiv:1801.01401, eq. 4).

    .. math:: \frac{1}{m(m-1)} \sum_{i≠j} [k(x_i, x_j) + k(y_i, y_j)] - \frac{2}{m^2} \sum_{i,j} k(x_i, y_j)

    averaged over random subsets of m rows of each side. Unbiased: for samples of the real law the expectation is 0 at
    any count, and the value may be negative.

    The standard error is that of the average over all subsets, by m-out-of-n subsampling: the spread between subsets
    scaled by :math:`\sqrt{(m/n)/(1 - m/n)}`, which allows for their overlap; m is at most half of the smaller side.

    Args:
        samples: ``(N, ...)`` features of the samples, N ≥ 4.
        real: ``(M, ...)`` features of real data, M ≥ 4.
        subsets: number of random subsets, ≥ 2.
        subset_size: m, at least 2; the published protocol is 100 subsets of 1,000.
        seed: of the choice of subsets.

    Raises:
        UserError: shapes differ, too few rows, non-finite values, subsets or subset_size below 2.
    """
    one, two = pair(samples, real, least=4)
    if subsets < 2 or subset_size < 2:
        raise UserError(f"subsets and subset_size must be at least 2; got {subsets} and {subset_size}.")
    n = min(len(one), len(two))
    m = min(subset_size, n // 2)
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack(
        [_unbiased(*(x[torch.randperm(len(x), generator=generator)[:m]] for x in (one, two))) for _ in range(subsets)]
    )
    overlap = math.sqrt(m / n / (1 - m / n))
    return Estimate(float(values.mean()), float(values.std()) * overlap)


def _unbiased(x: Tensor, y: Tensor) -> Tensor:
    m, root = len(x), math.sqrt(x.shape[1])
    x, y = x / root, y / root

    def total(a: Tensor, b: Tensor) -> Tensor:
        linear = (a @ b.T).add_(1).flatten()
        return torch.dot(linear * linear, linear)

    def off_diagonal(a: Tensor) -> Tensor:
        return (total(a, a) - (a.square().sum(1) + 1).pow(3).sum()) / (m * (m - 1))

    return off_diagonal(x) + off_diagonal(y) - 2 * total(x, y) / m**2
