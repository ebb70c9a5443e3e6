"""What of the belief an exponential multistep method interpolates, in which variable, and the weight it integrates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...numerics.quadrature import Array
from ...processes import ScalarGaussian


@dataclass(frozen=True)
class Point:
    """A time and what a process is there: α, σ, u = log σ/α (−∞ at clean data, +∞ where α = 0)."""

    t: float
    alpha: float
    sigma: float

    @property
    def u(self) -> float:
        if self.sigma == 0:
            return -math.inf
        return math.inf if self.alpha == 0 else math.log(self.sigma) - math.log(self.alpha)

    @property
    def angle(self) -> float:
        return math.atan2(self.sigma, self.alpha)


@dataclass(frozen=True)
class Prediction:
    r"""A linear function f = p x̂_0 + q ε̂ of the belief in which the flow is a plain integral.

    x/n has the derivative f with respect to a measure m, so :math:`x_s = \frac{n_s}{n_t} x_t + n_s \int_t^s f\,dm`.
    With u = log σ/α and a share η of the reverse SDE's noise:

    ======  ===============  ====  ======  =================================
    f       n                p     q       dm/du
    ======  ===============  ====  ======  =================================
    x0      σ e^{η² u}       1     0       −(1 + η²) e^{−(1 + η²) u}
    eps     α                0     1       (1 + η²) e^u
    v       √(α² + σ²)       −σ/n  α/n     1 / (2 cosh u)
    flow    α + σ            −1    1       1 / (4 cosh² u/2)
    ======  ===============  ====  ======  =================================

    Attributes:
        scale: n_s/n_t of two points and η.
        parts: (p, q) at a point.
        total: n_s ∫ dm, without cancellation for short steps.
        density: dm/du up to a constant, of (u − u_s, u, η).
        weight: n_s dm/du at s, of (s, η).
        std: standard deviation of the noise of a step at η; None where there is no stochastic form.
    """

    scale: Callable[[Point, Point, float], float]
    parts: Callable[[Point], tuple[float, float]]
    total: Callable[[Point, Point, float], float]
    density: Callable[[Array, Array, float], Array]
    weight: Callable[[Point, float], float]
    std: Callable[[Point, Point, float], float] | None = None


def _scale_x0(t: Point, s: Point, eta: float) -> float:
    return s.sigma / t.sigma * (math.exp(eta**2 * (s.u - t.u)) if eta else 1.0)


def _turn(t: Point, s: Point) -> float:
    """The angle from t to s, by tan(a − b) = (ρ_s − ρ_t)/(1 + ρ_s ρ_t) where both are finite."""
    if math.isinf(t.u) or math.isinf(s.u):
        return s.angle - t.angle
    return math.atan(math.sinh((s.u - t.u) / 2) / math.cosh((s.u + t.u) / 2))


def _share(t: Point, s: Point) -> float:
    """The change of σ/(α + σ)."""
    if math.isinf(t.u) or math.isinf(s.u):
        return s.sigma / (s.alpha + s.sigma) - t.sigma / (t.alpha + t.sigma)
    return math.sinh((s.u - t.u) / 2) / (2 * math.cosh(s.u / 2) * math.cosh(t.u / 2))


def _norm(p: Point) -> float:
    return math.hypot(p.alpha, p.sigma)


PREDICTIONS = {
    "x0": Prediction(
        scale=_scale_x0,
        parts=lambda p: (1.0, 0.0),
        total=lambda t, s, eta: -s.alpha * math.expm1((1 + eta**2) * (s.u - t.u)),
        density=lambda behind, u, eta: np.exp(-(1 + eta**2) * behind),
        weight=lambda s, eta: -(1 + eta**2) * s.alpha,
        std=lambda t, s, eta: s.sigma * math.sqrt(-math.expm1(2 * eta**2 * (s.u - t.u))),
    ),
    "eps": Prediction(
        scale=lambda t, s, eta: s.alpha / t.alpha,
        parts=lambda p: (0.0, 1.0),
        total=lambda t, s, eta: (1 + eta**2) * t.sigma * s.alpha / t.alpha * math.expm1(s.u - t.u),
        density=lambda behind, u, eta: np.exp(behind),
        weight=lambda s, eta: (1 + eta**2) * s.sigma,
        std=lambda t, s, eta: eta * t.sigma * s.alpha / t.alpha * math.sqrt(-math.expm1(2 * (s.u - t.u))),
    ),
    "v": Prediction(
        scale=lambda t, s, eta: _norm(s) / _norm(t),
        parts=lambda p: (-p.sigma / _norm(p), p.alpha / _norm(p)),
        total=lambda t, s, eta: _norm(s) * _turn(t, s),
        density=lambda behind, u, eta: 1 / np.cosh(u),
        weight=lambda s, eta: s.alpha * s.sigma / _norm(s),
    ),
    "flow": Prediction(
        scale=lambda t, s, eta: (s.alpha + s.sigma) / (t.alpha + t.sigma),
        parts=lambda p: (-1.0, 1.0),
        total=lambda t, s, eta: (s.alpha + s.sigma) * _share(t, s),
        density=lambda behind, u, eta: 1 / np.cosh(u / 2) ** 2,
        weight=lambda s, eta: s.alpha * s.sigma / (s.alpha + s.sigma),
    ),
}
"""What of the belief is interpolated."""

VARIABLES: dict[str, Callable[[ScalarGaussian, Array], Array]] = {
    "log-snr": lambda process, u: -2 * u,
    "ratio": lambda process, u: np.exp(u),
    "angle": lambda process, u: np.arctan(np.exp(u)),
    "sigma": lambda process, u: process.sigma(process.time(torch.as_tensor(-2 * u))).numpy(),
    "time": lambda process, u: process.time(torch.as_tensor(-2 * u)).numpy(),
}
"""The variable in which it is a polynomial, of u = log σ/α."""

BOUNDED = ("angle", "sigma", "time")
"""Variables that are finite where α = 0."""
