"""Mean and covariance of the data, as a sampler uses them: a mean, orthonormal directions, a variance for each."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import Denoiser, NetworkDenoiser
from .quadrature import Array

FLOOR = 1e-2
"""The least variance of a direction, in units of the mean one, where the belief is a trained network's.

In a direction where the data have none, the Gaussian's flow shrinks with σ, and what a network says beyond it, its
error, is weighted by 1/σ. A trained network's error there is some hundredths of the data, hence the floor."""

EXACT_FLOOR = 1e-14
"""The same where the belief is exact: such data keep a ten-millionth of their spread, which is float64's rounding."""


LEADING = 64
"""Principal directions of events that are too large for a full covariance, at most; images have cosines."""


class Basis(Protocol):
    """An orthonormal change of coordinates of flattened events."""

    def to(self, x: Tensor) -> Tensor:
        """Coordinates along the directions, ``(B, D)`` of ``(B, D)``."""
        ...

    def back(self, c: Tensor, shift: Tensor | None = None) -> Tensor:
        """The inverse of ``to``, and then ``shift`` added: ``(D,)`` or ``(B, D)``."""
        ...


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates themselves."""

    def to(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor, shift: Tensor | None = None) -> Tensor:
        return c if shift is None else c + shift


@dataclass(frozen=True, eq=False)
class Directions:
    """The columns of an orthonormal matrix ``(D, D)``."""

    matrix: Tensor
    _there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix and its transpose, where x is and of its type."""
        key = (x.device, x.dtype)
        if key not in self._there:
            matrix = self.matrix.to(device=x.device, dtype=x.dtype)
            self._there[key] = matrix, matrix.mT
        return self._there[key]

    def to(self, x: Tensor) -> Tensor:
        return x @ self._like(x)[0]

    def back(self, c: Tensor, shift: Tensor | None = None) -> Tensor:
        matrix = self._like(c)[1]
        return c @ matrix if shift is None else torch.addmm(shift, c, matrix)


@dataclass(frozen=True, eq=False)
class Leading:
    """The columns of ``(D, k)``, k < D, and D − k more directions at right angles to them and to each other.

    Which ones is left open: they are those of k Householder reflections, and a change of basis costs 4kD operations.
    """

    columns: Tensor
    _there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reflections, where x is and of its type."""
        key = (x.device, x.dtype)
        if key not in self._there:
            self._there[key] = torch.geqrf(self.columns.to(device=x.device, dtype=x.dtype))
        return self._there[key]

    def to(self, x: Tensor) -> Tensor:
        return torch.ormqr(*self._like(x), x, left=False)

    def back(self, c: Tensor, shift: Tensor | None = None) -> Tensor:
        x = torch.ormqr(*self._like(c), c, left=False, transpose=True)
        return x if shift is None else x + shift


def cosines(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix ``(n, n)``: rows are frequencies."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = math.sqrt(2 / n) * torch.cos(math.pi * (i + 0.5) * k / n)
    matrix[0] /= math.sqrt(2)
    return matrix


@dataclass(frozen=True, eq=False)
class Cosines:
    """The two-dimensional DCT of each channel of ``(C, H, W)`` events, or of each direction of the channels.

    Args:
        shape: (C, H, W).
        colours: orthonormal directions of the channels as columns, ``(C, C)``; the channels themselves if None.
    """

    shape: tuple[int, int, int]
    colours: Tensor | None = None

    @cached_property
    def _sides(self) -> tuple[Tensor, Tensor]:
        return cosines(self.shape[1]), cosines(self.shape[2])

    def to(self, x: Tensor) -> Tensor:
        rows, columns = (m.to(x) for m in self._sides)
        images = x.reshape(-1, *self.shape)
        if self.colours is not None:
            images = torch.einsum("bchw,cd->bdhw", images, self.colours.to(x))
        return (rows @ images @ columns.mT).reshape(x.shape)

    def back(self, c: Tensor, shift: Tensor | None = None) -> Tensor:
        rows, columns = (m.to(c) for m in self._sides)
        images = rows.mT @ c.reshape(-1, *self.shape) @ columns
        if self.colours is not None:
            images = torch.einsum("bdhw,cd->bchw", images, self.colours.to(c))
        return images.reshape(c.shape) if shift is None else images.reshape(c.shape) + shift


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the data: V diag(values) Vᵀ around the mean.

    Args:
        mean: float64 ``(D,)``.
        values: the variance along each direction, float64 ``(D,)``, ≥ 0.
        basis: the directions; the coordinates themselves if not given.
        spectral: whether ``values`` are the variances along uncorrelated directions. Variances of correlated
            coordinates say how large the data are, but not on which scales they have structure.
        floor: least variance of a direction, in units of the mean one, > 0.
    """

    mean: Tensor
    values: Tensor
    basis: Basis = field(default_factory=Coordinates)
    spectral: bool = True
    floor: float = 1e-6

    def __post_init__(self) -> None:
        mean, values = (torch.as_tensor(v).detach().to("cpu", torch.float64) for v in (self.mean, self.values))
        if mean.ndim != 1 or values.shape != mean.shape:
            raise UserError(f"mean and values must both be (D,), got {tuple(mean.shape)} and {tuple(values.shape)}")
        if not mean.isfinite().all() or not values.isfinite().all() or not (values >= 0).all() or not values.any():
            raise UserError("moments must be finite, with variances >= 0 that are not all 0")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "values", values.clamp_min(self.floor * float(values.mean())))

    def __repr__(self) -> str:
        return f"Moments(D={len(self.mean)}, spread={self.spread:.3g}, largest={self.largest:.3g})"

    @classmethod
    def of(cls, mean: Tensor, cov: Tensor, floor: float = 1e-6) -> Moments:
        """From a covariance ``(D, D)``, by its eigenvectors, or from the variances ``(D,)`` of the coordinates."""
        mean, cov = (torch.as_tensor(v).detach().to("cpu", torch.float64) for v in (mean, cov))
        if cov.ndim == 1:
            return cls(mean, cov, spectral=False, floor=floor)
        if cov.shape != (len(mean), len(mean)) or not cov.isfinite().all():
            raise UserError(f"cov must be finite, ({len(mean)}, {len(mean)}) or ({len(mean)},), got {tuple(cov.shape)}")
        values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
        return cls(mean, values.clamp_min(0), Directions(vectors), floor=floor)

    @classmethod
    def leading(cls, mean: Tensor, spectrum: Tensor, directions: Tensor, floor: float = 1e-6) -> Moments:
        """From the variances ``(k + 1,)`` along leading directions ``(D, k)`` and, last, of each that is left."""
        rest = spectrum[-1:].expand(len(mean) - directions.shape[1])
        return cls(mean, torch.cat((spectrum[:-1], rest)), Leading(directions), floor=floor)

    @classmethod
    def unknown(cls, size: int) -> Moments:
        """What is assumed of data in [−1, 1] of which nothing is known: mean 0 and a variance of 0.41."""
        return cls(torch.zeros(size, dtype=torch.float64), torch.full((size,), 0.41), spectral=False)

    @property
    def spread(self) -> float:
        """The root mean variance of a coordinate."""
        return math.sqrt(float(self.values.mean()))

    @property
    def largest(self) -> float:
        """The largest standard deviation along a direction."""
        return math.sqrt(float(self.values.max()))

    @cached_property
    def alike(self) -> bool:
        """Whether all directions have the same variance, so that no basis is needed."""
        return bool((self.values == self.values[0]).all())

    @cached_property
    def array(self) -> Array:
        """``values`` as an array."""
        return np.ascontiguousarray(self.values.numpy())


