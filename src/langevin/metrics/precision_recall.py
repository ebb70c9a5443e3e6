"""Precision and recall by nearest-neighbour manifolds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import distances, pair


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]: how much of the samples is real-looking, how much of the real data is covered."""

    precision: float
    recall: float


@register(
    "metrics",
    "precision-recall",
    title="Improved precision and recall",
    arxiv="1904.06991",
    proof="exact: tests/metrics/test_precision_recall.py::test_hand_counted",
)
def precision_recall(samples: Tensor, real: Tensor, *, k: int = 3) -> PrecisionRecall:
    r"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1–2).

    The manifold of a set is the union of balls around its points, each reaching to the point's k-th nearest neighbour
    in the set. Precision is the fraction of samples within the manifold of the real data, recall the fraction of real
    data within the manifold of the samples. Both depend on the counts: compare at equal N and M.

    Args:
        samples: ``(N, ...)`` features, N > k.
        real: ``(M, ...)`` features, M > k.
        k: which neighbour sets the radius; 3 as published.

    Raises:
        UserError: shapes differ, too few rows, non-finite values, k < 1.
    """
    if k < 1:
        raise UserError(f"k must be at least 1; got {k}.")
    one, two = pair(samples, real, least=k + 1)
    return PrecisionRecall(_covered(one, two, _radii(two, k)), _covered(two, one, _radii(one, k)))


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row; copies are neighbours at distance 0."""
    radii = torch.empty(len(x), dtype=torch.float64)
    for index, d in distances(x, x):
        d[torch.arange(len(index)), index] = torch.inf
        radii[index] = d.kthvalue(k, dim=1).values
    return radii


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = [(d <= radii).any(dim=1) for _, d in distances(points, centres)]
    return float(torch.cat(inside).double().mean())
