"""One step in the eigenbasis of the data's covariance: a number a direction, or numbers alone if all are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..distributions import Dirac, Distribution, Noise, scaled
from . import linear
from .moments import Moments
from .quadrature import Array


class Numbers(NamedTuple):
    """The coefficients of one step of one sample, arrays ``(D,)``, or ``(1,)`` if all directions are alike.

    x_s − α_s m = scale·(x − α_t m) + Σ_j weights_j q_j + std·z, with q = a·(x − αm) + b·(x̂_0 − m).

    Attributes:
        alpha: at both ends.
        read: (a, b) of q, newest first.
        read_alpha: α where these were read.
        scale: of x − αm.
        weights: of the values of q, newest first.
        std: of the noise.
        gain: of x − αm, the belief x̂_0 − m of the Gaussian alone.
        asks: whether the network is asked for this sample.
    """

    alpha: tuple[float, float]
    read: list[tuple[Array, Array]]
    read_alpha: list[float]
    scale: Array
    weights: list[Array]
    std: Array
    gain: Array
    asks: bool


Moved = tuple[Tensor, Tensor, Any, Distribution]
"""What a step did: the new state, x − αm along the directions where that was computed, q (None if nothing was asked),
the belief about the data."""


@dataclass(frozen=True, eq=False)
class Row:
    """One step along the directions: ``(D,)``, or a number a sample too ``(B, D)``.

    Attributes:
        moments: of the data.
        read: (a, b, c) of q = a·(x − αm) + b·x̂_0 + c; None if the network is not asked.
        scale, weights, std, gain: as in ``Numbers``; no std for no noise, no gain where the network is asked.
        here, there: αm at both ends, in coordinates of the data.
        silent: of samples at times of their own, for which nothing is asked ``(B,)``; None for no such.
    """

    moments: Moments
    read: tuple[Tensor, Tensor, Tensor] | None
    scale: Tensor
    weights: tuple[Tensor, ...]
    std: Tensor | None
    gain: Tensor | None
    here: Tensor
    there: Tensor
    silent: Tensor | None = None

    @classmethod
    def of(cls, samples: Sequence[Numbers], moments: Moments, stacked: bool) -> Row:
        """From the numbers of one sample, for all, or those of each."""

        def column(arrays: Sequence[Array | float]) -> Tensor:
            every = torch.stack([torch.as_tensor(a, dtype=torch.float64) for a in arrays])
            return every if stacked else every[0]

        def centre(alpha: list[float]) -> Tensor:
            at = column(alpha)
            return at[..., None] * moments.mean

        first = samples[0]
        asks = stacked or first.asks
        read = None
        if asks:
            a, b = (column([n.read[0][i] for n in samples]) for i in (0, 1))
            read = a, b, -b * moments.basis.to(moments.mean[None])[0]
        noisy = any(n.std.any() for n in samples)
        return cls(
            moments,
            read,
            column([n.scale for n in samples]),
            tuple(column([n.weights[j] for n in samples]) for j in range(len(first.weights))) if asks else (),
            column([n.std for n in samples]) if noisy else None,
            None if asks else column([n.gain for n in samples]),
            centre([n.alpha[0] for n in samples]),
            centre([n.alpha[1] for n in samples]),
            _silent(samples) if stacked else None,
        )

    @property
    def asks(self) -> bool:
        return self.read is not None

    @property
    def values(self) -> int:
        """How many earlier values of q the step uses."""
        return max(0, len(self.weights) - 1)

    def to(self, device: torch.device) -> Row:
        """The same row on another device, so that a step moves nothing."""
        return Row(
            self.moments,
            None if self.read is None else tuple(v.to(device) for v in self.read),  # type: ignore[arg-type]
            self.scale.to(device),
            tuple(w.to(device) for w in self.weights),
            None if self.std is None else self.std.to(device),
            None if self.gain is None else self.gain.to(device),
            self.here.to(device),
            self.there.to(device),
            self.silent,
        )

    def move(
        self,
        x: Tensor,
        t: Tensor,
        along: Tensor | None,
        values: tuple[Any, ...],
        denoiser: Denoiser,
        noise: Noise,
        kept: int,
    ) -> Moved:
        """Take the step; ``along`` is x − αm along the directions if it is known, ``kept`` how long q is needed."""
        basis = self.moments.basis
        # The remainder is a difference of nearly equal numbers where there is much noise: float64 whatever x is.
        along = basis.to(_flat(x) - self.here) if along is None else along
        moved, value = along * self.scale, None
        belief: Distribution
        if self.read is None:
            assert self.gain is not None
            mean = self.moments.mean.to(along)
            belief = Dirac(basis.back(along * self.gain, mean).reshape(x.shape).to(x))
        else:
            belief = denoiser(x, t)
            told = basis.to(_flat(belief.mean))
            a, b, c = self.read
            value = torch.addcmul(torch.addcmul(c, along, a), told, b)
            for weight, each in zip(self.weights, (value, *values)):
                moved = moved.addcmul_(each, weight)
        if self.std is not None:
            drawn = noise.normal(tuple(x.shape[1:])).reshape(along.shape)
            moved = torch.addcmul(moved, basis.to(drawn.to(along)), self.std)
        y = basis.back(moved, self.there).to(x.dtype)
        return y if y.shape == x.shape else y.reshape(x.shape), moved, value, belief


@dataclass(frozen=True, eq=False)
class Plain:
    """One step where all directions are alike: numbers, or one a sample shaped to multiply the state.

    Attributes:
        row: what is read, the step, the noise.
        shift: of the mean, what makes the step one of x − αm.
        gain: (a, b) of the Gaussian's own belief a·x + b·m, where the network is not asked; else None.
        mean: of the data, ``(D,)``; None for 0.
        silent: of samples at times of their own, for which nothing is asked ``(B,)``; None for no such.
    """

    row: linear.Row
    shift: linear.Scalar
    gain: tuple[float, float] | None
    mean: Tensor | None
    silent: Tensor | None = None

    @classmethod
    def of(cls, samples: Sequence[Numbers], moments: Moments, like: Tensor | None) -> Plain:
        """From the numbers of one sample, for all, or those of each, shaped to multiply ``like``."""

        def column(numbers: Sequence[float]) -> linear.Scalar:
            if like is None:
                return float(numbers[0])
            return torch.tensor(numbers, dtype=torch.float64, device=like.device).reshape(-1, *[1] * (like.ndim - 1))

        first = samples[0]
        asks = like is not None or first.asks
        read = column([n.read[0][0].item() for n in samples]), column([n.read[0][1].item() for n in samples])
        weights = tuple(column([n.weights[j].item() for n in samples]) for j in range(len(first.weights)))
        noisy = any(n.std.any() for n in samples)
        std = column([n.std.item() for n in samples]) if noisy else 0.0
        step = linear.Rule(column([n.scale.item() for n in samples]), weights if asks else ())
        gain = first.gain.item()
        return cls(
            linear.Row(read, step, std),
            column([_shift(n) for n in samples]),
            None if asks else (gain, 1 - gain * first.alpha[0]),
            moments.mean if moments.mean.any() else None,
            _silent(samples) if like is not None else None,
        )

    @property
    def asks(self) -> bool:
        return self.gain is None

    @property
    def values(self) -> int:
        """How many earlier values of q the step uses."""
        return max(0, len(self.row.step.weights) - 1)

    def to(self, device: torch.device) -> Plain:
        """The same row on another device."""
        return replace(self, mean=None if self.mean is None else self.mean.to(device))

    def move(
        self,
        x: Tensor,
        t: Tensor,
        along: Tensor | None,
        values: tuple[Any, ...],
        denoiser: Denoiser,
        noise: Noise,
        kept: int,
    ) -> Moved:
        """Take the step; ``along`` is not needed, ``kept`` is how long q is."""
        row, value = self.row, None
        mean = None if self.mean is None else self.mean.to(x.dtype).reshape(x.shape[1:])
        belief: Distribution
        if self.gain is not None:
            point = scaled(x, self.gain[0])
            belief = Dirac(point if mean is None else point.add_(mean, alpha=self.gain[1]))
            moved = row.step(x, ())
        else:
            belief = denoiser(x, t)
            value = linear.read(row, x, belief, kept)
            moved = row.step(x, (value, *values))
        if mean is not None:
            moved = moved + self.shift * mean
        if row.noisy:
            moved = moved + row.std * noise.normal(tuple(x.shape[1:])).to(moved)
        moved = moved if moved.dtype is x.dtype else moved.to(x.dtype)
        return moved, moved, value, belief


def _shift(n: Numbers) -> float:
    """α_s − scale·α_t − Σ_j weights_j (a_j α_j + b_j): of m, if q is read as a·x + b·x̂_0."""
    told = sum(w * (a * alpha + b) for w, (a, b), alpha in zip(n.weights, n.read, n.read_alpha))
    return float(n.alpha[1] - (n.scale * n.alpha[0] + told)[0])


def _silent(samples: Sequence[Numbers]) -> Tensor | None:
    silent = torch.tensor([not n.asks for n in samples])
    return silent if silent.any() else None


def _flat(x: Tensor) -> Tensor:
    """``(B, D)`` in float64; what changes nothing is not called, since it costs as much as a small sum."""
    flat = x if x.ndim == 2 else x.reshape(x.shape[0], -1)
    return flat if flat.dtype is torch.float64 else flat.to(torch.float64)
