"""Grey images as ink: black pixels whose opacity is their value, so that one picture fits a light and a dark page."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

PAPER = 18
"""Opacity (of 255) of an empty pixel: the sheet an image is drawn on."""


def sheet(x: Tensor, columns: int, *, low: float = -1.0, high: float = 1.0, scale: int = 6, gap: float = 1.0) -> bytes:
    """Images in rows, as a PNG of black with opacity; what lies between them is clear.

    Args:
        x: ``(N, C, H, W)``; of several channels the mean is drawn.
        columns: images in a row.
        low: the value of an empty pixel.
        high: the value of full ink.
        scale: pixels of the picture to one of an image.
        gap: between images, in their own pixels.
    """
    from PIL import Image

    values = ((x.detach().cpu().float().mean(1) - low) / (high - low)).clamp(0, 1)
    ink = (PAPER + (255 - PAPER) * values).round().to(torch.uint8)
    ink = ink.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    count, height, width = ink.shape
    between = round(gap * scale)
    rows = -(-count // columns)
    opacity = torch.zeros(rows * (height + between) - between, columns * (width + between) - between, dtype=torch.uint8)
    for i, image in enumerate(ink):
        top, left = i // columns * (height + between), i % columns * (width + between)
        opacity[top : top + height, left : left + width] = image
    picture = Image.merge(
        "LA", (Image.new("L", (opacity.shape[1], opacity.shape[0]), 0), Image.fromarray(opacity.numpy()))
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def embedded(png: bytes) -> str:
    """A PNG as an address that holds all of it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
