"""Pictures of samples: a grid of images, a scatter of points."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import samplers
from .._errors import UserError, shown
from ..denoisers import NetworkDenoiser
from ..denoisers.conditions import rows_of
from ..models.codec import Autoencoder
from ..storage import files

if TYPE_CHECKING:
    from PIL.Image import Image


CELL, WIDEST = 96, 2048
"""Pixels that a small image is enlarged to, and that the enlarged picture is wide at most."""

CAPTION = 20
"""Pixels of a line of names."""


def image_grid(
    x: Tensor,
    columns: int = 0,
    *,
    low: float = -1.0,
    high: float = 1.0,
    gap: int = 1,
    names: Sequence[str] = (),
) -> Image:
    """Images in rows, as one RGB picture; small ones are enlarged by a whole factor, every pixel a square.

    Args:
        x: ``(N, C, H, W)`` with 1 or 3 channels; other counts show the first channel.
        columns: images in a row; about √N if 0.
        low: the value shown black.
        high: the value shown white.
        gap: width of the lines between images, in their own pixels.
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
    pixels = _bytes(x, low, high).expand(count, 3, height, width)
    sheet = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
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
    pixels = _bytes(x, low, high).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels if len(x) == 3 else pixels[:, :, 0])


def _bytes(x: Tensor, low: float, high: float) -> Tensor:
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


def pairs(codec: Autoencoder, x: Tensor, *, seed: int = 0) -> Tensor:
    """Rows of eight: data, what is left of them after encoding and decoding, and at last samples of the prior."""
    x = x[: max(8, len(x) - len(x) % 8)].to(codec.device)
    with torch.no_grad():
        again = codec.decode(codec.encode(x).mean).mean
    rows = [part for both in zip(x.split(8), again.split(8)) for part in both]
    return torch.cat([*rows, codec.sample(16, seed)])


def snapshot(
    denoiser: NetworkDenoiser | Autoencoder,
    path: Path,
    *,
    seed: int = 0,
    reference: Mapping[str, Tensor] | None = None,
) -> Path:
    """Sample and save a picture: 8 images of each of at most 10 classes (fewer if they are large), or 2000 points.

    Of a codec it shows held-out images with their reconstructions, and samples; of a model that is told pictures, rows
    of these, of samples and of the held-out images they belong to. Sequences of tokens are saved as 20 lines of text,
    as the path returned says. The default sampler takes 12 steps. The noise is the same every time, so pictures of a
    run show one set of samples as it forms.

    Args:
        denoiser: what is shown.
        path: of the picture.
        seed: of the noise.
        reference: held-out examples, with what belongs to them.
    """
    data: Any = denoiser.data
    held = dict(reference or {})
    real = held.pop("x", None)
    if isinstance(denoiser, Autoencoder):
        x = torch.empty(0) if real is None else real
        files.replace(path, png(image_grid(pairs(denoiser, x, seed=seed), 8, low=data.low, high=data.high)))
        return path
    beside = {name: value for name, value in held.items() if name in denoiser.conditions()}
    if real is not None and set(beside) - {"label"}:
        return _beside(denoiser, path, seed, real, beside)
    written = bool(data.tokens) and not data.is_image
    classes = min(10, len(data.classes)) if "label" in denoiser.conditions() else 0
    count = (classes or 8) * max(2, min(8, 256 // max(data.shape[1:]))) if data.is_image else 20 if written else 2000
    label = torch.arange(count) % classes if classes else None
    bound = denoiser if label is None else denoiser.given(label=label)
    x = samplers.sample(bound, n=count, steps=12, seed=seed)
    if written:
        path = path.with_suffix(".txt")
        files.replace(path, text(x, data.tokens).encode())
        return path
    images = data.is_image
    names = data.classes[:classes]
    picture = (
        image_grid(x, classes or 8, low=data.low, high=data.high, names=names) if images else scatter(x, label, real)
    )
    files.replace(path, png(picture))
    return path


def _beside(denoiser: NetworkDenoiser, path: Path, seed: int, real: Tensor, condition: Mapping[str, Tensor]) -> Path:
    """Samples under the conditions of held-out examples: rows of eight pictures told, samples, and the images."""
    data: Any = denoiser.data
    count = min(len(real), 16 if data.is_image else len(real))
    some = rows_of(condition, slice(0, count))
    x = samplers.sample(denoiser.given(some), n=count, steps=12, seed=seed).cpu().to(real.dtype)
    if not data.is_image:
        files.replace(path, png(scatter(x.flatten(1), some.get("label"), real.flatten(1))))
        return path
    parts = [x, real[:count]]
    if "image" in some:
        told = torch.nan_to_num(some["image"], 0.0)
        told = told.expand(-1, x.shape[1], -1, -1) if told.shape[1] == 1 else told[:, : x.shape[1]]
        parts = [torch.nn.functional.interpolate(told, tuple(x.shape[2:]), mode="nearest"), *parts]
    rows = [part for together in zip(*(p.split(8) for p in parts)) for part in together]
    files.replace(path, png(image_grid(torch.cat(rows), 8, low=data.low, high=data.high)))
    return path
