"""At which noise levels does a model use its captions? Errors with the right caption, another picture's, and none.

    python benchmarks/caption_use.py runs/one runs/another

Mean square error of x̂_0 on held-out pictures, by noise level σ/α. Where the right caption helps much, the caption
decides there: the colour of large plain areas at large noise, where a thing is and what it is below. A model for which
the three are the same has not learned to read yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin.processes.grids import time_of_level
from record import show

LEVELS = (0.3, 1.0, 3.0, 10.0, 40.0)


def errors(told: Sequence[langevin.Denoiser], x: Tensor, level: float) -> list[float]:
    """Mean square error of x̂_0 of each of several denoisers, on the same noisy pictures at a level σ/α."""
    process = told[0].process
    t = time_of_level(process, level, "level")
    noisy = process.marginal(x, t).sample(langevin.Noise(0, len(x))).float()
    with torch.no_grad():
        return [float((one(noisy, t).mean - x).square().mean()) for one in told]


def heading(name: str, model: langevin.Denoiser) -> tuple[str, str]:
    """What a model is called, and how many steps it was trained."""
    return name.rstrip("/").rsplit("/", 1)[-1], f"{model.config.get('steps', 0):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="models of pictures that are told captions")
    parser.add_argument("-n", type=int, default=256, help="held-out pictures")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    table = Table("model", "steps", "σ/α", "right caption", "no caption", "another's", title="mean square error of x̂_0")
    for name in options.models:
        model = langevin.load(name)
        held = langevin.data.load(model.data.name, size=model.shape[-1]).test.plain(torch.arange(options.n))
        x, caption = held["x"], held["caption"]
        told = [model.given(caption=caption), model, model.given(caption=caption.roll(1, 0))]
        for i, level in enumerate(LEVELS):
            first = ("", "") if i else heading(name, model)
            table.add_row(*first, f"{level:g}", *(f"{error:.4f}" for error in errors(told, x, level)))
    show("caption-use", table)


if __name__ == "__main__":
    main()
