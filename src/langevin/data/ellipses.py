"""Ellipse phantoms: what reconstruction from projections is tried on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Noise
from ..numerics.streams import Stream
from .dataset import Dataset, Examples, Options, assemble
from .entry import Entry

TRAIN, TEST = 5_000, 500
SEED = 0
MOST = 12
"""Ellipses inside the body at most."""


@register(
    "data",
    "ellipses",
    title="Ellipse phantoms: bodies with organs, grey (made)",
    proof="exact: tests/data/test_ellipses.py",
    about=Entry(5_000, 500, (1, 64, 64)),
)
def ellipses(options: Options | None = None) -> Dataset:
    """Random phantoms for computed tomography: a body, and 4 to 12 ellipses of other densities in it.

    5,000 to train on and 500 held out, made from a fixed seed, each by its own noise; 64×64 pixels unless ``size`` says
    otherwise (16 to 256). x = 2·density − 1 with densities in [0, 1]; an edge is as wide as a pixel.
    """
    options = options or Options()
    size = options.size or 64
    if options.channels not in (None, 1) or options.crop != "center" or not 16 <= size <= 256:
        raise UserError("ellipses: images are grey and whole, with a size of 16 to 256; got other options.")
    counts = [min(n, options.limit or n) for n in (TRAIN, TEST)]
    noises = [Noise(SEED, counts[0]), Noise(SEED, torch.arange(TRAIN, TRAIN + counts[1]))]
    return assemble("ellipses", [Examples(phantoms(noise, size)) for noise in noises], options)


def phantoms(noise: Noise, size: int) -> Tensor:
    """A phantom a sample of the noise, float32 ``(B, 1, size, size)`` in [−1, 1]."""
    u = noise.fold_in(Stream.PHANTOM).uniform((MOST + 1, 6))
    count = 4 + (noise.fold_in(Stream.PHANTOM_COUNT).uniform(()) * (MOST - 3)).long()
    at = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    made = []
    for own, some in zip(u.float().split(128), count.split(128)):
        image = torch.zeros(len(own), size, size)
        body = (own[:, 0, 1] * 0.2 + 0.65, own[:, 0, 2] * 0.2 + 0.65)
        for k in range(MOST + 1):
            density, long, wide, x, y, turn = own[:, k].unbind(1)
            if k == 0:
                value, a, b = 0.4 + 0.2 * density, *body
                cx = cy = torch.zeros_like(x)
                angle = (turn - 0.5) * 0.6
            else:
                value = (density - 0.5) * 0.8 * (k <= some)
                a, b = 0.06 + 0.28 * long**2, 0.06 + 0.28 * wide**2
                radius, side = 0.75 * torch.sqrt(x), 2 * math.pi * y
                cx, cy = radius * body[0] * torch.cos(side), radius * body[1] * torch.sin(side)
                angle = math.pi * turn
            image += value[:, None, None] * inside(at, size, a, b, cx, cy, angle)
        made.append(2 * image.clamp(0, 1) - 1)
    return torch.cat(made)[:, None]


def inside(at: Tensor, size: int, a: Tensor, b: Tensor, cx: Tensor, cy: Tensor, angle: Tensor) -> Tensor:
    """How much of each pixel lies in an ellipse, ``(B, size, size)``, from the distance to its edge to first order.

    Args:
        at: places of the pixels' middles in [−1, 1], ``(size,)``.
        size: pixels a side.
        a, b, cx, cy, angle: half axes, centre and turn of each ellipse, ``(B,)``.
    """
    column = lambda v: v[:, None, None]
    x, y = at[None, None, :] - column(cx), at[None, :, None] - column(cy)
    cos, sin = column(torch.cos(angle)), column(torch.sin(angle))
    p, q = (cos * x + sin * y) / column(a), (cos * y - sin * x) / column(b)
    f = torch.sqrt(p**2 + q**2 + 1e-12)
    slope = torch.sqrt((p / column(a)) ** 2 + (q / column(b)) ** 2 + 1e-12) / f
    return (0.5 + (1 - f) / slope * size / 2).clamp(0, 1)
