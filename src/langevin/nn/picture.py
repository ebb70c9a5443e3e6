"""A small convolutional network that makes a vector of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import GROUP, Norm, integer, zero

HALVINGS = 3
"""Times a picture is halved before its places are read one by one."""


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``(B, C, h, w)`` at another size, bilinear, averaged where they shrink."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=x.shape[2] > size[0] or x.shape[3] > size[1])


class Residual(nn.Module):
    """x + conv(SiLU(GN(conv(SiLU(GN(x)))))), the last layer zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = Norm(channels), zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class PictureEncoder(nn.Module):
    """Pictures ``(B, C, H, W)`` of any size to vectors ``(B, features)``.

    The picture is brought to ``size`` × ``size``, halved three times between residual blocks, and the places that are
    left are read by one linear layer each, so that where something is matters, which a mean over them would forget.

    Args:
        channels: C of the picture.
        features: numbers returned.
        size: the side a picture is brought to, a multiple of 8; details finer than a pixel of it are lost.
        width: channels at that size, a multiple of 8; twice and four times as many at a half and at a quarter of it.
    """

    def __init__(self, channels: int, features: int, *, size: int = 32, width: int = 16) -> None:
        super().__init__()
        self.size = integer("pictures.size", size, 2**HALVINGS, 2**10, multiple=2**HALVINGS)
        integer("pictures.width", width, GROUP, 2**10, multiple=GROUP)
        wide = [width * 2**level for level in range(HALVINGS)]
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(c) for c in wide)
        self.shrink = nn.ModuleList(nn.Conv2d(c, d, 2, stride=2) for c, d in zip(wide, [*wide[1:], wide[-1]]))
        self.head = nn.Linear(wide[-1] * (size >> HALVINGS) ** 2, features)

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.head.weight.dtype
        # float32 at least: half precision is not resized on every device.
        wide = x.to(torch.promote_types(dtype, torch.float32))
        h = self.stem(resized(wide, (self.size, self.size)).to(dtype))
        for block, shrink in zip(self.blocks, self.shrink):
            h = shrink(block(h))
        return self.head(F.silu(h).flatten(1))
