"""What an audit measures against: a small world, its belief at any noise level, its flow, its law and its floor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...processes import ScalarGaussian
from ...worlds import GaussianMixture, World

SHAPE = (1, 2, 2)
"""Of a sample, an image as pipelines have them."""

N = 2048
"""Samples of a law."""

Belief = Callable[[Tensor, float, float], Tensor]
"""E[x_0 | x = a·x_0 + s·ε] of states ``(B, *SHAPE)``, for a and s."""


@dataclass(frozen=True)
class At(ScalarGaussian):
    """One noise level, x = a·x_0 + s·ε, at all times."""

    a: float
    s: float

    def alpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.a)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.s)


@lru_cache(maxsize=1)
def world() -> GaussianMixture:
    """Three components in four dimensions, of 0.10 to 0.14 around means within ±0.35.

    All but 1e-5 of the data lie within [-1, 1], so that clipping x̂_0 there, the default of several schedulers, changes
    nothing.
    """
    means = [[0.35, -0.2, 0.1, 0.3], [-0.3, 0.3, 0.2, -0.25], [-0.1, -0.35, -0.3, 0.1]]
    variances = [[0.14**2, 0.1**2, 0.12**2, 0.1**2], [0.1**2, 0.12**2, 0.1**2, 0.14**2], [0.12**2] * 4]
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), torch.tensor(means), torch.tensor(variances))


POINT = torch.tensor([0.4, -0.3, 0.2, -0.5], dtype=torch.float64).reshape(1, *SHAPE)
"""The only datum of a world of one point."""


def belief(x: Tensor, a: float, s: float) -> Tensor:
    """The exact belief of the world, in float64."""
    flat = x.to(torch.float64).reshape(len(x), -1)
    if s == 0:
        return (flat / a).reshape(x.shape)
    mean: Tensor = world().denoiser(At(a, s))(flat, 0.5).mean
    return mean.reshape(x.shape)


def point(x: Tensor, a: float, s: float) -> Tensor:
    """The belief where ``POINT`` is the only datum."""
    return POINT.expand(x.shape)


def clean(n: int, seed: int) -> Tensor:
    """Data of the world, ``(n, *SHAPE)``."""
    drawn: Tensor = world().sample(n, seed)
    return drawn.reshape(n, *SHAPE)


def noise(n: int, seed: int) -> Tensor:
    """Standard normal, ``(n, *SHAPE)``."""
    return torch.randn(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flow(x: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    r"""The probability flow from one noise level to another, to 1e-10.

    In the angle φ = atan(s/a) the state z = x/√(a² + s²) = cos φ x_0 + sin φ ε has a flow that is finite at pure noise
    (φ = π/2) and at data:

    .. math:: \frac{dz}{dφ} = \cos φ\, \hat ε - \sin φ\, \hat x_0, \quad \hat ε = (z - \cos φ\, \hat x_0)/\sin φ

    It is integrated by an eighth-order Runge–Kutta method of relative tolerance 1e-10; the last 1e-5 before the data
    are a step of x̂_0, whose error is of the order of the square of that angle.

    Args:
        x: states a·x_0 + s·ε, ``(B, *SHAPE)``.
        start, end: (a, s) of both levels.
    """
    from scipy.integrate import solve_ivp

    first, last = (math.atan2(s, a) for a, s in (start, end))
    z = x.to(torch.float64) / math.hypot(*start)

    def slope(angle: float, y: object) -> object:
        now = torch.as_tensor(y).reshape(z.shape)
        cos, sin = math.cos(angle), math.sin(angle)
        mean = belief(now, cos, sin)
        return (cos * (now - cos * mean) / sin - sin * mean).reshape(-1).numpy()

    solved = solve_ivp(slope, (first, max(last, 1e-5)), z.reshape(-1).numpy(), "DOP853", rtol=1e-10, atol=1e-11)
    z = torch.as_tensor(solved.y[:, -1]).reshape(z.shape)
    if last < 1e-5:
        z = belief(z, math.cos(1e-5), math.sin(1e-5))
    return z * math.hypot(*end)


@lru_cache(maxsize=1)
def directions() -> Tensor:
    """64 unit vectors ``(64, D)``."""
    drawn = torch.randn(64, math.prod(SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=1, keepdim=True)


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Sliced 2-Wasserstein distance of two sets of equal size, along 64 directions."""
    a, b = ((v.to(torch.float64).reshape(len(v), -1) @ directions().T).sort(0).values for v in (x, y))
    return float((a - b).square().mean().sqrt())


@lru_cache(maxsize=1)
def real() -> Tensor:
    """The N data that samples are held against."""
    return clean(N, 77)


@lru_cache(maxsize=1)
def w2_floor() -> float:
    """What two sets of N independent data are apart: the mean and four standard deviations of 32 pairs."""
    found = torch.tensor([sliced_w2(clean(N, 1000 + i), real()) for i in range(32)])
    return float(found.mean() + 4 * found.std())


@dataclass(frozen=True)
class Law:
    """What samples of the world have of its law.

    Attributes:
        w2: sliced W2 to N data.
        mean: the largest error of a coordinate's mean, in standard errors of N samples.
        variance: the sum of the coordinates' variances over that of the world; 1 is right.
    """

    w2: float
    mean: float
    variance: float


def law(x: Tensor) -> Law:
    """The law of samples ``(N, *SHAPE)``."""
    flat, truth = x.to(torch.float64).reshape(len(x), -1), world()
    error = (flat.mean(0) - truth.mean).abs() / (truth.cov.diagonal() / len(flat)).sqrt()
    return Law(sliced_w2(x, real()), float(error.max()), float(flat.var(0).sum() / truth.cov.trace()))


@lru_cache(maxsize=1)
def variance_error() -> float:
    """Standard error of ``Law.variance`` over N samples of the truth, from 32 of them."""
    return float(torch.tensor([law(clean(N, 2000 + i)).variance for i in range(32)]).std())


def is_world(value: object) -> bool:
    """Whether something is a world."""
    return isinstance(value, World)
