"""Point sets in the plane, drawn from a fixed seed, with RMS about 1 a coordinate."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from .._errors import UserError
from .._registry import register
from .dataset import Dataset, Examples, Options, assemble, subset
from .entry import Entry

TRAIN, TEST = 20_000, 5_000
SEED = 0

Points = tuple[np.ndarray, "np.ndarray | None"]

RING_STD = 0.15
RING_MEANS = math.sqrt(2) * np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], axis=1)
"""Component means of ``mixture``, float64 ``(8, 2)``; each component is isotropic with ``RING_STD``."""


def _toy(
    name: str, title: str, classes: tuple[str, ...] = ()
) -> Callable[[Callable[[int, np.random.RandomState], Points]], Callable[[Options | None], Dataset]]:
    """Make the loader of a point set from its sampler, and register it."""

    def wrap(points: Callable[[int, np.random.RandomState], Points]) -> Callable[[Options | None], Dataset]:
        @functools.wraps(points, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
        def load(options: Options | None = None) -> Dataset:
            options = options or Options()
            if options.size is not None or options.channels is not None:
                raise UserError(f"{name}: these are points of shape (2,); size and channels are for images.")
            # RandomState: its stream is frozen, so these are the same points under every version of NumPy.
            x, label = points(TRAIN + TEST, np.random.RandomState(SEED))
            cut = (slice(0, TRAIN), slice(TRAIN, None))
            parts = [
                Examples(torch.from_numpy(x[s]).float(), {} if label is None else {"label": torch.from_numpy(label[s])})
                for s in cut
            ]
            parts = [subset(part, options.limit) for part in parts]
            return assemble(name, parts, options, classes=classes, bounded=False)

        about = Entry(TRAIN, TEST, (2,))
        return register("data", name, title=title, proof="exact: tests/data/test_named.py", about=about)(load)

    return wrap


@_toy("moons", "Two interleaved half circles (points)", ("upper", "lower"))
def moons(n: int, rng: np.random.RandomState) -> Points:
    """scikit-learn's two moons with noise 0.05: (cos φ, sin φ) and (1 − cos φ, ½ − sin φ), φ uniform in [0, π].

    Centred and times √2. The angles are drawn independently (scikit-learn lays them on a grid, and a grid is not a
    sample of its law). Labels: 0 upper, 1 lower.
    """
    label = rng.randint(2, size=n).astype(np.int64)
    angle = math.pi * rng.uniform(size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(label[:, None] == 0, upper, lower) + 0.05 * rng.standard_normal((n, 2))
    return math.sqrt(2) * (x - np.array([0.5, 0.25])), label


@_toy("swissroll", "Swiss roll (points)")
def swissroll(n: int, rng: np.random.RandomState) -> Points:
    """scikit-learn's roll seen from its side, over 7: u (cos u, sin u) + 0.5 ε, u uniform in [3π/2, 9π/2]."""
    u = 1.5 * math.pi * (1 + 2 * rng.uniform(size=n))
    x = np.stack([u * np.cos(u), u * np.sin(u)], axis=1) + 0.5 * rng.standard_normal((n, 2))
    return x / 7, None


@_toy("checkerboard", "Checkerboard of 4×4 squares (points)")
def checkerboard(n: int, rng: np.random.RandomState) -> Points:
    """Uniform on the 8 unit squares of [−2, 2]² with ⌊x⌋ + ⌊y⌋ even (RMS 1.15)."""
    square = rng.randint(8, size=n)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = np.stack([column, row], axis=1) - 2.0
    return corner + rng.uniform(size=(n, 2)), None


@_toy("mixture", "Eight Gaussians on a ring (points)", tuple(str(k) for k in range(8)))
def mixture(n: int, rng: np.random.RandomState) -> Points:
    """Eight equal isotropic Gaussians of standard deviation 0.15 on a circle of radius √2; label = component."""
    label = rng.randint(8, size=n).astype(np.int64)
    return RING_MEANS[label] + RING_STD * rng.standard_normal((n, 2)), label
