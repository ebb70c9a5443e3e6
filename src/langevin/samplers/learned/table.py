"""What is learned of a solver: a grid and, for each evaluation, coefficients of all values so far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..._errors import UserError

LARGEST = 64
"""Evaluations at most: a table has about n² numbers."""

ORDER, REACH, OFFSET = 4, 2, 0.1
"""Values that the rule before learning interpolates, the steps it takes again, and the share of the data's standard
deviation in its variable."""

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))


@dataclass(frozen=True)
class SolverTable:
    r"""The learned grid and coefficients, with u = log σ/α.

    In coordinates along the directions of the data's covariance, of variance λ around the mean m, and with
    :math:`S = \sqrt{λ + e^{2u}}`, the flow of :math:`z = (x/α - m)/S` is

    .. math:: \frac{dz}{du} = W q, \quad W = \frac{e^{2u}}{S^3}, \quad
              q = -\frac{S^2}{e^{2u}} \Big(\hat x_0 - m - \frac{λ}{S} z\Big),

    and q, which is 0 for Gaussian data, is what the network adds. After i + 1 evaluations

    .. math:: z_{i+1} = z_0 + \sum_{j \le i} \big(T_{ij}(λ) + a_{ij} M_i(λ) + b_{ij} M_{i-1}(λ)\big) q_j

    where :math:`M_i = \int_i W du` is the step's own mass, :math:`M_{i-1}` that of the step before (of the way from the
    start to the first evaluation for i = 0), and T the integral of W under cubics in :math:`\log(σ/α + 0.1\,sd)`
    through four values, of which two come after the step where there are such.

    Attributes:
        start: u where the noise is drawn.
        nodes: u of the n evaluations, falling; the first is at or below ``start``.
        end: u where the samples stand; None for clean data.
        shifts: added to a node where the network is asked.
        own: a, row i with i + 1 numbers.
        before: b, likewise.
    """

    start: float
    nodes: tuple[float, ...]
    end: float | None
    shifts: tuple[float, ...]
    own: tuple[tuple[float, ...], ...]
    before: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if not 1 <= n <= LARGEST:
            raise UserError(f"nodes must be 1 to {LARGEST} numbers, got {n}")
        if len(self.shifts) != n:
            raise UserError(f"shifts must be {n} numbers, one a node, got {len(self.shifts)}")
        for name in ("own", "before"):
            lengths = [len(row) for row in getattr(self, name)]
            if lengths != list(range(1, n + 1)):
                raise UserError(f"{name} must be rows of 1, 2, …, {n} numbers, got rows of {lengths[:8]}")
        numbers = [self.start, *self.nodes, *self.shifts, *sum((*self.own, *self.before), ())]
        numbers += [] if self.end is None else [self.end]
        if not all(math.isfinite(v) and abs(v) < 1e6 for v in numbers):
            raise UserError("start, nodes, end, shifts, own and before must be finite numbers below 1e6 in size")
        falling = [*self.nodes, *([] if self.end is None else [self.end])]
        if self.start < falling[0] or any(b >= a for a, b in itertools.pairwise(falling)):
            raise UserError("start, nodes and end must fall")

    @property
    def steps(self) -> int:
        """The number of evaluations n."""
        return len(self.nodes)

    def tensors(self) -> SolverTensors:
        """This table as tensors."""
        tensor = lambda v: torch.tensor(v, dtype=torch.float64)
        rows = lambda v: [tensor(row) for row in v]
        return SolverTensors(
            self.start, tensor(self.nodes), self.end, tensor(self.shifts), rows(self.own), rows(self.before)
        )


@dataclass(frozen=True, eq=False)
class SolverTensors:
    """A ``SolverTable`` in float64 tensors, so that it can be learned."""

    start: float
    nodes: Tensor
    end: float | None
    shifts: Tensor
    own: Sequence[Tensor]
    before: Sequence[Tensor]

    def table(self) -> SolverTable:
        """These tensors as a table of numbers."""
        rows = lambda v: tuple(tuple(row.tolist()) for row in v)
        return SolverTable(
            self.start,
            tuple(self.nodes.tolist()),
            self.end,
            tuple(self.shifts.tolist()),
            rows(self.own),
            rows(self.before),
        )


def _lagrange(nodes: Sequence[Tensor], at: Tensor) -> Tensor:
    basis = []
    for j, own in enumerate(nodes):
        value = torch.ones_like(at)
        for k, other in enumerate(nodes):
            if k != j:
                value = value * (at - other) / (own - other)
        basis.append(value)
    return torch.stack(basis)


def weights(table: SolverTensors, variances: Tensor, std: float) -> list[Tensor]:
    """The coefficients of q_0…q_i after each evaluation i, ``(i + 1, D)``, for variances ``(D,)`` of the data and
    their standard deviation."""
    n, offset = len(table.nodes), OFFSET * std
    edges = [torch.tensor(table.start, dtype=torch.float64), *table.nodes]
    edges += [] if table.end is None else [torch.tensor(table.end, dtype=torch.float64)]
    inverse = [1 / torch.sqrt(variances + torch.exp(2 * u)) for u in edges]
    inverse += [] if table.end is not None else [1 / torch.sqrt(variances)]
    mass = [a - b for a, b in itertools.pairwise(inverse)]  # ∫ W du = −Δ(1/S)
    places = torch.log(torch.exp(table.nodes) + offset)
    points, measures = [], []
    for k in range(1, n + 1):
        if k < len(edges) - 1:
            a, b = edges[k], edges[k + 1]
            ratio = torch.exp((a + b) / 2 + (b - a) / 2 * _NODES)
            density = ratio**2
        else:  # down to clean data: in σ/α
            ratio = torch.exp(edges[k]) * (1 - _NODES) / 2
            density = ratio
        measure = _WEIGHTS[:, None] * density[:, None] / (variances + ratio[:, None] ** 2) ** 1.5
        points.append(torch.log(ratio + offset))
        measures.append(measure * (mass[k] / measure.sum(0)))

    def share(k: int, high: int) -> Tensor:
        """∫ W l_j du of step k with ``high`` the newest of its values, ``(n, D)``."""
        low = max(0, high - ORDER + 1)
        basis = _lagrange(list(places[low : high + 1]), points[k]) @ measures[k]
        return pad(basis, (0, 0, low, n - 1 - high))

    # From the start to the first node as if q were its first value.
    settled = pad(mass[0][None], (0, 0, 0, n - 1))
    rows, ready = [], 0
    for i in range(n):
        while ready <= i and max(ready + REACH, ORDER - 1) <= i:  # no later value changes this step any more
            settled = settled + share(ready, max(ready + REACH, ORDER - 1))
            ready += 1
        row = settled
        for k in range(ready, i + 1):
            row = row + share(k, i)
        rows.append(row[: i + 1] + table.own[i][:, None] * mass[i + 1] + table.before[i][:, None] * mass[i])
    return rows
