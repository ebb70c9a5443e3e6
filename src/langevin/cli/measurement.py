"""What the command ``restore`` measures: the operator of a task, the measurement, and how both are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .._errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..denoisers import Denoiser
    from ..operators import MeasurementNoise, Operator
    from ..tasks.pictures import Picture


class MeasurementOptions(Protocol):
    """The options of the command that a measurement depends on."""

    @property
    def task(self) -> str: ...
    @property
    def simulate(self) -> bool: ...
    @property
    def seed(self) -> int: ...


SIMULATED = ("compressed-sensing", "fourier", "coils", "radon", "phase")
"""Tasks whose measurement is no picture, and so is made of a whole one."""

ENLARGING = ("super-resolution", "bicubic")
"""Tasks whose measurement is smaller than what is restored, by a factor."""


KNOWN = ("inpaint", "uncrop", "box", "random", "strokes")
"""Tasks whose measurement is some of the pixels."""

STD = 0.02
"""Standard deviation of the noise of other tasks, if none is given."""


def noise_law(noise: str | None, std: float | None, task: str) -> MeasurementNoise:
    """The law of the noise that is asked for.

    Args:
        noise: ``poisson=GAIN``, or None for Gaussian noise.
        std: of Gaussian noise; if not given, 0 where pixels are known, else ``STD``.
        task: its name, without a number.

    Raises:
        UserError: for what is no noise, both of them, or counts of what is no picture.
    """
    from ..operators import GaussianNoise, PoissonNoise
    from ..operators.create import number_of

    if noise is None:
        return GaussianNoise((0.0 if task in KNOWN else STD) if std is None else std)
    name, _, number = (part.strip() for part in noise.partition("="))
    gain = number_of(number)
    if name != "poisson" or gain is None or not gain > 0:
        raise UserError(
            f"noise must be poisson=GAIN, GAIN > 0 the counts that are expected of middle grey (white has twice as "
            f"many), such as poisson=50, got {noise!r}; Gaussian noise is --std"
        )
    if std is not None:
        raise UserError(f"std is of Gaussian noise, got {std:g} beside --noise {noise}; leave out one of them")
    if task in SIMULATED:
        raise UserError(
            f"noise poisson is for measurements that are pictures, whose pixels are intensities, got --task {task}; "
            "take --std"
        )
    return PoissonNoise(gain)


def counts_as_picture(y: Tensor, law: MeasurementNoise) -> Tensor:
    """A measurement in the range of pictures: of counts, the intensities that they stand for."""
    from ..operators import PoissonNoise

    return y / law.gain - law.offset if isinstance(law, PoissonNoise) else y


def job(
    options: MeasurementOptions, model: Denoiser, size: tuple[int, int], free: Tensor | None
) -> tuple[Operator, tuple[int, ...], Tensor | None]:
    """The operator for a picture of a size, the shape of what is restored, and where it is to be restored.

    Raises:
        UserError: where the task does not fit the picture or the model.
    """
    from .. import operators

    channels, height, width = model.output_shape
    shape: tuple[int, ...] = (channels, *size)
    name, _, number = (part.strip() for part in options.task.partition("="))
    if name == "colourise" and channels != 3:
        raise UserError("the task colourise needs a model of colour images, got one of grey ones")
    if name in ENLARGING and not options.simulate and number.replace(".", "", 1).isdecimal() and float(number) >= 1:
        small = operators.SuperResolution(float(number))
        own = (small.smaller(height), small.smaller(width)) == size  # of several sizes the model's is likeliest
        shape = (channels, height, width) if own else small.domain(shape)
    if name == "uncrop" and not options.simulate:
        part = operators.NAMED[name].default if not number else positive(number)
        shape = (channels, *(around(side, part) for side in size))
    if shape[1] < height or shape[2] < width:
        raise UserError(
            f"what is restored must have at least {width} × {height} pixels, the model's, got {shape[2]} × {shape[1]}"
        )
    if model.autoencoder is not None and shape[1:] != (height, width):
        raise UserError(
            f"what is restored must have {width} × {height} pixels, the size of this latent model, got {shape[2]} × "
            f"{shape[1]}: crop or resize the picture, since the codes of neighbouring tiles would not meet"
        )
    mask = None if free is None else ~free
    operator = operators.create_operator(options.task, shape, mask=mask, seed=options.seed)
    if isinstance(operator, operators.Inpaint):
        free = ~(operator.mask > 0).expand(shape)[0]
    if not options.simulate and name in SIMULATED:
        raise UserError(f"simulate must be given for the task {options.task!r}: its measurement is no picture")
    return operator, shape, free


def positive(number: str) -> float:
    """A share that is written after uncrop=; 1 for what is none, which the operator refuses."""
    try:
        value = float(number)
    except ValueError:
        return 1.0
    return value if 0 < value < 1 else 1.0


def around(side: int, part: float | None) -> int:
    """The side of a picture whose middle, of that share of the side, has so many pixels."""
    share = part or 1.0
    whole = round(side / share)
    off = lambda n: abs(max(1, round(share * n)) - side)
    return min(range(max(1, whole - 2), whole + 3), key=lambda n: (off(n), abs(n - whole)))


def placed(picture: Picture, operator: Operator, shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """The picture and its pixels; for uncropping in the middle of the size that is restored, black around."""
    import torch

    from ..operators import Uncrop

    if not isinstance(operator, Uncrop) or tuple(picture.x.shape) == shape:
        return picture.x, picture.pixels
    import numpy as np

    inside = (operator.mask > 0).expand(shape)
    x = torch.zeros(shape, dtype=picture.x.dtype)
    pixels = np.zeros((*shape[1:], shape[0]), np.uint8)
    if int(inside.sum()) != picture.x.numel():
        raise UserError(
            f"the picture must be the middle part that uncrop names, got {tuple(picture.x.shape[1:])} of {shape[1:]} "
            "pixels; choose another share"
        )
    x[inside] = picture.x.reshape(-1)
    pixels[inside.permute(1, 2, 0).numpy()] = picture.pixels.reshape(-1)
    return x, pixels


def bounds(model: Denoiser) -> tuple[float, float]:
    """The range of the data."""
    return model.output.low, model.output.high


def shown_measurement(y: Tensor, model: Denoiser) -> np.ndarray:
    """A measurement ``(C, H, W)`` in grey or colour, by the data's range, or by its own where it is not a picture."""
    from ..tasks import pictures

    low, high = bounds(model)
    if y.shape[0] not in (1, 3):
        y = y[:1]
    past = float(y.min()) < low - (high - low) / 2 or float(y.max()) > high + (high - low) / 2
    if past:
        y = low + (y - y.min()) / (y.max() - y.min()).clamp_min(1e-12) * (high - low)
    return pictures.to_pixels(y, model)


