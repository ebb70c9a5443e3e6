"""The remainder's integrals: nodes, interpolation and quadrature of a step of the Gaussian-remainder solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...numerics.frame import GaussianFrame
from ...numerics.quadrature import Array, gauss, lagrange, spread_nodes
from .noise_grid import TimeWarp, Weight, time_warp

STEADY = 60.0
"""The largest sum of |l_j| over an interval; uniform nodes have 15 one step ahead at order 4."""

CLEAR = 50.0
"""A step is integrated again with values at no less than this share of its own noise."""


def stencil(interval: int, newest: int, order: int) -> tuple[int, int]:
    """The nodes (first, last) on which interval j is integrated when node i is the newest.

    Two nodes beyond its start once they are known, and at the beginning all, until there are as many as the order.
    """
    last = min(newest, max(interval + min(order - 1, 2), order - 1))
    return max(0, last - order + 1), last


def interpolation_nodes(places: Array, interval: int, newest: int, order: int, stop: float) -> tuple[int, ...]:
    """The nodes of the interval that begins at one of them, oldest first, when ``newest`` is the last that is known.

    Of nodes that stand together after a gap the newest alone (``spread_nodes``); of the rest the stencil of the highest
    order, at most ``order``, that does not magnify the rounding of its values. Nodes close together far from the
    interval (many at almost pure noise, on a grid made for another solver) would.
    """
    ends = np.array([places[interval], stop])
    kept = [newest - i for i in spread_nodes(places[newest::-1].tolist(), abs(float(ends[1] - ends[0])))][::-1]
    if interval not in kept:  # a grid that turns back
        kept = list(range(newest + 1))
    own = kept.index(interval)
    for lower in range(order, 1, -1):
        first, last = stencil(own, len(kept) - 1, lower)
        nodes = tuple(kept[first : last + 1])
        if np.abs(lagrange(places[list(nodes)], ends)).sum(0).max() <= STEADY:
            return nodes
    return (interval,)


@dataclass(frozen=True)
class Remainder:
    r"""∫ W l_j du along the directions of a frame: :math:`W = σ^{fall} / S^{κ + rise}`, κ = 1 + η², S² = λ + σ².

    Args:
        frame: whose variances are λ.
        order: of the interpolation.
        eta: share of the reverse SDE's noise.
        weight: the powers of W.
        again: steps that begin above this σ/α are not integrated again when new values arrive.
    """

    frame: GaussianFrame
    order: int
    eta: float
    weight: Weight
    again: float = math.inf

    @property
    def variances(self) -> Array:
        """λ along the directions, or the one that all have."""
        return self.frame.array[:1] if self.frame.isotropic else self.frame.array

    def read(self, alpha: float, ratio: float) -> tuple[Array, Array]:
        """(a, b) of q = a·c + b·Vᵀ(x̂_0 − m) at a time with this α and σ/α."""
        size = np.sqrt(self.variances + ratio**2)
        slope = -(1 + self.eta**2) * size**self.weight.rise / ratio**self.weight.fall
        return -slope * self.variances / size**2 / alpha, slope

    def gains(self, ratios: Sequence[float], prefix: float | None, end: float) -> list[Array]:
        """∫ W l_j du a node, oldest first: of the step to ``end``, and what the newest changes in earlier steps.

        Args:
            ratios: σ/α of the nodes, oldest first; the last is where the step begins.
            prefix: σ/α from which nothing was asked until the first node; None if there is no such way.
            end: σ/α where the step ends.
        """
        v = time_warp(self.frame)
        places = v(np.log(np.array(ratios)))
        newest = len(ratios) - 1
        gains = [np.zeros_like(self.variances) for _ in ratios]
        if prefix is not None:
            gains[0] = gains[0] + self._integral(prefix, ratios[0], places[:0])[0]
        for j in range(newest + 1):
            last = j == newest
            if not last and (self.eta or ratios[j] > self.again):
                continue
            stop = end if last else ratios[j + 1]
            stop_place = float(v(np.array(log(stop))))
            for order, share in self._orders(v, abs(float(places[j]) - stop_place)):
                # A value at far less noise is Δ/σ² of a network's rounding: it does not speak of steps far above.
                clear = max(k for k in range(newest + 1) if k <= j or ratios[k] > ratios[j] / CLEAR)
                now = interpolation_nodes(places, j, min(newest, clear), order, stop_place)
                before = None if last else interpolation_nodes(places, j, min(newest - 1, clear), order, stop_place)
                if now == before:
                    continue
                for sign, stencil in ((share, now), (-share, before)):
                    if stencil is None:
                        continue
                    parts = self._integral(ratios[j], stop, places[list(stencil)])
                    for k, part in zip(stencil, parts):
                        gains[k] = gains[k] + sign * part
        return gains

    def _orders(self, v: TimeWarp, gap: float) -> list[tuple[int, float]]:
        """Orders of the interpolation and their shares, for nodes this far apart.

        Where steps are long the fourth value is too far away to help: the interpolant is then mostly of order 3.
        """
        if self.eta or self.order < 4:
            return [(min(self.order, 2) if self.eta else self.order, 1.0)]
        begin, extent = v.density.blend
        share = min(1.0, max(0.0, (v.evaluations(gap) - begin) / extent))
        return [(order, part) for order, part in ((3, 1 - share), (4, share)) if part]

    def _integral(self, start: float, stop: float, places: Array) -> Array:
        """∫ W l_k du from σ = start to stop, ``(k, D)``, on nodes at ``places``; of W alone for no nodes."""
        v, values = time_warp(self.frame), self.variances
        weight, kappa = self.weight, 1 + self.eta**2
        # Below e^-18 of the smallest scale and above e^18 of the largest nothing is left of W.
        low, high = 0.5 * math.log(float(values.min())) - 18, 0.5 * math.log(float(values.max())) + 18
        a, b = (min(max(log(r), low), high) for r in (start, stop))
        total: Array | float = 0.0
        pieces = max(1, math.ceil(abs(b - a) / 1.5))
        for i in range(pieces):
            u, w = gauss(a + (b - a) * i / pieces, a + (b - a) * (i + 1) / pieces, 12)
            ratio = np.exp(u)[:, None]
            density = w[:, None] * ratio**weight.fall * (values + ratio**2) ** (-(kappa + weight.rise) / 2)
            basis = lagrange(places, v(u)) if len(places) else np.ones((1, len(u)))
            total = total + basis @ density
        return np.asarray(total)


def log(ratio: float) -> float:
    """log σ/α, −∞ at clean data."""
    return math.log(ratio) if ratio > 0 else -math.inf
