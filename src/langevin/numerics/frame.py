"""The Gaussian frame: coordinates along the principal directions of a Gaussian, in which its flow is a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .quadrature import Array

UNKNOWN_VARIANCE = 0.41
"""Assumed of data in [−1, 1] of which nothing is known; benchmarks/fit_grid.py fits it."""

LEADING = 64
"""Principal directions of events that are too large for a full covariance, at most; images have cosines."""


class Basis(Protocol):
    """An orthonormal change of coordinates of flattened events, in float64."""

    def to(self, x: Tensor) -> Tensor:
        """Coordinates along the directions, ``(B, D)`` of ``(B, D)``."""
        ...

    def back(self, c: Tensor) -> Tensor:
        """The inverse of ``to``."""
        ...

    def on(self, device: torch.device) -> Basis:
        """The same basis on a device."""
        ...


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates themselves."""

    def to(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c

    def on(self, device: torch.device) -> Coordinates:
        return self


@dataclass(frozen=True, eq=False)
class Directions:
    """The columns of an orthonormal matrix ``(D, D)``."""

    matrix: Tensor

    def to(self, x: Tensor) -> Tensor:
        return x @ self.matrix

    def back(self, c: Tensor) -> Tensor:
        return c @ self.matrix.mT

    def on(self, device: torch.device) -> Directions:
        return Directions(self.matrix.to(device))


@dataclass(frozen=True, eq=False)
class Leading:
    """The columns of ``(D, k)``, k < D, and D − k more directions at right angles to them and to each other.

    Which ones is left open: they are those of k Householder reflections, and a change of basis costs 4kD operations.
    """

    columns: Tensor
    reflections: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reflections", tuple(torch.geqrf(self.columns.to(torch.float64))))

    def to(self, x: Tensor) -> Tensor:
        return torch.ormqr(*self.reflections, x, left=False)

    def back(self, c: Tensor) -> Tensor:
        return torch.ormqr(*self.reflections, c, left=False, transpose=True)

    def on(self, device: torch.device) -> Leading:
        return self if self.columns.device == device else Leading(self.columns.to(device))


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
        device: where its matrices are.
    """

    shape: tuple[int, int, int]
    colours: Tensor | None = None
    device: torch.device | str = "cpu"

    @cached_property
    def _sides(self) -> tuple[Tensor, Tensor]:
        return cosines(self.shape[1]).to(self.device), cosines(self.shape[2]).to(self.device)

    def to(self, x: Tensor) -> Tensor:
        rows, columns = self._sides
        images = x.reshape(-1, *self.shape)
        if self.colours is not None:
            images = torch.einsum("bchw,cd->bdhw", images, self.colours.to(x))
        return (rows @ images @ columns.mT).reshape(x.shape)

    def back(self, c: Tensor) -> Tensor:
        rows, columns = self._sides
        images = rows.mT @ c.reshape(-1, *self.shape) @ columns
        if self.colours is not None:
            images = torch.einsum("bdhw,cd->bchw", images, self.colours.to(c))
        return images.reshape(c.shape)

    def on(self, device: torch.device) -> Cosines:
        return replace(self, device=device)


class DataMoments:
    """What a description of data may know of their mean and covariance; None where it does not.

    Attributes:
        mean: ``(D,)``.
        cov: ``(D, D)``, or the variances of the coordinates ``(D,)``.
        spectrum: of data that are large, the variances of the cosines of images, or ``(k + 1,)`` along ``directions``
            and of each direction that is left.
        colours: orthonormal directions of the channels of images, as columns.
        directions: leading principal directions, ``(D, k)``.
        class_mean, class_cov: of each class, ``(K, …)``.
    """

    if TYPE_CHECKING:  # read-only: a class may have them as fields or as properties

        @property
        def mean(self) -> Tensor | None: ...
        @property
        def cov(self) -> Tensor | None: ...
        @property
        def spectrum(self) -> Tensor | None: ...
        @property
        def colours(self) -> Tensor | None: ...
        @property
        def directions(self) -> Tensor | None: ...
        @property
        def class_mean(self) -> Tensor | None: ...
        @property
        def class_cov(self) -> Tensor | None: ...

    else:
        mean = cov = spectrum = colours = directions = class_mean = class_cov = None


@dataclass(frozen=True, eq=False)
class GaussianFrame:
    r"""Coordinates in which N(m, V diag(λ) Vᵀ), the Gaussian with the data's mean and covariance, is a product.

    .. math:: c = V^T (x - s\,m), \qquad x = V c + s\,m

    with s the signal scale of the state x (1 for data, α for :math:`x_t = α x_0 + σ ε`).

    Args:
        mean: m, float64 ``(D,)``.
        variances: λ, the variance along each direction, float64 ``(D,)``, ≥ 0.
        basis: V; the coordinates themselves if not given, or if all variances are equal.
        spectral: whether λ are the variances along uncorrelated directions. Variances of correlated coordinates say
            how large the data are, but not on which scales they have structure.
        floor: least variance of a direction, in units of the mean one, > 0.
    """

    mean: Tensor
    variances: Tensor
    basis: Basis = field(default_factory=Coordinates)
    spectral: bool = True
    floor: float = 1e-6

    def __post_init__(self) -> None:
        mean, variances = (torch.as_tensor(v).detach().to(torch.float64) for v in (self.mean, self.variances))
        if mean.ndim != 1 or variances.shape != mean.shape:
            raise UserError(f"mean and variances must be (D,), got {tuple(mean.shape)} and {tuple(variances.shape)}")
        if not mean.isfinite().all() or not variances.isfinite().all() or not (variances >= 0).all():
            raise UserError("mean and variances must be finite, and variances >= 0")
        if not variances.any():
            raise UserError("variances must not all be 0")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "variances", variances.clamp_min(self.floor * float(variances.mean())))
        if self.isotropic:  # every basis is as good
            object.__setattr__(self, "basis", Coordinates())

    def __repr__(self) -> str:
        return f"GaussianFrame(D={len(self.mean)}, std={self.std:.3g}, largest={self.largest:.3g})"

    @classmethod
    def from_covariance(cls, mean: Tensor, cov: Tensor, floor: float = 1e-6) -> GaussianFrame:
        """From a covariance ``(D, D)``, by its eigenvectors, or from the variances ``(D,)`` of the coordinates."""
        mean, cov = (torch.as_tensor(v).detach().to("cpu", torch.float64) for v in (mean, cov))
        if cov.ndim == 1:
            return cls(mean, cov, spectral=False, floor=floor)
        if cov.shape != (len(mean), len(mean)) or not cov.isfinite().all():
            raise UserError(f"cov must be finite, ({len(mean)}, {len(mean)}) or ({len(mean)},), got {tuple(cov.shape)}")
        variances, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
        return cls(mean, variances.clamp_min(0), Directions(vectors), floor=floor)

    @classmethod
    def from_leading(cls, mean: Tensor, spectrum: Tensor, directions: Tensor, floor: float = 1e-6) -> GaussianFrame:
        """From the variances ``(k + 1,)`` along leading directions ``(D, k)`` and, last, of each that is left."""
        rest = spectrum[-1:].expand(len(mean) - directions.shape[1])
        return cls(mean, torch.cat((spectrum[:-1], rest)), Leading(directions), floor=floor)

    @classmethod
    def unknown(cls, size: int, variance: float = UNKNOWN_VARIANCE) -> GaussianFrame:
        """What is assumed of data in [−1, 1] of which nothing is known: mean 0 and one variance."""
        return cls(torch.zeros(size, dtype=torch.float64), torch.full((size,), variance), spectral=False)

    @property
    def std(self) -> float:
        """The root mean variance of a coordinate."""
        return math.sqrt(float(self.variances.mean()))

    @property
    def largest(self) -> float:
        """The largest standard deviation along a direction."""
        return math.sqrt(float(self.variances.max()))

    @cached_property
    def isotropic(self) -> bool:
        """Whether all directions have the same variance."""
        return bool((self.variances == self.variances[0]).all())

    @cached_property
    def shifted(self) -> bool:
        """Whether the mean is not 0."""
        return bool(self.mean.any())

    @cached_property
    def array(self) -> Array:
        """λ as an array."""
        return np.ascontiguousarray(self.variances.cpu().numpy())

    def to(self, x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """c of events or states ``(B, *shape)``, float64 ``(B, D)``."""
        flat = x.flatten(1).double()
        return self.basis.to(flat - scale * self.mean if self.shifted else flat)

    def back(self, c: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """x of c, float64 ``(B, D)``."""
        x = self.basis.back(c)
        return x + scale * self.mean if self.shifted else x

    def floor_variances(self, share: float) -> GaussianFrame:
        """The frame with no direction narrower than this share of the mean variance."""
        least = share * float(self.variances.mean())
        if float(self.variances.min()) >= least:
            return self
        return replace(self, variances=self.variances.clamp_min(least))

    def on(self, device: torch.device) -> GaussianFrame:
        """The same frame on a device."""
        if self.mean.device == device:
            return self
        basis = self.basis.on(device)
        return replace(self, mean=self.mean.to(device), variances=self.variances.to(device), basis=basis)
