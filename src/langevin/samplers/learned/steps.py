"""The steps of a learned solver on a process, along the directions of the data's covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoisers import Denoiser
from ...distributions import Distribution
from ...numerics.frame import GaussianFrame
from ...processes import ScalarGaussian
from ..linear.step import combine
from .table import SolverTensors, weights

BINS = 256
"""Columns of coefficients at most: nearby variances share one."""


def _columns(values: Tensor) -> tuple[Tensor, Tensor]:
    """Variances that get a column of coefficients, and the column of each direction."""
    distinct, column = torch.unique(values, return_inverse=True)
    if len(distinct) <= BINS:
        return distinct, column
    level = torch.log(values)
    low, width = level.min(), (level.max() - level.min()) / (BINS - 1)
    column = ((level - low) / width).round().long()
    return torch.exp(low + width * torch.arange(BINS, dtype=torch.float64)), column


@dataclass(frozen=True, eq=False)
class Place:
    """A time, and there α, A, and (c, d) of q = c z − d (x̂_0 − m): c = λ α A/σ², d = A²/σ²; 0 at clean data."""

    t: Tensor
    alpha: Tensor
    scale: Tensor
    read: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, process: ScalarGaussian, u: Tensor | None, frame: GaussianFrame) -> Place:
        """At u = log σ/α, differentiable in u; at clean data for None."""
        if u is None:
            t = torch.zeros((), dtype=torch.float64)
        else:
            t = process.time(-2 * u.detach())
            if u.requires_grad:
                # An inverse by bisection has no derivative; that of the function itself gives it.
                t = t - 2 * (u - u.detach()) / process.rate(process.log_snr, t).detach()
        alpha, sigma, values = process.alpha(t), process.sigma(t), frame.variances
        scale = torch.sqrt(alpha**2 * values + sigma**2)
        read = (values * alpha * scale / sigma**2, (scale / sigma) ** 2) if u is not None else (values, values)
        return cls(t, alpha, scale, read)


@dataclass(frozen=True, eq=False)
class LearnedSteps:
    """A table on a process and a frame: numbers for each evaluation, differentiable in the table.

    α and A = √(α²λ + σ²) stand for S = A/α, so that a process may have α = 0 at its start.

    Attributes:
        frame: of the data's Gaussian.
        rows: coefficients of q_0…q_i after evaluation i, ``(i + 1, D)``.
        asked: where the network is asked.
        ends: the times of the grid.
    """

    frame: GaussianFrame
    rows: list[Tensor]
    asked: list[Place]
    ends: list[Place]

    @classmethod
    def of(cls, table: SolverTensors, process: ScalarGaussian, frame: GaussianFrame) -> LearnedSteps:
        """The steps of a table, on the frame's device."""
        place = lambda u: Place.of(process, u, frame)
        low = float(-0.5 * process.log_snr(process.t_min))
        asked = (table.nodes + table.shifts).clamp(min(low, table.start), table.start)
        nodes = [torch.tensor(table.start, dtype=torch.float64), *table.nodes[1:]]
        ends = [place(u) for u in nodes]
        ends.append(place(None if table.end is None else torch.tensor(table.end, dtype=torch.float64)))
        variances, column = _columns(frame.variances.cpu())
        rows = [row[:, column].to(frame.mean.device) for row in weights(table, variances, frame.std)]
        return cls(frame, rows, [place(u) for u in asked], ends)

    def along(self, x: Tensor, here: Place) -> Tensor:
        """z of a state at a place."""
        return self.frame.to(x, here.alpha) / here.scale

    def state(self, z: Tensor, here: Place, shape: Sequence[int]) -> Tensor:
        """The state there."""
        return self.frame.back(z * here.scale, here.alpha).reshape(z.shape[0], *shape)

    def ask(self, z: Tensor, i: int, denoiser: Denoiser, shape: Sequence[int]) -> tuple[Tensor, Distribution]:
        """q_i, and the belief it is read off: what is asked is z where the i-th evaluation stands."""
        here = self.asked[i]
        belief = denoiser(self.state(z, here, shape), here.t)
        return self.value(z, i, belief), belief

    def value(self, z: Tensor, i: int, belief: Distribution) -> Tensor:
        """q_i of a belief about z where the i-th evaluation stands."""
        a, b = self.asked[i].read
        return combine(a, z, (-b,), (self.frame.to(belief.mean),))

    def move(self, start: Tensor, values: Sequence[Tensor], i: int) -> Tensor:
        """z after evaluation i, of z at the start and the values so far."""
        return combine(1.0, start, list(self.rows[i]), values)
