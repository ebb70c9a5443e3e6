"""The worlds that the playground offers: Gaussian mixtures in the plane, of the size of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, shown
from ..worlds import GaussianMixture, random_mixture, ring
from .messages import choice

POINTS = 64
"""Points of a drawing at most."""


def _arc(centre: tuple[float, float], radius: float, begin: float, end: float, count: int) -> Tensor:
    angle = torch.linspace(begin, end, count, dtype=torch.float64)
    return torch.tensor(centre, dtype=torch.float64) + radius * torch.stack((angle.cos(), angle.sin()), -1)


def _round(means: Tensor, std: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(len(means)), means, torch.full((len(means),), std**2))


def two() -> GaussianMixture:
    """Two components, one with three quarters of the weight."""
    covariances = torch.tensor([[[0.10, 0.06], [0.06, 0.08]], [[0.03, -0.01], [-0.01, 0.06]]])
    return GaussianMixture(torch.tensor([0.75, 0.25]), torch.tensor([[-0.6, -0.2], [0.8, 0.5]]), covariances)


def moons() -> GaussianMixture:
    """Two interleaved half circles, of 40 small components."""
    upper = _arc((-0.45, -0.2), 0.9, 0.0, math.pi, 20)
    lower = _arc((0.45, 0.2), 0.9, math.pi, 2 * math.pi, 20)
    return _round(torch.cat((upper, lower)), 0.08)


def spiral() -> GaussianMixture:
    """A spiral of one and a half turns, of 48 small components."""
    s = torch.linspace(0.15, 1.0, 48, dtype=torch.float64)
    angle = 3 * math.pi * s
    return _round(1.3 * s[:, None] * torch.stack((angle.cos(), angle.sin()), -1), 0.06)


def checkerboard() -> GaussianMixture:
    """The dark squares of a board of 4 × 4, each of 4 round components."""
    squares = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    corners = [(a, b) for a in (-0.14, 0.14) for b in (-0.14, 0.14)]
    means = [[0.6 * (i - 1.5) + a, 0.6 * (j - 1.5) + b] for i, j in squares for a, b in corners]
    return _round(torch.tensor(means, dtype=torch.float64), 0.09)


WORLDS: Mapping[str, Callable[[], GaussianMixture]] = {
    "ring": ring,
    "two": two,
    "mixture": lambda: random_mixture(2, components=6, rms=0.7),
    "moons": moons,
    "spiral": spiral,
    "checkerboard": checkerboard,
}
"""Worlds by name; ``drawn`` is one of the page's own points."""


def drawn(points: Any) -> GaussianMixture:
    """The world of points that somebody drew: a round component around each.

    Args:
        points: pairs of numbers in [−2, 2], 1 to 64 of them.

    Raises:
        UserError: for anything else.
    """
    fine = isinstance(points, list) and 1 <= len(points) <= POINTS
    try:
        means = torch.tensor(points, dtype=torch.float64) if fine else torch.empty(0)
    except (TypeError, ValueError):
        means = torch.empty(0)
    if means.ndim != 2 or means.shape[1] != 2 or not bool((means.abs() <= 2).all()):
        raise UserError(f"points must be 1…{POINTS} pairs of numbers in [-2, 2], got {shown(points)}")
    return _round(means, 0.09)


def asked(given: Mapping[str, Any]) -> tuple[str, GaussianMixture]:
    """The world of a page's request: its name, and itself.

    Raises:
        UserError: for a name that is not known, and for points that are none.
    """
    name = choice(given, "world", "ring", {*WORLDS, "drawn"})
    return name, drawn(given.get("points")) if name == "drawn" else WORLDS[name]()


def python(name: str, world: GaussianMixture) -> tuple[Sequence[str], Sequence[str]]:
    """The imports of a world in Python, and the lines that make it."""
    if name == "ring":
        return ["import langevin"], ["world = langevin.worlds.ring()"]
    if name == "mixture":
        return ["import langevin"], ["world = langevin.worlds.random_mixture(2, components=6, rms=0.7)"]
    if name == "drawn":
        means = [[round(v, 3) for v in mean] for mean in world.means.tolist()]
        made = "langevin.worlds.GaussianMixture(torch.ones(len(means)), means, torch.full((len(means),), 0.09**2))"
        return ["import torch", "import langevin"], [f"means = torch.tensor({means})", f"world = {made}"]
    known = "langevin.playground.shapes"
    return ["import langevin", f"import {known}"], [f'world = {known}.WORLDS["{name}"]()']
