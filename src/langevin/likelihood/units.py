"""Nats to bits a dimension, with what must be said along with the number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._errors import UserError
from ..denoisers import DataDescription


@dataclass(frozen=True)
class Units:
    r"""The units in which the nats of an event are reported.

    For data that take L levels between ``low`` and ``high`` the width of a bin is Δ = (high − low)/(L − 1), and

    .. math::
        \mathrm{bits/dim} = \frac{-\log P(x)}{D \log 2} \quad\text{(a probability)}, \qquad
        \mathrm{bits/dim} = \frac{-\log p(x) - D \log Δ}{D \log 2} \quad\text{(a density)},

    so that both are bits of one level: a density that is constant over each bin has P = p·Δ^D. The density of data
    without levels is left as it is, without a Jacobian: its bits depend on the unit the data are measured in.

    Args:
        dim: D ≥ 1.
        density: whether the nats are of a density, not of a probability.
        levels: L ≥ 2, or None for data without.
        low, high: the range of data with levels, low < high.
    """

    dim: int
    density: bool = False
    levels: int | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if type(self.dim) is not int or self.dim < 1:
            raise UserError(f"dim must be an integer of at least 1, got {self.dim!r}")
        if self.levels is not None:
            width(self.levels, self.low, self.high)

    @classmethod
    def of(cls, data: DataDescription | None, shape: tuple[int, ...], density: bool) -> Units:
        """The units of events of a shape; ``data`` is None for unknown data."""
        if data is None or data.levels is None:
            return cls(math.prod(shape), density)
        return cls(math.prod(shape), density, data.levels, data.low, data.high)

    @property
    def width(self) -> float | None:
        """Δ, or None for data without levels."""
        return None if self.levels is None else width(self.levels, self.low, self.high)

    def bits_per_dim(self, nats: Tensor) -> Tensor:
        """Bits a dimension of −log P or −log p, in nats, of any shape; float64."""
        nats = nats.double()
        if self.density and self.width is not None:
            nats = nats - self.dim * math.log(self.width)
        return nats / (self.dim * math.log(2))

    def protocol(self) -> dict[str, Any]:
        """What was counted, as plain JSON: it belongs next to every figure."""
        of = "density" if self.density else "probability"
        if self.levels is None:
            unit = f"bits a dimension of the {of}" + ", no Jacobian of the data's range" * self.density
            return {"of": of, "unit": unit, "dim": self.dim}
        unit = f"bits a dimension at {self.levels} levels on [{self.low:g}, {self.high:g}]"
        return {"of": of, "unit": unit, "dim": self.dim, "levels": self.levels, "low": self.low, "high": self.high}


class Measured(ABC):
    """A measure of −log p(x) of each sample: its nats, and what they are counted in."""

    units: Units

    @property
    @abstractmethod
    def nats(self) -> Tensor:
        """−log p(x) or a bound on it, ``(B,)``."""

    @property
    def bits_per_dim(self) -> Tensor:
        """Bits a dimension, ``(B,)``."""
        return self.units.bits_per_dim(self.nats)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean of ``nats``, over data and draws."""
        return error_of_mean(self.nats)


def error_of_mean(values: Tensor) -> float:
    """The standard error of the mean of values ``(B,)``; not-a-number for one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def width(levels: int, low: float | None, high: float | None) -> float:
    """Δ = (high − low)/(levels − 1), the distance of two levels."""
    if type(levels) is not int or levels < 2:
        raise UserError(f"levels must be an integer of at least 2, got {levels!r}")
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise UserError(f"low, high must be finite with low < high, got {low} and {high}")
    return (high - low) / (levels - 1)
