"""``langevin restore``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._duration import duration
from .._errors import UserError
from .given import conditions
from .options import Name, Whole, at_least_one, check_seed, device_named, json_value, writable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..denoisers import Denoiser
    from ..operators import Operator


@dataclass(frozen=True)
class Options:
    """Restore damaged images: fill holes, enlarge, sharpen, colour, by samples of what the image may have been.

    IN is a damaged picture or a folder of them, and --task says what was done to them. With --simulate IN is whole: it
    is damaged first, so that PSNR, SSIM and the coverage of the samples can be told. Pictures larger than the model's
    are restored in overlapping tiles. Writes DIR/NAME-0.png, … (the samples), NAME-mean.png, NAME-std.png (black where
    they agree), NAME-strip.png and NAME.json, which says how. The same call goes on where one was stopped.
    """

    input: Annotated[Positional[str], arg(metavar="IN")]
    """A picture, or a folder of pictures."""
    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, or owner/name on the Hub, of grey or colour images."""
    task: Annotated[str, arg(metavar="TASK")]
    """What was done: inpaint, super-resolution=2, blur=1.5, colourise, jpeg=20, uncrop=0.5, fourier=4, radon=30, ..."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("restored")
    """Where the results go."""
    mask: Name = None
    """For inpaint: a picture of the input's size, white where it is to be restored; or a folder, with one of each
    picture's name."""
    std: Annotated[float, arg(metavar="X")] = 0.02
    """Standard deviation of the noise of the measurement, in units of the data, which lie in [-1, 1]."""
    simulate: bool = False
    """The input is whole: damage it, restore it, and measure the result against it."""
    method: Annotated[str, arg(metavar="NAME")] = "pigdm"
    """By its name (`langevin methods --category inverse`)."""
    method_options: Annotated[dict[str, str], arg(metavar="KEY VALUE ...", help_behavior_hint="")] = field(
        default_factory=dict
    )
    """Settings of the method."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 8
    """Samples of each picture."""
    steps: Annotated[int, arg(metavar="N")] = 50
    """Evaluations of the model a sample."""
    label: Name = None
    """The class of the pictures, by name or index, where the model takes one and it is known."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that the model takes, as NAME=VALUE."""
    overlap: Whole = None
    """Pixels that neighbouring tiles share; a quarter of a tile if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of the noise, the same for every picture."""
    batch: Annotated[int, arg(metavar="N")] = 64
    """Images, or tiles, carried at a time."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


REQUEST = ("task", "mask", "std", "simulate", "label", "n", "steps", "overlap", "seed")
"""Options that results depend on, as the record has them."""

SIMULATED = ("compressed-sensing", "fourier", "coils", "radon", "phase")
"""Tasks whose measurement is no picture, and so is made of a whole one."""

ENLARGING = ("super-resolution", "bicubic")
"""Tasks whose measurement is smaller than what is restored, by a factor."""

INTERVAL = 0.9
"""The probability of the intervals whose coverage is told."""


def run(options: Options) -> None:
    """Read, restore, write."""
    out = writable(options.out)
    at_least_one(n=options.n, steps=options.steps, batch=options.batch)
    check_seed(options.seed)
    from .. import models, operators
    from ..data.images import upright_size
    from ..generate import model_digest
    from ..report import Bar
    from ..storage import files
    from ..tasks import pictures
    from ..tasks import restore as restoring

    settings = {key: json_value(text) for key, text in options.method_options.items()}
    restoring.check_options(*restoring.method_named(options.method), settings)
    operators.GaussianNoise(options.std)
    task = options.task.partition("=")[0].strip()
    if (task == "inpaint") != (options.mask is not None):
        raise UserError("mask must be given for the task inpaint, white where to restore, and for no other task")
    found = pictures.find(options.input, out)
    model = models.load_denoiser(options.model, own=False, device=device_named(options.device))
    pictures.image_model(model)
    given = conditions(options.given, options.label, model)
    told = model.given(given) if given else model
    drawn = {name: pictures.mask_of(options.mask, name) for name, _ in found}
    request = {
        "command": "restore",
        "model": model_digest(options.model),
        "method": options.method,
        "method_options": settings,
        **{name: getattr(options, name) for name in REQUEST},
        "given": list(options.given),
    }
    beside = {name: [mask] for name, mask in drawn.items() if mask is not None}
    results = pictures.Results(out, request, options.n, beside, about=("mean", "std"))
    results.check(found)
    jobs = {}
    for name, path in found:
        width, height = upright_size(str(path))
        mask = drawn[name]
        free = None if mask is None else pictures.read_mask(mask, (height, width))
        jobs[name] = job(options, model, (height, width), free)
    left, begun = results.left(found), time.monotonic()
    with files.lock(out):
        for number, (name, path) in enumerate(left):
            operator, shape, free = jobs[name]
            picture, started = pictures.read(name, path, model), time.monotonic()
            y = measured(options, operator, picture.x, shape)
            own = told.counted()
            title = f"restoring {name}" + (f" ({number + 1} of {len(left)})" if len(left) > 1 else "")
            with Bar(title) as bar:
                x = restoring.restore(
                    larger(own, shape, options.overlap, options.batch),
                    operator,
                    y,
                    options.std,
                    method=options.method,
                    n=options.n,
                    steps=options.steps,
                    seed=options.seed,
                    batch=options.batch,
                    progress=bar,
                    **settings,
                ).cpu()
            whole = picture.x if options.simulate else None
            kept = None if free is None or options.std > 0 else free
            made = [pictures.to_pixels(one, model) for one in x]
            if kept is not None:
                made = [pictures.keep(one, picture.pixels, kept) for one in made]
            mean, spread = x.mean(0), x.std(0, correction=0)
            more = [pictures.to_pixels(mean, model), pictures.to_pixels(shown_std(spread, model), model)]
            record = {
                "model": options.model,
                "trained_steps": model.config.get("steps"),
                "operator": repr(operator),
                "size": list(shape),
                "calls": own.counter.calls,
                "seconds": round(time.monotonic() - started, 3),
                "std_shown_white": float(spread.max()),
                **figures(x, mean, spread, whole, kept),
            }
            columns = [("input", enlarged(picture.pixels, shape))]
            if options.simulate and y.ndim == 4 and y.shape[1] in (1, 3):
                columns.append(("measured", enlarged(pictures.to_pixels(y[0], model), shape)))
            columns += [(f"sample {i}", one) for i, one in enumerate(made[: pictures.STRIP - 2])]
            columns += [("mean", more[0]), ("std", more[1])]
            results.write(name, path, [*made, *more], columns, record)
            print(said(name, record))
    skipped = f", {len(found) - len(left)} were there" if len(left) < len(found) else ""
    print(
        f"{out}: {len(left)} image{'s' * (len(left) != 1)} restored by {options.method}, {options.n} samples each, in "
        f"{duration(time.monotonic() - begun)}{skipped}."
    )


def job(
    options: Options, model: Denoiser, size: tuple[int, int], free: Tensor | None
) -> tuple[Operator, tuple[int, ...], Tensor | None]:
    """The operator for a picture of a size, the shape of what is restored, and where it is to be restored.

    Raises:
        UserError: where the task does not fit the picture or the model.
    """
    from .. import operators

    channels, height, width = model.output_shape
    shape: tuple[int, ...] = (channels, *size)
    name, _, number = (part.strip() for part in options.task.partition("="))
    if name in ENLARGING and not options.simulate and number.replace(".", "", 1).isdecimal():
        shape = operators.SuperResolution(float(number)).domain(shape)
    if shape[1] < height or shape[2] < width:
        raise UserError(
            f"what is restored must have at least {width} × {height} pixels, the model's, got {shape[2]} × {shape[1]}"
        )
    mask = None if free is None else ~free
    operator = operators.create(options.task, shape, mask=mask, seed=options.seed)
    if not options.simulate and name in SIMULATED:
        raise UserError(f"simulate must be given for the task {options.task!r}: its measurement is no picture")
    return operator, shape, free


def measured(options: Options, operator: Operator, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The measurement: made of the whole picture, or the picture itself."""
    from ..operators import measure

    if options.simulate:
        return measure(operator, x[None], options.std, options.seed).y
    wanted = operator.measured(shape)
    if len(wanted) == 3 and wanted[0] == 1 != x.shape[0]:  # a grey measurement of a picture in colour
        from ..operators import Colourise

        x = Colourise()(x[None])[0]
    if tuple(x.shape) != tuple(wanted):
        raise UserError(f"the picture must be {wanted} for this task, got {tuple(x.shape)}")
    return operator(x[None]) if options.mask is not None else x[None]


