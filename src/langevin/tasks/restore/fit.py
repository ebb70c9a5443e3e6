"""Whether samples explain their measurement and lie where data lie: what tells a run of too few steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...operators import GaussianNoise, Measurement, PoissonNoise

FACTOR = 3.0
"""Residuals over the noise from which on samples do not fit; those of exact samples are 1."""

SHARE = 0.01
"""Residuals over the range of y from which on samples do not fit a measurement without noise."""

FAR = 0.1
"""How far beyond the range of the data, as a share of it, a number counts as outside."""

OUTSIDE = 0.01
"""Share of numbers outside from which on samples do not look like data."""


@dataclass(frozen=True)
class Fit:
    """How well samples explain a measurement.

    Args:
        residual: root mean square of y − A(x), in units of y; of counts, of y − gain·(A(x) + offset).
        std: standard deviation of the noise; of counts √mean(y), of which E|y − rate|² = mean rate; None of other laws.
        relative: the residual over std; where std is 0 or None over the range of y.
        outside: share of the samples' numbers that lie beyond the data's range by more than a tenth of it; None if the
            range is not known.
        counts: whether the noise is that of counts, which has no std to choose.
    """

    residual: float
    std: float | None
    relative: float
    outside: float | None
    counts: bool = False

    @property
    def limit(self) -> float:
        """Of ``relative``."""
        return FACTOR if self.std else SHARE

    @property
    def fits(self) -> bool:
        """Whether the residual is one that samples of the posterior may have; always where the noise has no std."""
        return self.std is None or self.relative <= self.limit

    @property
    def strange(self) -> bool:
        """Whether numbers lie where no data do."""
        return self.outside is not None and self.outside > OUTSIDE

    @property
    def enough(self) -> bool:
        """Whether samples fit and are not strange."""
        return self.fits and not self.strange


def fit(measurement: Measurement, x: Tensor, bounds: tuple[float, float] | None = None) -> Fit:
    r"""How well samples explain a measurement. Of exact samples of the posterior

    .. math:: E\, \|y - A(x)\|^2 / m = s^2

    over measurements y of m numbers and samples x: given y, a sample has the law of the true x_0, so y − A(x) has the
    law of y − A(x_0), which is the noise. For one y it is s²(1 ± 3√(2/m)) or so; a residual of more than 3 s has nine
    times the power. A residual that is *small* does not say that samples are right.

    Args:
        measurement: one, of all the samples.
        x: samples ``(n, *shape)``.
        bounds: of the data.
    """
    clean = measurement.operator(x)
    expected = measurement.noise.rate(clean) if isinstance(measurement.noise, PoissonNoise) else clean
    residual = math.sqrt(float((measurement.y.to(clean) - expected).double().square().mean()))
    counts = isinstance(measurement.noise, PoissonNoise)
    std = measurement.noise.std if isinstance(measurement.noise, GaussianNoise) else None
    if counts:
        std = math.sqrt(float(measurement.y.double().mean().clamp_min(0))) or None
    against = std or float(measurement.y.max() - measurement.y.min()) or 1.0
    outside = None
    if bounds is not None:
        low, high = bounds
        far = FAR * (high - low)
        outside = float(((x < low - far) | (x > high + far)).double().mean())
    return Fit(residual, std, residual / against, outside, counts)
