"""Letters enlarged from 16 to 64 pixels, and drawn from captions by cascades: how near, and can they be read?

    langevin train glyphs --size 16 --out runs/stage-0 ...                                    # from captions
    langevin train glyphs --size 32 --degrade resize=16,noise=0..0.2 --out runs/stage-1 ...
    langevin train glyphs --size 64 --degrade resize=32,noise=0..0.2 --out runs/stage-2 ...
    langevin cascade runs/stage-1 runs/stage-2 --out runs/enlarge
    langevin cascade runs/stage-0 runs/stage-1 runs/stage-2 --out runs/cascade
    python benchmarks/super_resolution.py --enlarge runs/enlarge --cascade runs/cascade

The pictures are held-out ones of a family of fonts that no stage was trained on. **Enlarging** tells a cascade their
16-pixel versions; the mean is of ``--draws`` samples, which is nearest in PSNR and blurred where the small picture does
not say. PSNR is the mean over pictures, in dB of the range. **Drawing** tells a cascade their captions alone, under
guidance of the first stage that is told them. The reader (``glyph_reader.py``) was trained on renderings of 64 pixels;
its own errors on the real pictures are in the first row. ``--noise`` adds noise of that standard deviation to what the
small picture is before a stage is told it, as noise-conditioning augmentation may at sampling too (arXiv:2106.15282).
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

import langevin
from glyph_reader import READ, read
from glyphs import right
from langevin.data.degradations import Degradation
from record import show

BATCH = 100
"""Pictures drawn at a time; a result does not depend on it."""


def psnr(made: Tensor, real: Tensor) -> float:
    """Mean over pictures of 10 log₁₀(4 / MSE), of pictures in [-1, 1]."""
    return float((10 * torch.log10(4 / (made - real).square().flatten(1).mean(1))).mean())


def sampled(model: langevin.Denoiser, told: dict[str, Tensor], scale: float, steps: int, seed: int) -> Tensor:
    """One picture for each row of what is told."""
    count, made = len(next(iter(told.values()))), []
    for first in range(0, count, BATCH):
        some = {name: value[first : first + BATCH] for name, value in told.items()}
        index = torch.arange(first, min(first + BATCH, count))
        guided = model.given(some)
        if scale != 1:
            guided = langevin.guidance.classifier_free(model, some, guidance_scale=scale)
        made.append(langevin.sample(guided, n=len(index), steps=steps, noise=langevin.Noise(seed, index)))
    return torch.cat(made).clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--enlarge", nargs="*", default=[], help="cascades that are told a small picture")
    parser.add_argument("--cascade", nargs="*", default=[], help="cascades that are told captions")
    parser.add_argument("-n", type=int, default=200, help="held-out pictures")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="of each stage")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    data = langevin.data.load("glyphs", size=64)
    parts = data.test.attributes["part"]
    rows = [i for i, part in enumerate(parts) if part == "family"][: options.n]
    held = data.test.plain(torch.tensor(rows))
    real = held["x"]
    small = Degradation.parse("resize=16")(real, langevin.Noise(0, len(real)))["image"]

    table = Table(
        "", "noise", "guidance", "PSNR", *READ, title=f"{len(real)} held-out pictures, 16 to 64 pixels, read %"
    )

    def add(name: str, noise: str, scale: str, x: Tensor, measured: bool = True) -> None:
        found = dict(zip(rows, read(x), strict=True))
        aligned = [found.get(i, {}) for i in range(len(parts))]
        cells = [right(aligned, data.test, rows, key) for key in READ]
        table.add_row(name, noise, scale, f"{psnr(x, real):.2f}" if measured else "", *cells)

    add("real", "", "", real, measured=False)
    add("bicubic", "", "", F.interpolate(small, 64, mode="bicubic").clamp(-1, 1))
    for name in options.enlarge:
        model = langevin.load(name)
        for std in options.noise:
            disturbed = small + std * langevin.Noise(1, len(small)).normal(tuple(small.shape[1:])).to(small)
            draws = [sampled(model, {"image": disturbed}, 1.0, options.steps, seed) for seed in range(options.draws)]
            short = name.rstrip("/").rsplit("/", 1)[-1]
            add(f"{short}, one sample", f"{std:g}", "", draws[0])
            add(f"{short}, mean of {len(draws)}", f"{std:g}", "", torch.stack(draws).mean(0))
    for name in options.cascade:
        model = langevin.load(name)
        for scale in options.scales:
            x = sampled(model, {"caption": held["caption"]}, scale, options.steps, 0)
            add(name.rstrip("/").rsplit("/", 1)[-1], "", f"{scale:g}", x, measured=False)
    show("super-resolution", table)


if __name__ == "__main__":
    main()