def larger(model: Any, shape: tuple[int, ...], overlap: int | None, batch: int) -> Denoiser:
    """The model itself, or in tiles for a larger picture."""
    from ..denoisers import tiled

    return model if tuple(model.shape) == tuple(shape) else tiled(model, shape, overlap, batch=batch)


def enlarged(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A picture ``(h, w, C)`` in the size of what is restored, every pixel a rectangle."""
    import numpy as np

    rows, columns = (np.arange(size) * old // size for size, old in zip(shape[1:], pixels.shape))
    return pixels[rows][:, columns]


def shown_std(spread: Tensor, model: Denoiser) -> Tensor:
    """The standard deviation between the ends of the data's range, its largest value white."""
    low, high = model.output.low, model.output.high
    return low + spread / spread.max().clamp_min(1e-12) * (high - low)


def figures(x: Tensor, mean: Tensor, spread: Tensor, truth: Tensor | None, free: Tensor | None) -> dict[str, float]:
    """What is told of samples against the truth: PSNR, SSIM, and how often the truth lies where they say.

    Coverage is the share of restored pixels with |truth − mean| ≤ q·std·√(1 + 1/n), q the quantile of Student's law of
    n − 1 degrees of freedom: nine in ten if the truth is one more draw of a normal posterior. It is told from 4 samples
    on.
    """
    if truth is None:
        return {}
    from scipy.stats import t

    from ..metrics import psnr, ssim

    n = len(x)
    found = {
        "psnr_of_a_sample": sum(psnr(one[None], truth[None]) for one in x) / n,
        "psnr_of_the_mean": psnr(mean[None], truth[None]),
        "ssim_of_the_mean": ssim(mean[None], truth[None]),
    }
    if n >= 4:
        std = spread * (n / (n - 1)) ** 0.5
        inside = (truth - mean).abs() <= float(t(n - 1).ppf((1 + INTERVAL) / 2)) * std * (1 + 1 / n) ** 0.5
        found["coverage_of_90_percent"] = float((inside if free is None else inside[:, free]).float().mean())
    return {name: round(float(value), 4) for name, value in found.items()}


def said(name: str, record: dict[str, Any]) -> str:
    """A line about a picture."""
    if "psnr_of_the_mean" not in record:
        return f"{name}: {record['seconds']:.1f} s"
    coverage = record.get("coverage_of_90_percent")
    beside = "" if coverage is None else f", {100 * coverage:.0f} % of pixels in their 90 % interval"
    return (
        f"{name}: PSNR {record['psnr_of_the_mean']:.2f} dB (a sample {record['psnr_of_a_sample']:.2f}), "
        f"SSIM {record['ssim_of_the_mean']:.3f}{beside}"
    )
