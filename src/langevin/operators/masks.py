"""Masks of images, True where a pixel is known: a hidden box, random pixels, strokes of a brush, a known box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError, shown
from .._registry import register
from ..distributions import Noise, Stream
from .base import Shape
from .images import height_and_width, share
from .inpaint import Inpaint

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


def box_mask(shape: Shape, box: Box | float = 0.5) -> Tensor:
    """A mask that hides a box, bool ``(H, W)``.

    Args:
        shape: of the images, ``(H, W)`` or ``(C, H, W)``.
        box: (top, left, height, width), or the share of the height and of the width that a box in the middle takes.
    """
    return ~_inside(shape, "box", box)


def random_mask(shape: Shape, known: float = 0.3, seed: int = 0) -> Tensor:
    """A mask of pixels chosen at random, the same for all channels, bool ``(H, W)``.

    Args:
        shape: of the images, ``(H, W)`` or ``(C, H, W)``.
        known: the share of pixels that are known, to the nearest pixel and at least one.
        seed: which.
    """
    height, width = height_and_width(shape)
    size = height * width
    order = Noise(seed, 1).fold_in(Stream.MASK).uniform((size,))[0].argsort()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order[: max(1, round(share("known", known) * size))]] = True
    return mask.reshape(height, width)


TURNS = 8
"""Straight pieces of a stroke of the brush."""


def free_form_mask(shape: Shape, hidden: float = 0.25, seed: int = 0) -> Tensor:
    """A mask that hides strokes of a round brush, bool ``(H, W)``.

    A stroke starts anywhere, goes straight for up to a quarter of the shorter side, turns by up to 120°, and so eight
    times; its width is between a sixteenth and an eighth of that side, and a pixel at least. Pieces are painted until
    enough is hidden, those of 64 strokes at most; none that would hide the last known pixel.

    Args:
        shape: of the images, ``(H, W)`` or ``(C, H, W)``.
        hidden: the share of pixels to be hidden at least.
        seed: which strokes.
    """
    height, width = height_and_width(shape)
    share("hidden", hidden)
    side = min(height, width)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    mask = torch.ones(height, width, dtype=torch.bool)
    for i in range(64):
        start, first, brush, *moves = Noise(seed, 1).fold_in(Stream.STROKES + i).uniform((3 + TURNS, 2))[0].tolist()
        at, angle = (start[0] * height, start[1] * width), 2 * math.pi * first[0]
        radius = max(0.5, side / 32 * (1 + brush[0]))
        for far, turn in moves:
            if 1 - float(mask.to(torch.float64).mean()) >= hidden:
                return mask
            angle += (2 * turn - 1) * 2 * math.pi / 3
            step = side / 4 * far
            to = (
                min(max(at[0] + step * math.sin(angle), 0.0), height - 1.0),
                min(max(at[1] + step * math.cos(angle), 0.0), width - 1.0),
            )
            painted = mask & ~(_distance(y, x, at, to) <= radius)
            at = to
            mask = painted if bool(painted.any()) else mask
    return mask


def _distance(y: Tensor, x: Tensor, a: tuple[float, float], b: tuple[float, float]) -> Tensor:
    """Of pixels to the straight piece from a to b."""
    dy, dx = b[0] - a[0], b[1] - a[1]
    along = (((y - a[0]) * dy + (x - a[1]) * dx) / max(dy**2 + dx**2, 1e-12)).clamp(0, 1)
    return torch.hypot(y - a[0] - along * dy, x - a[1] - along * dx)


def _inside(shape: Shape, name: str, box: Box | float) -> Tensor:
    """True in a box of an image, which must leave something outside."""
    height, width = height_and_width(shape)
    if isinstance(box, (tuple, list)):
        if len(box) != 4 or not all(isinstance(n, int) and not isinstance(n, bool) for n in box):
            raise UserError(f"{name} must be (top, left, height, width) in pixels, got {shown(box)}")
        top, left, h, w = box
    else:
        part = share(name, box)
        h, w = max(1, round(part * height)), max(1, round(part * width))
        top, left = (height - h) // 2, (width - w) // 2
    if min(top, left) < 0 or min(h, w) < 1 or top + h > height or left + w > width:
        raise UserError(f"{name} must lie within {height} × {width}, got {shown(box)}")
    if h * w == height * width:
        raise UserError(f"{name} must be smaller than the image, {height} × {width}, got {shown(box)}")
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : top + h, left : left + w] = True
    return inside


@register(
    "operators", "uncrop", title="Uncropping: what lies around a picture", proof="exact: tests/operators/test_masks.py"
)
class Uncrop(Inpaint):
    """Inpainting of all that lies around a known box.

    Args:
        shape: of the images, ``(H, W)`` or ``(C, H, W)``.
        box: (top, left, height, width), or the share of the height and of the width that a box in the middle takes.
    """

    def __init__(self, shape: Shape, box: Box | float = 0.5) -> None:
        super().__init__(_inside(shape, "box", box))
        self.box = box

    def __repr__(self) -> str:
        return f"Uncrop({' × '.join(map(str, self.mask.shape))}, box={self.box})"