_KNOWN: MutableMapping[Any, dict[int | None, Moments]] = WeakKeyDictionary()


def moments_of(denoiser: Denoiser, of_class: bool = True) -> Moments | None:
    """The moments that travel with a model: of its ``data``, or of the denoiser it is made from; None if unknown.

    ``data`` is anything with ``mean`` ``(D,)`` and ``cov`` ``(D, D)`` or ``(D,)``; if it is large it has a ``spectrum``
    too, of images with ``colours``, of other events with ``directions``, which are then taken. With ``class_mean`` and
    ``class_cov`` a model under one label gets those of its class, unless ``of_class`` is false.
    """
    seen: Any = denoiser
    while seen is not None:
        data = getattr(seen, "data", None)
        if data is not None:
            mean, cov = getattr(data, "mean", None), getattr(data, "cov", None)
            if mean is None or cov is None or not bool((torch.as_tensor(cov) != 0).any()):
                return None
            label, kept = _label(seen, data) if of_class else None, _KNOWN.setdefault(data, {})
            if label not in kept:
                kept[label] = _described(data, label, FLOOR if isinstance(seen, NetworkDenoiser) else EXACT_FLOOR)
            return kept[label]
        seen = getattr(seen, "base", None)
    return None


def _label(denoiser: Any, data: Any) -> int | None:
    """The label given for all samples, if its data say something of classes."""
    label, means = getattr(denoiser, "of_class", None), getattr(data, "class_mean", None)
    return None if label is None or means is None or label >= len(means) else int(label)


def _described(data: Any, label: int | None, floor: float) -> Moments:
    """The moments that a description gives, of all or of one class."""
    spectrum, directions = getattr(data, "spectrum", None), getattr(data, "directions", None)
    if spectrum is not None and directions is not None:
        return Moments.leading(data.mean, spectrum, directions, floor)
    if spectrum is not None:
        mean, spectrum = (data.mean, spectrum) if label is None else (data.class_mean[label], data.class_cov[label])
        return Moments(mean, spectrum, Cosines(tuple(data.shape), data.colours), floor=floor)
    if label is None:
        return Moments.of(data.mean, data.cov, floor)
    return Moments.of(data.class_mean[label], data.class_cov[label], floor)
