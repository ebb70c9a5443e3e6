"""The codec beside JPEG, PNG and WebP on the same images: PSNR at equal size, and exact files.

Image formats spend hundreds of bytes on a header, and a digit takes ten: so they get all images as one sheet, tiled so
that blocks of 8 × 8 pixels are whole images, with the smallest header each can write, and the codec gets all images as
one file. Sizes are whole files, headers included; PSNR is that of the 8-bit pixels.

Run: python benchmarks/codec.py MODEL [DATA] [--limit N] [--ratio X ...] [--exact] [--picture FILE] [--progressive FILE]
MODEL is a model directory; DATA what `langevin compress` takes (digits if not given).
"""

from __future__ import annotations

import argparse
import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from langevin import models
from langevin.report import Bar
from langevin.tasks.compress import DECODERS, Levels, RateDistortion, compress, decompress, images, rate_distortion
from langevin.tasks.compress.chain import checked

RATIOS = (1.0, 0.6, 0.35, 0.2, 0.12)
"""σ/α of the noisy sample that is sent, if not given."""


def sheet(levels: torch.Tensor, scale: Levels) -> np.ndarray:
    """All tiles in one image, as near to a square as they fill, 8 bits."""
    count, channels, height, width = levels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    spare = levels[-1:].expand(rows * columns - count, channels, height, width)
    tiles = torch.cat([levels, spare]).reshape(rows, columns, channels, height, width)
    whole = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels).numpy()
    pixels = np.rint(whole * (255 / (scale.count - 1))).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def written(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> tuple[int, np.ndarray]:
    """Bytes that Pillow writes, and the pixels it reads back."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    size, again = len(buffer.getvalue()), Image.open(buffer)
    return size, np.asarray(again.convert("L" if again.mode in ("L", "P", "1") and image.mode != "RGB" else "RGB"))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of 8-bit pixels, in dB."""
    return 10 * math.log10(255**2 / max(float(np.mean((a.astype(float) - b.astype(float)) ** 2)), 1e-9))


def jpegs(pixels: np.ndarray) -> list[tuple[int, float, str]]:
    """Bytes, PSNR and setting of every quality, with optimised tables, colours at half resolution and whole."""
    subs = (-1,) if pixels.ndim == 2 else (0, 2)
    made = []
    for quality in range(1, 96):
        for sub in subs:
            size, again = written(pixels, "JPEG", quality=quality, optimize=True, subsampling=sub)
            again = again if pixels.ndim == 3 else again[..., 0] if again.ndim == 3 else again
            made.append((size, psnr(pixels, again), f"quality {quality}"))
    return made


def webps(pixels: np.ndarray) -> list[tuple[int, float, str]]:
    """The same for WebP."""
    made = []
    for quality in range(0, 101, 2):
        size, again = written(pixels, "WEBP", quality=quality, method=6)
        again = again if pixels.ndim == 3 else again[..., 0]
        made.append((size, psnr(pixels, again), f"quality {quality}"))
    return made


def palettes(pixels: np.ndarray) -> list[tuple[int, float, str]]:
    """PNG with 2 to 64 colours, the best of them by median cut."""
    made = []
    for colours in (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64):
        image = Image.fromarray(pixels).convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT, dither=0)
        size, _ = written(image, "PNG", optimize=True)
        again = np.asarray(image.convert("RGB"))
        made.append((size, psnr(pixels, again if pixels.ndim == 3 else again[..., 0]), f"{colours} colours"))
    return made


