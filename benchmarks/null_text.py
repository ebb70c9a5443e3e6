"""How far pictures come back from an inversion under guidance, with and without null-text optimisation.

    langevin train glyphs --network.options conditions '{"caption": 104}' --out runs/glyphs
    python benchmarks/null_text.py runs/glyphs            # minutes on a core

Held-out pictures are encoded by DDIM under their captions, up to the model's highest noise, and decoded by DDIM on the
same grid: under the caption alone, guided by it, and guided with what the unconditional side is told learned in so many
iterations a step (arXiv:2211.09794). The figures are the RMS of what comes back less the picture, in the range of 2.
Evaluations are of the network, a picture; those of the optimisation have a gradient too.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin import Noise, samplers
from langevin.denoisers import Denoiser
from langevin.samplers import DDIM
from langevin.tasks.edit import null_text, with_null
from langevin.tasks.prepare import bound
from record import show


def decoded(denoiser: Denoiser, start: Tensor, grid: Tensor) -> Tensor:
    """Where DDIM comes to."""
    with torch.no_grad():
        *_, last = samplers.trajectory(denoiser, DDIM(), grid=grid, start=start, noise=Noise(0, len(start)))
    return last.x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusion model of glyphs that is told captions")
    parser.add_argument("-n", type=int, default=32, help="held-out pictures")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--iterations", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()

    model = langevin.load(asked.model)
    held = langevin.data.load("glyphs", size=model.shape[-1]).test.batch(torch.arange(asked.n))
    x, caption = held["x"], held["caption"]
    grid = samplers.default_grid(model.process, asked.steps)
    told = model.given(caption=caption)
    counted = model.counted()
    path = samplers.encoded(told, x, sampler=DDIM(), grid=grid)
    rms = lambda made: f"{float((made - x).double().square().mean().sqrt()):.3f}"
    table = Table(title=f"{len(x)} held-out pictures, encoded and decoded in {asked.steps} steps of DDIM")
    for column in ("guidance", "iterations", "RMS of what comes back", "evaluations"):
        table.add_column(column, justify="right")
    table.add_row("1", "", rms(decoded(told, path[-1].x, grid)), str(2 * asked.steps))
    for scale in asked.guidance:
        guided = bound(counted, {"caption": caption}, scale)
        for iterations in (0, *asked.iterations):
            counted.counter.calls = 0
            learned = guided
            if iterations:
                learned = with_null(guided, null_text(guided, x, path, DDIM(), grid, iterations))
            made = decoded(learned, path[-1].x, grid)
            calls = counted.counter.calls + asked.steps
            row = (f"{scale:g}", str(iterations) if iterations else "none", rms(made), str(calls))
            table.add_row(*row)
            print(*row, flush=True)
    show("null-text", table)


if __name__ == "__main__":
    main()
