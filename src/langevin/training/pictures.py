"""Pictures of samples: a grid of images, a scatter of points."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import samplers
from .._errors import UserError, shown
from ..denoisers import ContrastiveEncoder, Denoiser, NoisyClassifier
from ..denoisers.conditions import rows_of
from ..distributions import Noise
from ..models.codec import Autoencoder
from ..nn.text import decode_text
from ..processes import ScalarGaussian, require
from ..storage import files

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data import DataInfo


CELL, WIDEST = 96, 2048
"""Pixels that a small image is enlarged to, and that the enlarged picture is wide at most."""

CAPTION = 20
"""Pixels of a line of names."""

PAIRS = 16
"""Examples with captions that are compared in a picture."""


def image_grid(
    x: Tensor,
    columns: int = 0,
    *,
    low: float = -1.0,
    high: float = 1.0,
    gap: int = 1,
    line: int = 255,
    names: Sequence[str] = (),
) -> Image:
    """Images in rows, as one RGB picture; small ones are enlarged by a whole factor, every pixel a square.

    Args:
        x: ``(N, C, H, W)`` with 1 or 3 channels; other counts show the first channel.
        columns: images in a row; about √N if 0.
        low: the value shown black.
        high: the value shown white.
        gap: width of the lines between and around images, in their own pixels.
        line: grey of these lines, 0 to 255.
        names: written above: of the columns, one each, or one of the whole.
    """
    from PIL import Image

    if not isinstance(x, Tensor):
        raise UserError(f"x must be a tensor of images (N, C, H, W), got {shown(x)}")
    if x.ndim != 4 or not len(x):
        raise UserError(f"x must be images (N, C, H, W), got shape {tuple(x.shape)}")
    x = x if x.shape[1] in (1, 3) else x[:, :1]
    count, _, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    pixels = as_bytes(x, low, high).expand(count, 3, height, width)
    sheet = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), line, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())
    scale = max(1, min(CELL // max(height, width), WIDEST // picture.width))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    if not names:
        return picture
    if len(names) not in (1, columns):
        raise UserError(f"names must be one for each of {columns} columns, or one of the whole; got {len(names)}")
    return _captioned(picture, names, (width + gap) * scale, gap * scale)


def _captioned(picture: Image, names: Sequence[str], step: int, gap: int) -> Image:
    """A picture under a line of names, each above its column, and cut off where the next begins."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    sheet.paste(picture, (0, CAPTION))
    draw = ImageDraw.Draw(sheet)
    room = picture.width - 2 * gap if len(names) == 1 else step - gap
    for i, name in enumerate(names):
        shown = "".join(c if c.isprintable() else " " for c in name)
        while len(shown) > 1 and draw.textlength(shown, font=font) > room:
            shown = shown[:-2].rstrip() + "…"
        draw.text((gap + i * step, 3), shown, fill="black", font=font)
    return sheet


def image(x: Tensor, *, low: float = -1.0, high: float = 1.0) -> Image:
    """One image ``(C, H, W)``, pixel for pixel: grey or RGB; of other counts of channels the first."""
    from PIL import Image

    x = x if len(x) == 3 else x[:1]
    pixels = as_bytes(x, low, high).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels if len(x) == 3 else pixels[:, :, 0])


def as_bytes(x: Tensor, low: float, high: float) -> Tensor:
    """Values as bytes: ``low`` is 0 and ``high`` 255, what lies beyond is clipped, and a not-a-number is 0."""
    pixels = ((x.detach().cpu().float() - low) * (255 / (high - low))).round().clamp(0, 255)
    return torch.nan_to_num(pixels).to(torch.uint8)


def scatter(x: Tensor, label: Tensor | None = None, reference: Tensor | None = None) -> Image:
    """The first two coordinates of points ``(N, D)``, coloured by label, over held-out points in grey.

    Points of one coordinate are drawn as histograms.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(5, 5), dpi=120, layout="tight")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = x.detach().cpu().double()
    if points.shape[1] == 1:
        if reference is not None:
            axes.hist(reference[:, 0].cpu().numpy(), bins=100, density=True, color="0.8")
        axes.hist(points[:, 0].numpy(), bins=100, density=True, histtype="step")
    else:
        if reference is not None:
            axes.scatter(reference[:, 0].cpu(), reference[:, 1].cpu(), s=3, c="0.8", linewidths=0)
        colour = None if label is None else label.cpu().numpy()
        axes.scatter(points[:, 0], points[:, 1], s=3, c=colour, cmap=None if label is None else "tab10", linewidths=0)
        axes.set_aspect("equal")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def png(picture: Image) -> bytes:
    """A picture as a PNG file holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def text(x: Tensor, names: Sequence[str]) -> str:
    """Sequences of tokens ``(N, L)`` as lines: their names in a row, with spaces between if they are longer than 1."""
    between = " " if max(map(len, names)) > 1 else ""
    return "".join(between.join(names[k] for k in row) + "\n" for row in x.flatten(1).tolist())


