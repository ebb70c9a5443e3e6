"""Interpolation and exact integration, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHORT = 1 / 8
"""A step is short if it is less than this share of the steps on both sides of it; ``spread_nodes``."""

TINY = 1e-4
"""The same where the path begins with that step: then the rounding of a float32 network, 6e-8, is what counts."""

SPARE = 3
"""How many nodes more a multistep method remembers, so that its order does not fall where nodes are left out."""


@lru_cache(maxsize=8)
def _legendre(n: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(n)


def gauss(a: float, b: float, n: int = 16) -> tuple[Array, Array]:
    """Nodes and weights of Gauss–Legendre quadrature from a to b: exact for polynomials of degree 2n − 1.

    For e^{cu} times a cubic over a step of length h the error is below 1e-16 while |c|h ≤ 12, so an integral against an
    exponential weight is as exact as its phi-functions, for tiny steps too: nothing is subtracted.
    """
    x, w = _legendre(n)
    return a + (b - a) * (x + 1) / 2, (b - a) * w / 2


def lagrange(nodes: Array, at: Array) -> Array:
    """The Lagrange basis l_j on ``nodes`` ``(k,)`` at ``at`` ``(m,)``, as ``(k, m)``; Σ_j l_j = 1."""
    nodes, at = np.asarray(nodes, dtype=np.float64), np.asarray(at, dtype=np.float64)
    basis = np.ones((len(nodes), len(at)))
    for j, own in enumerate(nodes):
        for i, other in enumerate(nodes):
            if i != j:
                basis[j] *= (at - other) / (own - other)
    return basis


def spread_nodes(places: Sequence[float], length: float) -> list[int]:
    r"""Which nodes to interpolate on over an interval of this length: of a cluster after a gap the newest alone.

    A corrected step leaves its value at the arrival that was predicted, a distance :math:`J δ` from that on the path on
    which the next step ends. A divided difference of the two is off by :math:`J δ / g` with g the length of that next
    step, and an interval of length L is off by :math:`J δ L^2 / 2g`. That is of the size of the correction's own error,
    :math:`J δ L`, unless g is much less than L and than the step before, which δ belongs to. There the older of the
    two values says nothing that the newer one does not say better, and it is left out. The same holds for noise that
    is added between two values, and for the rounding of a network, for which no step before is needed.

    Args:
        places: of the nodes in the variable of the interpolation, newest first.
        length: of the interval that is integrated.

    Returns:
        Indices of the nodes that are kept, newest first; the newest always is one.
    """
    kept, i = [0], 1
    while i < len(places):
        newest, j = places[kept[-1]], i
        while j < len(places) and abs(places[j] - newest) < SHORT * length:
            j += 1
        wide = abs(places[j - 1] - newest)
        limit = SHORT * abs(places[j] - places[j - 1]) if j < len(places) else TINY * length
        if i < j and wide < limit:
            i = j
        else:
            kept.append(i)
            i += 1
    return kept
