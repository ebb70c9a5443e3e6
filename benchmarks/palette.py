"""Palette: one model for four kinds of damage beside four separate ones, and beside restoring without training.

    langevin train glyphs --degrade 'grey|box=0.5|uncrop=0.5|jpeg=5..30' --out runs/palette NETWORK
    langevin train glyphs --degrade box=0.5 --out runs/palette-box NETWORK        # and grey, uncrop, jpeg=5..30
    python benchmarks/palette.py runs/palette --separate grey=runs/palette-grey box=runs/palette-box \
        uncrop=runs/palette-uncrop jpeg=runs/palette-jpeg --prior runs/glyphs-32

200 held-out pictures of glyphs: turned grey, with a hole in the middle half, with the middle half alone, and as JPEG of
quality 10. PSNR in dB of one sample, and of the mean of ``--draws`` (nearest, and blurred where the damage leaves it
open). The methods without training (``langevin.restore``) take the prior with no condition and 20 evaluations of the
network for a sample, so that those of two a step have 10 steps; each task has its best method.
"""

from __future__ import annotations

import argparse
import functools

import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin import operators
from langevin.data._progress import track
from langevin.data.degradations import Degradation
from record import show
from super_resolution import psnr, sampled

EVALUATIONS = 20
METHODS = ("pigdm", "moment-matching", "dps", "mcg", "repaint", "ddrm", "diffpir", "daps")
"""Of ``langevin.restore``; those that a task cannot have say so, and are left out."""


def middle(x: Tensor) -> Tensor:
    """1 in the middle half of each side: ``(1, 1, H, W)``."""
    found = torch.zeros(1, 1, *x.shape[2:])
    h, w = x.shape[2] // 4, x.shape[3] // 4
    found[..., h : 3 * h, w : 3 * w] = 1
    return found


def told(image: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
    """What a model is told of damaged pictures."""
    known = torch.ones(1, 1, *image.shape[2:]) if known is None else known
    return {"image": image.expand(-1, 3, -1, -1), "mask": known.expand(len(image), -1, -1, -1)}


def damages(x: Tensor) -> dict[str, tuple[dict[str, Tensor], operators.Operator]]:
    """What a model is told and the operator of the damage, by task."""
    noise, inside = langevin.Noise(0, len(x)), middle(x)
    made = lambda text: Degradation.parse(text)(x, noise)["image"]
    mask = lambda known: operators.Inpaint(known[0].bool().expand(x.shape[1:]))
    return {
        "grey": (told(made("grey")), operators.Colourise()),
        "box": (told(x * (1 - inside), 1 - inside), mask(1 - inside)),
        "uncrop": (told(x * inside, inside), mask(inside)),
        "jpeg": (told(made("jpeg=10")), operators.JPEG(10)),
    }


def restored(prior: langevin.Denoiser, operator: operators.Operator, x: Tensor, method: str, draws: int) -> Tensor:
    """Samples ``(N, draws, C, H, W)`` at the given number of evaluations."""
    y = operators.measure(operator, x, 0.0, seed=0).y
    counted = prior.counted()
    langevin.restore(counted, operator, y[:1], method=method, steps=EVALUATIONS)
    steps = max(2, EVALUATIONS * EVALUATIONS // max(counted.counter.calls, EVALUATIONS))
    found = langevin.restore(prior, operator, y, method=method, n=draws, steps=steps)
    return found[:, None] if draws == 1 else found


def restored_by(model: langevin.Denoiser, given: dict[str, Tensor], draws: int, steps: int) -> Tensor:
    """Samples ``(N, draws, C, H, W)`` of a model that was trained to restore."""
    return torch.stack([sampled(model, given, 1.0, steps, seed) for seed in range(draws)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the model of all tasks")
    parser.add_argument("--separate", nargs="*", default=[], metavar="TASK=MODEL")
    parser.add_argument("--prior", help="a model of the pictures, for restoring without training")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    one = langevin.load(options.model)
    separate = {name: langevin.load(path) for name, _, path in (text.partition("=") for text in options.separate)}
    prior = langevin.load(options.prior) if options.prior else None
    held = langevin.data.load("glyphs", size=one.shape[-1]).test
    x = held.plain(torch.linspace(0, len(held) - 1, options.n).long())["x"]
    table = Table("task", "by", "PSNR, one sample", f"PSNR, mean of {options.draws}")
    table.title = f"{len(x)} held-out pictures at {x.shape[-1]} pixels, dB"

    for task, (given, operator) in damages(x).items():
        draw = functools.partial(restored_by, given=given, draws=options.draws, steps=options.steps)
        rows = {"one model for all": draw(one)}
        if task in separate:
            rows["a model of its own"] = draw(separate[task])
        best: tuple[str, Tensor] | None = None
        for method in track(METHODS, len(METHODS), task, prior is not None) if prior is not None else ():
            try:
                made = restored(prior, operator, x, method, options.draws).clamp(-1, 1)
            except langevin.UserError:
                continue
            if best is None or psnr(made[:, 0], x) > psnr(best[1][:, 0], x):
                best = f"without training: {method}", made
        if best is not None:
            rows[best[0]] = best[1]
        table.add_row(task, "as it is", f"{psnr(given['image'], x):.2f}", "")
        for name, made in rows.items():
            table.add_row("", name, f"{psnr(made[:, 0], x):.2f}", f"{psnr(made.mean(1), x):.2f}")
    show("palette", table)


if __name__ == "__main__":
    main()
