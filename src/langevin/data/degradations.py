"""Damage that is done to an image on the fly: what is left of it is the condition ``image`` of a restoring model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import UserError, unknown
from ..distributions import Noise, Stream

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Degradation:
    """Steps of damage, one after the other, as ``resize=16,noise=0.1`` says.

    Args:
        steps: names of ``DEGRADATIONS``, each with its number.

    Raises:
        UserError: for an unknown name, or a number out of its range.
    """

    steps: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for name, value in self.steps:
            if name not in DEGRADATIONS:
                raise unknown("degradation", name, DEGRADATIONS)
            _, low, high, integer = DEGRADATIONS[name]
            if not low <= value <= high or (integer and value != int(value)):
                kind = "an integer" if integer else "a number"
                raise UserError(f"degradation {name} must be {kind} in [{low:g}, {high:g}], got {value:g}")
        if sum(name == "box" for name, _ in self.steps) > 1:
            raise UserError(f"degradation box can be given once, as its mask says all that is hidden; got {self}")

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """Of text: ``grey``, or ``resize=16,noise=0.1``."""
        steps = []
        for part in text.split(","):
            name, _, number = (word.strip() for word in part.partition("="))
            if name in PLAIN and number:
                raise UserError(f"degradation {name} takes no number, got {number!r}")
            if name in DEGRADATIONS and name not in PLAIN and not number:
                raise UserError(f"degradation {name} needs a number, such as {name}={DEGRADATIONS[name][1]:g}")
            try:
                steps.append((name, float(number) if number else 0.0))
            except ValueError:
                raise UserError(f"degradation {name} takes a number, got {number!r}") from None
        return cls(tuple(steps))

    def __str__(self) -> str:
        number = lambda value: repr(value).removesuffix(".0")  # all digits, so that the text means the same
        return ",".join(name if name in PLAIN else f"{name}={number(value)}" for name, value in self.steps)

    def __call__(self, x: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The conditions ``image`` and, where a part is hidden, ``mask`` (1 where it is known) of images.

        Args:
            x: ``(B, C, H, W)`` in [−1, 1].
            noise: of these images: all that is random is a function of it.
        """
        made = {"image": x}
        for i, (name, value) in enumerate(self.steps):
            made |= DEGRADATIONS[name][0](made, value, noise.fold_in(Stream.DEGRADED + i))
        return made

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of the conditions, for images of a shape."""
        if len(shape) != 3:
            raise UserError(f"degrade is for images, got data of shape {shape}")
        made = self(torch.zeros(1, *shape), Noise(0, 1))
        return {name: tuple(value.shape[1:]) for name, value in made.items()}


Made = Mapping[str, Tensor]


def _resize(made: Made, side: float, noise: Noise) -> Made:
    """The shorter side becomes so many pixels (bicubic, averaged over what a pixel covers)."""
    x = made["image"]
    short = min(x.shape[2:])
    size = [max(1, round(n * side / short)) for n in x.shape[2:]]
    return {"image": F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)}


def _grey(made: Made, value: float, noise: Noise) -> Made:
    """The luma alone."""
    x = made["image"]
    if x.shape[1] != 3:
        raise UserError(f"degradation grey needs images in colour, got {x.shape[1]} channels")
    return {"image": (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)}


def _blur(made: Made, std: float, noise: Noise) -> Made:
    """A Gaussian blur of that standard deviation in pixels, edges reflected."""
    x = made["image"]
    reach = min(max(1, math.ceil(3 * std)), min(x.shape[2:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="reflect"), kernel, groups=x.shape[1])
    turned = kernel.transpose(2, 3)
    return {"image": F.conv2d(F.pad(x, (0, 0, reach, reach), mode="reflect"), turned, groups=x.shape[1])}


def _noise(made: Made, std: float, noise: Noise) -> Made:
    """Normal noise of that standard deviation."""
    x = made["image"]
    return {"image": x + std * noise.normal(tuple(x.shape[1:])).to(x)}


def _box(made: Made, share: float, noise: Noise) -> Made:
    """A rectangle somewhere, of that share of each side, is 0, and ``mask`` says where."""
    x = made["image"]
    height, width = x.shape[2:]
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    u = noise.uniform((2,))
    top, left = (u[:, 0] * (height - tall + 1)).long(), (u[:, 1] * (width - wide + 1)).long()
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside = ((rows >= top[:, None]) & (rows < top[:, None] + tall))[:, None, :, None]
    inside = inside & ((columns >= left[:, None]) & (columns < left[:, None] + wide))[:, None, None]
    known = (~inside).to(x)
    return {"image": x * known, "mask": known}


def _jpeg(made: Made, quality: float, noise: Noise) -> Made:
    """JPEG of that quality, written and read again."""
    import numpy as np
    from PIL import Image

    if made["image"].shape[1] not in (1, 3):
        raise UserError(f"degradation jpeg needs images of 1 or 3 channels, got {made['image'].shape[1]}")

    def again(image: Tensor) -> Tensor:
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "JPEG", quality=int(quality))
        read = torch.from_numpy(np.array(Image.open(buffer)))
        return (read if read.ndim == 3 else read[:, :, None]).permute(2, 0, 1) / 127.5 - 1

    return {"image": torch.stack([again(image) for image in made["image"]])}


Step = Callable[[Made, float, Noise], Made]

DEGRADATIONS: dict[str, tuple[Step, float, float, bool]] = {
    "resize": (_resize, 1, 2**14, True),
    "grey": (_grey, 0, 0, False),
    "blur": (_blur, 0.05, 64, False),
    "noise": (_noise, 0, 10, False),
    "box": (_box, 0.01, 1, False),
    "jpeg": (_jpeg, 1, 100, True),
}
"""A function, and the range of its number: lowest, highest, whether it is an integer."""

PLAIN = ("grey",)
"""Those that take no number."""
