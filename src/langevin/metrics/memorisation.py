"""Are the samples copies of the training data?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import distances, pair


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training example.

    Args:
        ratio: ``samples / heldout``; about 1 for fresh samples of the law, towards 0 for copies.
        samples: median distance of the samples.
        heldout: median distance of held-out data.
        indices: nearest training example of each sample, int64 ``(N,)``, for pictures.
        distances: its distance, float64 ``(N,)``.
        heldout_distances: that of each held-out example, float64 ``(M,)``.
    """

    ratio: float
    samples: float
    heldout: float
    indices: Tensor
    distances: Tensor
    heldout_distances: Tensor


def nearest_neighbours(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of ``train`` ``(M, ...)`` to each of ``x`` ``(N, ...)``: Euclidean distances and indices ``(N,)``.

    Raises:
        UserError: shapes differ or values are not finite.
    """
    one, two = pair(x, train, least=1)
    found = [d.min(dim=1) for _, d in distances(one, two)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


@register(
    "metrics",
    "memorisation",
    title="Nearest-neighbour distance to training data, against held-out data",
    proof="exact: tests/metrics/test_memorisation.py::test_ratio_of_a_copying_sampler",
)
def memorisation(samples: Tensor, train: Tensor, heldout: Tensor) -> Memorisation:
    r"""Median distance of samples to their nearest training example, over that of held-out data.

    .. math:: \frac{\mathrm{med}_i \min_j |x_i - y_j|}{\mathrm{med}_i \min_j |h_i - y_j|}

    Held-out data shows how near to a training example a fresh draw of the law falls: a ratio of 1 or more means that
    samples are no nearer to the training data than that.

    Args:
        samples: ``(N, ...)``.
        train: the data the model was trained on ``(M, ...)``.
        heldout: data of the same law that it was not trained on.

    Raises:
        UserError: shapes differ, values are not finite, or at least half of the held-out data is in ``train``.
    """
    return against(*nearest_neighbours(samples, train), train, heldout)


def against(d: Tensor, index: Tensor, train: Tensor, heldout: Tensor) -> Memorisation:
    """The same from the samples' :func:`nearest_neighbours`, in which parts of a set are put together."""
    apart = nearest_neighbours(heldout, train)[0]
    reference = float(apart.median())
    if reference == 0:
        raise UserError("at least half of heldout is an exact copy of train: there is no distance to compare with.")
    return Memorisation(float(d.median()) / reference, float(d.median()), reference, index, d, apart)