def best(made: list[tuple[int, float, str]], size: int) -> str:
    """The best PSNR of at most this size; the smallest file if none is that small."""
    fits = [m for m in made if m[0] <= size]
    found = max(fits, key=lambda m: m[1]) if fits else min(made)
    return f"{found[1]:.2f}" if fits else f"{found[1]:.2f} at {found[0]}"


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--ratio", type=float, nargs="*", default=list(RATIOS), help="σ/α of the sample that is sent")
    parser.add_argument("--exact", action="store_true", help="the exact file too: the network in float64 is slow")
    parser.add_argument("--picture", type=Path, help="the curves and some of the images")
    parser.add_argument("--progressive", type=Path, help="rate and distortion from noise to data, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = models.load(options.model, device="cpu")
    scale = Levels.of(checked(model))
    levels, _ = images.read(options.data, checked(model), limit=options.limit, exact=False)
    if options.progressive is not None:
        some = scale.values(levels[torch.linspace(0, len(levels) - 1, min(64, len(levels))).long()])
        with Bar("walking") as bar:
            curve = rate_distortion(model, some, progress=bar)
        print(curve)
        return progressive(options.progressive, curve, some)
    x0, pixels, console = scale.values(levels), sheet(levels, scale), Console(width=140)
    formats = {"JPEG": jpegs(pixels), "WebP": webps(pixels), "PNG palette": palettes(pixels)}

    table = Table(title=f"{len(levels)} images of {options.data}: bytes, and PSNR in dB at no more bytes")
    for name in ("σ/α", "bytes", "payload", "predicted", "excess", *DECODERS, *formats):
        table.add_column(name, justify="right")
    shown, points = [], []
    for ratio in options.ratio:
        step = float(model.process.time(-2 * math.log(ratio)))
        # Exact samples of the chain on noise of their own: what the bound says, whatever was sent.
        with Bar("predicting") as bar:
            bound = float(rate_distortion(model, x0, end=step, seed=1, progress=bar).bits[-1].sum()) / 8
        begun = time.monotonic()
        with Bar("coding") as bar:
            made = compress(model, levels, step=step, progress=bar)
        took = time.monotonic() - begun
        received = decompress(model, made.content)
        decoded = {name: sheet(received.decode(name), scale) for name in DECODERS}
        quality = {name: psnr(pixels, picture) for name, picture in decoded.items()}
        size = len(made.content)
        table.add_row(
            f"{ratio:g}",
            str(size),
            str(made.payload),
            f"{bound:.0f}",
            f"{made.payload / bound - 1:+.1%}",
            *(f"{value:.2f}" for value in quality.values()),
            *(best(found, size) for found in formats.values()),
        )
        shown.append((size, decoded["flow"], quality["flow"]))
        points.append((size, quality))
        console.print(f"σ/α = {ratio:g}: {made}; coded in {took:.0f} s")
    if points:
        console.print(table)

    plain = Table(title="exact")
    for name in ("file", "bytes", "bits/dim"):
        plain.add_column(name, justify="right" if name != "file" else "left")
    sizes = {
        "PNG": written(pixels, "PNG", optimize=True)[0],
        "WebP": written(pixels, "WEBP", lossless=True, quality=100, method=6)[0],
    }
    if options.exact:
        with Bar("coding") as bar:
            made = compress(model, levels, progress=bar)
        assert torch.equal(decompress(model, made.content).decode(), levels)
        sizes[f"langevin (by the model: {made.predicted:.0f})"] = len(made.content)
    for name, size in sizes.items():
        plain.add_row(name, str(size), f"{8 * size / levels.numel():.3f}")
    console.print(plain)
    if options.picture is not None and points:
        draw(options.picture, pixels, formats, shown, points)


def progressive(path: Path, curve: RateDistortion, x0: torch.Tensor) -> None:
    """Left the distortion and the exact rate against bits sent, right what a receiver sees meanwhile."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.9), width_ratios=[1, 1.35])
    dim = x0[0].numel()
    rate = curve.bits.mean(1) / dim
    left.plot(rate, curve.psnr, ".-", c="#2563eb", ms=4)
    left.set(xlabel="bits/dim sent", ylabel="PSNR of x̂₀, dB")
    left.yaxis.label.set_color("#2563eb")
    beside = left.twinx()
    beside.plot(rate, curve.total.mean(1) / dim, "--", c="#be123c", lw=1)
    beside.set_ylabel("bits/dim with the exact levels", color="#be123c")
    shown = [int((rate - r).abs().argmin()) for r in torch.linspace(0, 1, 7) ** 1.5 * min(float(rate[-1]), 2.0)]
    rows = torch.linspace(0, len(x0) - 1, 5).long()
    views = torch.cat([curve.estimates[shown][:, rows], x0[None, rows]])
    count, _, channels, height, width = views.shape
    whole = views.permute(1, 3, 0, 4, 2).reshape(len(rows) * height, count * width, channels)
    low, high = float(x0.min()), float(x0.max())
    right.imshow(((whole - low) / (high - low)).clamp(0, 1).squeeze(-1), cmap="gray", vmin=0, vmax=1)
    ticks = [width * (i + 0.5) - 0.5 for i in range(count)]
    right.set(xticks=ticks, xticklabels=[*(f"{float(rate[i]):.2f}" for i in shown), "x₀"], yticks=[])
    right.set_xlabel("bits/dim sent")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def draw(path: Path, pixels: np.ndarray, formats: dict, shown: list, points: list) -> None:
    """The curves, and a corner of each sheet at about equal size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic([["c", "a", "b", "d"]], figsize=(13, 3.6), width_ratios=[1.5, 1, 1, 1])
    colours = {"JPEG": "#f59e0b", "WebP": "#64748b", "PNG palette": "#be123c"}
    most = 1.6 * points[-1][0]
    for name, found in formats.items():
        kept = sorted(m for m in found if m[0] <= most)
        axes["c"].plot([m[0] for m in kept], [m[1] for m in kept], ".-", c=colours[name], lw=1, ms=3, label=name)
    for name, style in (("flow", "o-"), ("ancestral", "s:"), ("mean", "^--")):
        axes["c"].plot([s for s, _ in points], [q[name] for _, q in points], style, c="#2563eb", ms=4, label=name)
    axes["c"].set(xlabel="bytes of the file", ylabel="PSNR, dB")
    axes["c"].legend(fontsize=7, frameon=False)
    size, picture, quality = shown[len(shown) // 2]
    image = min((m for m in formats["JPEG"]), key=lambda m: abs(m[0] - size))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(image[2].split()[1]), optimize=True)
    side = min(64, *pixels.shape[:2])
    views = {"a": (pixels, "images"), "b": (picture, f"flow: {size} bytes, {quality:.1f} dB")}
    views["d"] = (np.asarray(Image.open(buffer)), f"JPEG: {image[0]} bytes, {image[1]:.1f} dB")
    for key, (view, title) in views.items():
        axes[key].imshow(view[:side, :side], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[key].set(xticks=[], yticks=[])
        axes[key].set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
