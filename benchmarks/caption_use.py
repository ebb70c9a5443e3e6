"""At which noise levels does a model use its captions? Errors with the right caption, another picture's, and none.

    python benchmarks/caption_use.py runs/one runs/another

Mean square error of x̂_0 on held-out pictures, by noise level σ/α. Where the right caption helps much, the caption
decides there: the colour of large plain areas at large noise, where a thing is and what it is below. A model for which
the three are the same has not learned to read yet.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table

import langevin
from langevin.processes.grids import time_of_level
from record import show

LEVELS = (0.3, 1.0, 3.0, 10.0, 40.0)


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
        x, caption, noise = held["x"], held["caption"], langevin.Noise(0, options.n)
        told = {"right": model.given(caption=caption), "none": model, "other": model.given(caption=caption.roll(1, 0))}
        for i, level in enumerate(LEVELS):
            t = time_of_level(model.process, level, "level")
            noisy = model.process.marginal(x, t).sample(noise).float()
            with torch.no_grad():
                errors = [float((one(noisy, t).mean - x).square().mean()) for one in told.values()]
            first = (name.rstrip("/").rsplit("/", 1)[-1], f"{model.config.get('steps', 0):,}") if i == 0 else ("", "")
            table.add_row(*first, f"{level:g}", *(f"{error:.4f}" for error in errors))
    show("caption-use", table)


if __name__ == "__main__":
    main()
