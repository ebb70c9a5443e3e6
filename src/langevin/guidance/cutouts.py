"""Cut-outs of pictures, which an encoder is shown in place of the picture alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import UserError
from ..distributions import Noise, Stream

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness (ITU-R BT.601)."""

ROTATION, SHIFT, SPECKLE, JITTER, GREYED = 10.0, 0.05, 0.01, 0.1, 0.1
"""Of augmentations: degrees, share of the side, standard deviation of noise, share, share of cut-outs."""


@dataclass(frozen=True)
class Cutouts:
    r"""Overviews of the whole picture and inner cuts, each brought to the size an encoder reads.

    An overview is the picture, made square by grey borders. With augmentations up to four of them are the picture, the
    picture in grey, mirrored, and mirrored in grey; without, and of more, each is the picture. The side of an inner cut
    is

    .. math:: d = \lfloor d_{min} + u^{p} (d_{max} - d_{min}) \rfloor, \quad u \sim U(0, 1)

    with d_max the shorter side of the picture and d_min that of the encoder; where the picture is no larger than the
    encoder reads it, d_min is half of d_max, since all cuts would be the whole picture. Its place is uniform. The first
    ``ic_grey_p`` · ``innercut`` of them are grey.

    Args:
        overview: how many overviews.
        innercut: how many inner cuts; one of either at least.
        ic_size_pow: p > 0: above 1 most cuts are small.
        ic_grey_p: share of inner cuts in grey, in [0, 1].
        size: (height, width) of a cut-out.
        augment: turn by up to 10°, shift by up to 5 %, mirror half of them, make a tenth grey, change brightness,
            contrast and saturation by up to 10 %, and add noise of 0.01. If not, nothing is mirrored, and nothing but
            the share ``ic_grey_p`` of inner cuts is grey.
    """

    overview: int
    innercut: int
    ic_size_pow: float
    ic_grey_p: float
    size: tuple[int, int]
    augment: bool = True

    def __post_init__(self) -> None:
        if self.overview + self.innercut < 1:
            raise UserError("cut_overview and cut_innercut must not both be 0 at a step: nothing would be shown")

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """Cut-outs of pictures in [−1, 1], ``(K, B, C, *size)``, K overviews first; differentiable in x.

        Args:
            x: ``(B, C, H, W)``.
            noise: one sample's: the cuts are the same in all pictures, so that each depends on itself alone.
        """
        parts = [*self._overviews(x), *self._inner(x, noise.fold_in(Stream.CUTS))]
        made = torch.stack(parts)
        return augmented(made, noise.fold_in(Stream.CHANGES)) if self.augment else made

    def _overviews(self, x: Tensor) -> list[Tensor]:
        if not self.overview:
            return []
        height, width = x.shape[2:]
        side = max(height, width)
        down, right = side - height, side - width
        whole = resized(F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2)), self.size)
        if self.overview > 4 or not self.augment:
            return [whole] * self.overview
        return [whole, grey(whole), whole.flip(-1), grey(whole.flip(-1))][: self.overview]

    def _inner(self, x: Tensor, noise: Noise) -> list[Tensor]:
        if not self.innercut:
            return []
        height, width = x.shape[2:]
        most = min(height, width)
        least = min(self.size) if most > min(self.size) else math.ceil(most / 2)
        made = []
        for i, (u, v, w) in enumerate(noise.uniform((self.innercut, 3))[0].tolist()):
            side = min(most, int(least + u**self.ic_size_pow * (most - least)))
            top, left = int(v * (height - side + 1)), int(w * (width - side + 1))
            cut = resized(x[:, :, top : top + side, left : left + side], self.size)
            made.append(grey(cut) if i < self.ic_grey_p * self.innercut else cut)
        return made


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures of another size, by linear interpolation without aliases."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def coloured(x: Tensor, channels: int) -> Tensor:
    """Pictures with as many channels as an encoder reads: grey ones three times, the brightness of colours."""
    if x.shape[1] == channels:
        return x
    if (x.shape[1], channels) == (1, 3):
        return x.expand(-1, 3, -1, -1)
    if (x.shape[1], channels) == (3, 1):
        return grey(x)[:, :1]
    raise UserError(f"encoder reads pictures of {channels} channels, the model makes {x.shape[1]}")


def grey(x: Tensor) -> Tensor:
    """Pictures ``(…, C, H, W)`` without colour, C as it was; grey ones as they are."""
    if x.shape[-3] != 3:
        return x
    return _brightness(x).expand_as(x)


def _brightness(x: Tensor) -> Tensor:
    shares = torch.tensor(GREY, dtype=x.dtype, device=x.device)[:, None, None]
    return (shares * x).sum(-3, keepdim=True)


def augmented(cuts: Tensor, noise: Noise) -> Tensor:
    """Cut-outs ``(K, B, C, h, w)`` in [−1, 1], each of the K changed in its own way, the B pictures of one alike."""
    count, batch = cuts.shape[:2]
    u = noise.uniform((count, 8))[0].to(cuts)
    mirror = torch.where(u[:, 0] < 0.5, -1.0, 1.0)
    angle = (2 * u[:, 1] - 1) * math.radians(ROTATION)
    cos, sin = angle.cos(), angle.sin()
    shift = 2 * SHIFT * (2 * u[:, 2:4] - 1)  # of [−1, 1], in which the affine map is
    rows = [torch.stack([mirror * cos, -sin, shift[:, 0]], 1), torch.stack([mirror * sin, cos, shift[:, 1]], 1)]
    theta = torch.stack(rows, 1).repeat_interleave(batch, 0)
    flat = cuts.flatten(0, 1)
    moved = F.grid_sample(flat, F.affine_grid(theta, list(flat.shape), align_corners=False), align_corners=False)
    made = moved.view_as(cuts)
    made = torch.where(_each(u[:, 4]) < GREYED, grey(made), made)
    brightness, contrast, saturation = (1 + JITTER * (2 * _each(u[:, i]) - 1) for i in (5, 6, 7))
    made = (made + 1) * brightness - 1  # of [0, 1]
    mean = made.mean((-3, -2, -1), keepdim=True)
    made = mean + contrast * (made - mean)
    made = grey(made) + saturation * (made - grey(made))
    speckle = noise.fold_in(Stream.SPECKLES).normal((count, *cuts.shape[2:]))[0].to(cuts)
    return made + SPECKLE * speckle[:, None]


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1, 1)
