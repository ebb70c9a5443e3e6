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

    A number may be a range, ``noise=0..0.2``, of which every example draws its own (a whole number where the step wants
    one). Alternatives are written with a bar, ``grey|uncrop=0.5|jpeg=5..30``, of which every example draws one: so one
    model learns several tasks (Palette, arXiv:2111.05826). Alternatives give pictures of one size; where one of them
    is grey beside colour it has three equal channels, and where one hides something the others' mask is 1.

    Args:
        ways: the alternatives, each of steps: a name of ``DEGRADATIONS``, with the ends of the range of its number,
            which are equal for a plain number.

    Raises:
        UserError: for an unknown name, or a number out of its range.
    """

    ways: tuple[tuple[Part, ...], ...]

    def __post_init__(self) -> None:
        for name, low, high in (part for way in self.ways for part in way):
            if name not in DEGRADATIONS:
                raise unknown("degradation", name, DEGRADATIONS)
            _, least, most, integer = DEGRADATIONS[name]
            for value in (low, high):
                if not least <= value <= most or (integer and value != int(value)):
                    kind = "an integer" if integer else "a number"
                    raise UserError(f"degradation {name} must be {kind} in [{least:g}, {most:g}], got {value:g}")
            if low > high:
                raise UserError(f"degradation {name} takes a range from low to high, got {low:g}..{high:g}")
            if low < high and name in ALIKE:
                raise UserError(f"degradation {name} takes one number for all pictures, got {low:g}..{high:g}")
        for way in self.ways:
            if sum(name in HIDING for name, _, _ in way) > 1:
                names = " or ".join(HIDING)
                raise UserError(
                    f"degradation {names} can be given once, as its mask says all that is hidden; got {self}"
                )

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """Of text: ``grey``, ``resize=16,noise=0..0.1``, or ``grey|jpeg=10``."""
        return cls(tuple(tuple(_part(part) for part in way.split(",")) for way in text.split("|")))

    def __str__(self) -> str:
        return "|".join(",".join(map(_written, way)) for way in self.ways)

    def __call__(self, x: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The conditions ``image`` and, where a part is hidden, ``mask`` (1 where it is known) of images.

        Args:
            x: ``(B, C, H, W)`` in [−1, 1].
            noise: of these images: all that is random is a function of it.
        """
        if len(self.ways) == 1:
            return _damaged(self.ways[0], x, noise)
        chosen = (noise.fold_in(Stream.DEGRADED_WAY).uniform(()) * len(self.ways)).long()
        kinds = self._alternatives(x)
        made = {name: x.new_ones(len(x), *shape) for name, shape in kinds.items()}
        for i, way in enumerate(self.ways):
            rows = (chosen == i).nonzero()[:, 0]
            if len(rows):
                for name, value in _damaged(way, x[rows], noise.rows(rows)).items():
                    made[name][rows] = value.expand(-1, *kinds[name])
        return made

    def _alternatives(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        """The shape of each condition that an alternative makes of such images, a grey picture as one in colour."""
        shapes: dict[str, tuple[int, ...]] = {}
        for way in self.ways:
            for name, value in _damaged(way, x.new_zeros(1, *x.shape[1:]), Noise(0, 1)).items():
                shape, other = tuple(value.shape[1:]), shapes.get(name, tuple(value.shape[1:]))
                if shape[1:] != other[1:]:
                    raise UserError(
                        f"degradation {self} gives pictures of {other[1:]} and of {shape[1:]} pixels; alternatives "
                        "must give one size"
                    )
                shapes[name] = max(shape, other)
        return shapes

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of the conditions, for images of a shape."""
        if len(shape) != 3:
            raise UserError(f"degrade is for images, got data of shape {shape}")
        return self._alternatives(torch.zeros(1, *shape))


Part = tuple[str, float, float]
"""A step: its name, and the lowest and highest of its number."""


def _part(text: str) -> Part:
    """Of text: ``grey``, ``noise=0.1`` or ``noise=0..0.1``."""
    name, _, number = (word.strip() for word in text.partition("="))
    if name in PLAIN and number:
        raise UserError(f"degradation {name} takes no number, got {number!r}")
    if name in DEGRADATIONS and name not in PLAIN and not number:
        raise UserError(f"degradation {name} needs a number, such as {name}={DEGRADATIONS[name][1]:g}")
    try:
        ends = [float(end) for end in number.split("..")] if number else [0.0]
        first, last = ends * 2 if len(ends) == 1 else ends
        return name, first, last
    except ValueError:
        raise UserError(f"degradation {name} takes a number or a range such as 1..2, got {number!r}") from None


def _written(part: Part) -> str:
    """The inverse of ``_part``, with all digits, so that the text means the same."""
    name, low, high = part
    numbers = dict.fromkeys(repr(value).removesuffix(".0") for value in (low, high))
    return name if name in PLAIN else f"{name}={'..'.join(numbers)}"


def _damaged(way: tuple[Part, ...], x: Tensor, noise: Noise) -> dict[str, Tensor]:
    """What the steps leave of images."""
    made = {"image": x}
    for i, (name, low, high) in enumerate(way):
        step, _, _, integer = DEGRADATIONS[name]
        own = noise.fold_in(Stream.DEGRADED + i)
        value = torch.full((len(x),), low, dtype=torch.float64)
        if low < high:
            u = own.fold_in(Stream.DEGRADED_STRENGTH).uniform(())
            value = low + (u * (high - low + 1)).floor() if integer else low + u * (high - low)
        made |= step(made, value.view(-1, 1, 1, 1), own)
    return made


Made = Mapping[str, Tensor]


def _resize(made: Made, value: Tensor, noise: Noise) -> Made:
    """The shorter side becomes so many pixels (bicubic, averaged over what a pixel covers)."""
    x, side = made["image"], float(value.flatten()[0])
    short = min(x.shape[2:])
    size = [max(1, round(n * side / short)) for n in x.shape[2:]]
    return {"image": F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)}


def _grey(made: Made, value: Tensor, noise: Noise) -> Made:
    """The luma alone."""
    x = made["image"]
    if x.shape[1] != 3:
        raise UserError(f"degradation grey needs images in colour, got {x.shape[1]} channels")
    return {"image": (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)}


def _blur(made: Made, value: Tensor, noise: Noise) -> Made:
    """A Gaussian blur of that standard deviation in pixels, edges reflected."""
    x, std = made["image"], float(value.flatten()[0])
    reach = min(max(1, math.ceil(3 * std)), min(x.shape[2:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="reflect"), kernel, groups=x.shape[1])
    turned = kernel.transpose(2, 3)
    return {"image": F.conv2d(F.pad(x, (0, 0, reach, reach), mode="reflect"), turned, groups=x.shape[1])}


def _noise(made: Made, std: Tensor, noise: Noise) -> Made:
    """Normal noise of that standard deviation."""
    x = made["image"]
    return {"image": x + std.to(x) * noise.normal(tuple(x.shape[1:])).to(x)}


def _window(x: Tensor, share: Tensor, noise: Noise) -> Tensor:
    """1 inside a rectangle somewhere, of that share of each side: ``(B, 1, H, W)``."""
    height, width = x.shape[2:]
    tall, wide = ((share.flatten() * side).round().clamp_min(1) for side in (height, width))
    u = noise.uniform((2,))
    top, left = (u[:, 0] * (height - tall + 1)).floor(), (u[:, 1] * (width - wide + 1)).floor()
    inside = lambda at, first, size: (at >= first[:, None]) & (at < (first + size)[:, None])
    rows, columns = inside(torch.arange(height), top, tall), inside(torch.arange(width), left, wide)
    return (rows[:, None, :, None] & columns[:, None, None]).to(x)


def _box(made: Made, share: Tensor, noise: Noise) -> Made:
    """A rectangle somewhere, of that share of each side, is 0, and ``mask`` says where."""
    x = made["image"]
    known = 1 - _window(x, share, noise)
    return {"image": x * known, "mask": known}


def _uncrop(made: Made, share: Tensor, noise: Noise) -> Made:
    """All but a rectangle somewhere, of that share of each side, is 0, and ``mask`` says where."""
    x = made["image"]
    known = _window(x, share, noise)
    return {"image": x * known, "mask": known}


def _jpeg(made: Made, quality: Tensor, noise: Noise) -> Made:
    """JPEG of that quality, written and read again."""
    import numpy as np
    from PIL import Image

    if made["image"].shape[1] not in (1, 3):
        raise UserError(f"degradation jpeg needs images of 1 or 3 channels, got {made['image'].shape[1]}")

    def again(image: Tensor, quality: float) -> Tensor:
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "JPEG", quality=int(quality))
        read = torch.from_numpy(np.array(Image.open(buffer)))
        return (read if read.ndim == 3 else read[:, :, None]).permute(2, 0, 1) / 127.5 - 1

    return {
        "image": torch.stack([again(*both) for both in zip(made["image"], quality.flatten().tolist(), strict=True)])
    }


Step = Callable[[Made, Tensor, Noise], Made]

DEGRADATIONS: dict[str, tuple[Step, float, float, bool]] = {
    "resize": (_resize, 1, 2**14, True),
    "grey": (_grey, 0, 0, False),
    "blur": (_blur, 0.05, 64, False),
    "noise": (_noise, 0, 10, False),
    "box": (_box, 0.01, 1, False),
    "uncrop": (_uncrop, 0.01, 1, False),
    "jpeg": (_jpeg, 1, 100, True),
}
"""A function of what is made, of each example's number ``(B, 1, 1, 1)`` and of noise; and the range of the number:
lowest, highest, whether it is an integer."""

PLAIN = ("grey",)
"""Those that take no number."""

HIDING = ("box", "uncrop")
"""Those that hide a part."""

ALIKE = ("resize", "blur")
"""Those whose number is the same for all pictures."""