def measured(
    options: MeasurementOptions, law: MeasurementNoise, operator: Operator, x: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """The measurement: made of the whole picture, or the picture itself, or the counts that its pixels stand for."""
    from ..operators import Inpaint, PoissonNoise, measure

    if options.simulate:
        return measure(operator, x[None], law, options.seed).y
    wanted = operator.measured(shape)
    if len(wanted) == 3 and wanted[0] == 1 != x.shape[0]:  # a grey measurement of a picture in colour
        from ..operators import Colourise

        x = Colourise()(x[None])[0]
    if tuple(x.shape) != tuple(wanted):
        raise UserError(f"the picture must be {wanted} for this task, got {tuple(x.shape)}")
    y = operator(x[None]) if isinstance(operator, Inpaint) else x[None]
    return law.rate(y).round() if isinstance(law, PoissonNoise) else y


def larger(model: Any, shape: tuple[int, ...], overlap: int | None, batch: int) -> Denoiser:
    """The model itself, or in tiles for a larger picture."""
    from ..denoisers import tiled

    return model if tuple(model.output_shape) == tuple(shape) else tiled(model, shape, overlap, batch=batch)


def enlarged(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A picture ``(h, w, C)`` in the size of what is restored, every pixel a rectangle."""
    import numpy as np

    rows, columns = (np.arange(size) * old // size for size, old in zip(shape[1:], pixels.shape))
    return pixels[rows][:, columns]


def shown_std(spread: Tensor, model: Denoiser) -> Tensor:
    """The standard deviation between the ends of the data's range, its largest value white."""
    low, high = model.output.low, model.output.high
    return low + spread / spread.max().clamp_min(1e-12) * (high - low)