SHOWN, COLUMNS = 256, 20
"""Images of a sheet at most, and classes that get a column each."""


def value_range(data: DataInfo | None) -> tuple[float, float]:
    """The values shown black and white."""
    return (-1.0, 1.0) if data is None or data.low is None or data.high is None else (data.low, data.high)


def sheet(x: Tensor, label: Tensor | None, data: DataInfo | None, names: Sequence[str]) -> tuple[str, bytes]:
    """A file of samples to look at, name and content: a PNG of images or points, sequences of tokens as text.

    Images are in columns by class if there are several, and the classes are named: above their columns, or one above
    all of its images.

    Args:
        x: ``(n, *shape)``.
        label: ``(n,)``; None if there are no classes.
        data: what is known of it; None if nothing.
        names: of the classes.
    """
    if data is not None and data.tokens and not data.is_image:
        return "samples.txt", text(x, data.tokens).encode()
    if x.ndim != 4:
        return "scatter.png", png(scatter(x.flatten(1), label))
    found = [] if label is None else label.unique().tolist()
    columns = len(found) if 1 < len(found) <= COLUMNS else 0
    captions = [names[k] for k in found] if columns or len(found) == 1 else []
    low, high = value_range(data)
    shown = x[: SHOWN // (columns or 1) * (columns or 1)]
    return "grid.png", png(image_grid(shown, columns, low=low, high=high, names=captions))


def pairs(codec: Autoencoder, x: Tensor, *, seed: int = 0) -> Tensor:
    """Rows of eight: data, what is left of them after encoding and decoding, and at last samples of the prior."""
    x = x[: max(8, len(x) - len(x) % 8)].to(codec.device)
    with torch.no_grad():
        again = codec.decode(codec.encode(x).mean).mean
    rows = [part for both in zip(x.split(8), again.split(8)) for part in both]
    return torch.cat([*rows, codec.sample(16, seed)])


Reference = Mapping[str, Tensor]
"""Held-out examples ``x``, with what belongs to them."""


def examples(model: Any) -> int:
    """Held-out examples that a picture of a model needs at most."""
    about = model.output if isinstance(model, Denoiser) else model.data
    return 16 if about.is_image and not isinstance(model, NoisyClassifier) else 2000


def snapshot(model: Any, path: Path, *, seed: int = 0, reference: Reference | None = None) -> Path:
    """Save a picture of what a model can: samples of what makes data, what is right of what classifies it.

    The noise is the same every time, so pictures of a run show one set of samples as it forms.

    Args:
        model: what is shown.
        path: of the picture; sequences of tokens are saved as text, as the path returned says.
        seed: of the noise.
        reference: held-out examples.
    """
    return draw(model, path, seed, reference or {})


@functools.singledispatch
def draw(model: Any, path: Path, seed: int, reference: Reference) -> Path:
    """The picture of a model of one kind: 8 images of each of at most 10 classes (fewer if they are large), 2000
    points, or 20 lines of text, by the default sampler in 12 steps.

    Of a model that is told pictures: rows of these, of samples, and of the held-out images they belong to.
    """
    data: Any = model.output
    beside = {name: value for name, value in reference.items() if name in model.conditions()}
    if set(beside) - {"label"}:
        return _beside(model, path, seed, reference["x"], beside)
    written = bool(data.tokens) and not data.is_image
    told = "label" in model.conditions() and ("label" in reference or not reference)
    classes = min(10, len(data.classes)) if told else 0
    count = (classes or 8) * max(2, min(8, 256 // max(data.shape[1:]))) if data.is_image else 20 if written else 2000
    label = torch.arange(count) % classes if classes else None
    x = _sampled(model if label is None else model.given(label=label), count, seed)
    if written:
        path = path.with_suffix(".txt")
        files.replace(path, text(x, data.tokens).encode())
        return path
    names = data.classes[:classes]
    if data.is_image:
        picture = image_grid(x, classes or 8, low=data.low, high=data.high, names=names)
    else:
        picture = scatter(x, label, reference.get("x"))
    files.replace(path, png(picture))
    return path


def _sampled(model: Any, n: int, seed: int) -> Tensor:
    """Samples by the default sampler, in 12 steps where it leaves the choice."""
    rule = samplers.default_sampler(model)
    steps = 12 if rule.default_grid(model.process, 12) is None else None
    return samplers.sample(model, n=n, steps=steps, seed=seed)


@draw.register
def _(model: Autoencoder, path: Path, seed: int, reference: Reference) -> Path:
    """Held-out images with their reconstructions, and samples."""
    data, x = model.data, reference.get("x", torch.empty(0))
    assert data.low is not None
    assert data.high is not None
    files.replace(path, png(image_grid(pairs(model, x, seed=seed), 8, low=data.low, high=data.high)))
    return path


@draw.register
def _(model: NoisyClassifier, path: Path, seed: int, reference: Reference) -> Path:
    """The share of held-out examples that are read right, against the noise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    level, share = accuracy(model, reference, seed=seed)
    figure = Figure(figsize=(5, 4), dpi=120, layout="tight")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.semilogx(level, share, marker="o", markersize=3)
    axes.axhline(1 / len(model.data.classes), color="0.7", linewidth=1)
    axes.set_xlabel("noise over signal, σ/α")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    buffer.seek(0)
    files.replace(path, png(Image.open(buffer).convert("RGB")))
    return path


@draw.register
def _(model: ContrastiveEncoder, path: Path, seed: int, reference: Reference) -> Path:
    """Cosines of held-out pictures with the captions of all of them: the diagonal is what belongs together."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    told = reference[model.reads][:PAIRS].to(model.device)
    with torch.no_grad():
        image, text = model.encode_image(reference["x"][:PAIRS].to(model.device)), model.encode_text(told)
    texts: Sequence[Tensor] = list(told.cpu()) if model.reads == "caption" else []
    names = [decode_text(row) if bool((row >= 0).any()) else "–" for row in texts]
    figure = Figure(figsize=(9, 5), dpi=120, layout="tight")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    shown = axes.imshow((text.to(image) @ image.mT).cpu().float().numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_yticks(range(len(told)), [name[:44].replace("$", r"\$") for name in names] or None, fontsize=7)
    axes.set_xlabel("held-out example")
    figure.colorbar(shown, label="cosine")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    buffer.seek(0)
    files.replace(path, png(Image.open(buffer).convert("RGB")))
    return path


@torch.no_grad()
def accuracy(
    model: NoisyClassifier, reference: Reference, *, levels: int = 20, seed: int = 0
) -> tuple[list[float], list[float]]:
    """The accuracy of a classifier of noisy data at noise levels equally spaced in log-SNR.

    Args:
        model: the classifier.
        reference: examples ``x`` with their ``label``.
        levels: how many.
        seed: of the noise.

    Returns:
        σ/α of each level, ascending, and the share of examples whose label is the likeliest.
    """
    if not {"x", "label"} <= reference.keys():
        raise UserError(f"reference must have x and label, got {list(reference)}")
    process: ScalarGaussian = require(model.process, ScalarGaussian, "accuracy")
    ends = [float(process.log_snr(t)) for t in (process.t_min, process.t_max)]
    times = process.time(torch.linspace(ends[0], ends[1], levels, dtype=torch.float64))
    x, label = reference["x"].to(model.device), reference["label"].to(model.device)
    noise = Noise(seed, len(x)).to(model.device)
    share = []
    for i, t in enumerate(times):
        x_t = process.marginal(x, t).sample(noise.step(i))
        share.append(float((model(x_t, t).argmax(1) == label).double().mean()))
    return (process.sigma(times) / process.alpha(times)).tolist(), share


def before_after(folder: Path) -> Path | None:
    """The first and the last picture of a run beside each other, as ``before-after.png``; None if there are not two.

    Args:
        folder: ``pictures`` of a run.
    """
    from PIL import Image

    steps = sorted(folder.glob("step-*.png"))
    if len(steps) < 2:
        return None
    before, after = (Image.open(path).convert("RGB") for path in (steps[0], steps[-1]))
    named = [_captioned(picture, [name], picture.width, 0) for picture, name in ((before, "before"), (after, "after"))]
    sheet = Image.new("RGB", (before.width + after.width + CAPTION, max(p.height for p in named)), "white")
    sheet.paste(named[0], (0, 0))
    sheet.paste(named[1], (before.width + CAPTION, 0))
    files.replace(folder / "before-after.png", png(sheet))
    return folder / "before-after.png"


def _beside(denoiser: Any, path: Path, seed: int, real: Tensor, condition: Mapping[str, Tensor]) -> Path:
    """Samples under the conditions of held-out examples: rows of eight pictures told, samples, and the images."""
    data: Any = denoiser.output
    count = min(len(real), 16 if data.is_image else len(real))
    some = rows_of(condition, slice(0, count))
    x = _sampled(denoiser.given(some), count, seed).cpu().to(real.dtype)
    if not data.is_image:
        files.replace(path, png(scatter(x.flatten(1), some.get("label"), real.flatten(1))))
        return path
    parts = [x, real[:count]] if real.shape[1:] == x.shape[1:] else [x]
    if "image" in some:
        told = torch.nan_to_num(some["image"], 0.0)
        told = told.expand(-1, x.shape[1], -1, -1) if told.shape[1] == 1 else told[:, : x.shape[1]]
        parts = [torch.nn.functional.interpolate(told, tuple(x.shape[2:]), mode="nearest"), *parts]
    rows = [part for together in zip(*(p.split(8) for p in parts)) for part in together]
    files.replace(path, png(image_grid(torch.cat(rows), 8, low=data.low, high=data.high)))
    return path
