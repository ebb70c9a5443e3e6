"""Finite worlds: the ideal denoiser of a data set, and tables of token sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError, shown
from .._registry import register
from ..distributions import Distribution, FiniteSet, Noise
from ..operators import Measurement
from ..processes import Observable, Process, expand, require
from .base import World


@register("worlds", "empirical", title="Empirical set: the ideal denoiser", proof="exact: tests/worlds/test_finite.py")
class Empirical(World):
    r"""p_0 = Σ_n w_n δ(x − x_n): what a network would learn if it learned its training set perfectly.

    .. math:: p(n | x_t) \propto w_n\, q(x_t | x_n), \quad \hat x_0 = \sum_n p(n | x_t)\, x_n

    for any process with a marginal density. Distances are sums of squared differences: ‖a‖² + ‖b‖² − 2ab
    cancels in float32 where points are near.

    Args:
        points: ``(N, *shape)``, floating, or int64 tokens.
        weights: ``(N,)``, ≥ 0; equal if not given.
        labels: int64 ``(N,)``; each point its own if not given, so that ``given(label=k)``, and what edits or guides by
            ``label=k``, then means the point k alone.
        chunk: how many numbers are compared at a time, which bounds the memory.
    """

    def __init__(
        self, points: Tensor, weights: Tensor | None = None, labels: Tensor | None = None, chunk: int = 2**24
    ) -> None:
        if not isinstance(points, Tensor):
            raise UserError(f"points must be a tensor (N, *shape), got {shown(points)}")
        if points.ndim < 2 or points.shape[0] < 1:
            raise UserError(f"points must have shape (N, *shape) with N >= 1, got {tuple(points.shape)}")
        if points.is_floating_point() and not points.isfinite().all():
            raise UserError("points must be finite")
        n = points.shape[0]
        w = torch.ones(n, dtype=torch.float64) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if w.shape != (n,) or not (w >= 0).all() or not w.sum() > 0:
            raise UserError(f"weights must have shape ({n},), be >= 0 and have a positive sum")
        self.points = points
        self.shape = tuple(points.shape[1:])
        self.log_weights = torch.log(w / w.sum())
        try:
            self.labels = torch.arange(n) if labels is None else torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"labels must be int64 >= 0 of shape ({n},), got {shown(labels)}") from None
        if self.labels.shape != (n,) or self.labels.is_floating_point() or int(self.labels.min()) < 0:
            raise UserError(f"labels must be int64 >= 0 of shape ({n},), got {tuple(self.labels.shape)}")
        self.chunk = chunk

    def log_prob_clean(self, x: Tensor) -> Tensor:
        """log of the indicator x = x_n: this law has atoms, not a density."""
        same = (x[:, None] == self.points).flatten(2).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(torch.float64)

    def clean(self, noise: Noise, component: Tensor) -> Tensor:
        return self.points[component]

    def evidence(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        size = max(1, self.chunk // (self.points[0].numel() * self.points.shape[0]))
        rows = [slice(i, i + size) for i in range(0, x_t.shape[0], size)]
        compare = self._densities
        if isinstance(process, Observable):
            compare = self._distances
        return torch.cat([compare(x_t[row], t[row] if t.ndim else t, process) for row in rows])

    def _distances(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        seen = require(process, Observable, "distances").observe(x_t, t)
        y = seen.y.to(torch.promote_types(seen.y.dtype, self.points.dtype))
        a = expand(seen.a, y)
        targets = (a[..., None] if a.ndim else a) * self.points.to(y)
        apart = (y[:, None] - targets.reshape(-1, *self.points.shape)).flatten(2)
        square = (apart**2).sum(-1).to(torch.float64)
        r2 = (seen.r.reshape(-1, 1) ** 2).clamp_min(1e-200)  # t = 0: the nearest point
        log_c = seen.log_c[:, None] if seen.log_c.ndim else seen.log_c
        return -0.5 * (square / r2 + apart.shape[-1] * torch.log(2 * math.pi * r2)) + log_c

    def _densities(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        batch, n = x_t.shape[0], self.points.shape[0]
        clean = self.points.repeat(batch, *[1] * (self.points.ndim - 1))
        times = t.repeat_interleave(n) if t.ndim else t
        return process.marginal(clean, times).log_prob(x_t.repeat_interleave(n, 0)).reshape(batch, n)

    def belief(self, x_t: Tensor, t: Tensor, process: Process, log_weights: Tensor) -> Distribution:
        return FiniteSet(self.points, log_weights)

    def _posterior(self, measurement: Measurement) -> Empirical:
        """The same points, weighted by their likelihoods."""
        if not self.points.is_floating_point():
            raise UserError("posterior needs data of floating numbers, got tokens")
        log_weights = self.log_weights + measurement.log_prob(self.points.to(torch.float64))
        return Empirical(self.points, torch.softmax(log_weights, 0), self.labels, self.chunk)


@register("worlds", "tokens", title="Table of token sequences", proof="exact: tests/worlds/test_finite.py")
class TokenTable(Empirical):
    """All sequences of L tokens from K classes with their probabilities.

    The belief is joint, a finite set of sequences; ``denoisers.independent`` takes each position on its own, as a
    network with one softmax a position does.

    Args:
        probs: joint probabilities, one axis a position: shape ``(K,) * L``, ≥ 0, normalised here.
    """

    def __init__(self, probs: Tensor) -> None:
        try:
            table = torch.as_tensor(probs, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"probs must be a tensor of probabilities, got {shown(probs)}") from None
        if table.ndim < 1 or len(set(table.shape)) != 1:
            raise UserError(f"probs must have one axis a position, all of K classes, got {tuple(table.shape)}")
        self.tokens = table.shape[0]
        grids = torch.meshgrid(*[torch.arange(self.tokens)] * table.ndim, indexing="ij")
        super().__init__(torch.stack([g.reshape(-1) for g in grids], -1), table.reshape(-1))

    @property
    def probs(self) -> Tensor:
        """The table."""
        return self.log_weights.exp().reshape([self.tokens] * self.shape[0])

    def count(self, x: Tensor) -> Tensor:
        """The table of relative frequencies of sequences ``(N, L)``, to compare with ``probs``."""
        index = torch.zeros(x.shape[0], dtype=torch.int64)
        for column in x.unbind(-1):
            index = index * self.tokens + column
        counts = torch.bincount(index, minlength=self.tokens ** self.shape[0]).to(torch.float64)
        return (counts / x.shape[0]).reshape([self.tokens] * self.shape[0])
