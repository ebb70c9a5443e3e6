"""What inversion leaves of an image: RMS of decode(encode(x)) − x, on exact worlds, for docs/edit.md.

    python benchmarks/inversion.py [--steps 50]

Prints a table: three ways of encoding in so many steps, in float64 on VP, and the evaluations that a step took.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table

from langevin import processes, samplers, worlds
from langevin.denoisers import Transform
from record import show

WORLDS = {"ring": worlds.ring(), "mixture, 16-D": worlds.random_mixture(16, components=4, rms=0.7, seed=3)}
WAYS = {
    "DDIM, explicit": (samplers.DDIM(), 0),
    "`RhoHeun()`, explicit": (samplers.RhoHeun(), 0),
    "DDIM, `fixed_point=60`": (samplers.DDIM(), 60),
}


def main() -> None:
    """Encode, decode, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--record", action="store_true")
    steps = parser.parse_args().steps
    title = f"RMS of decode(encode(x)) − x, {steps} steps, float64"
    table = Table(title, *WORLDS, "evaluations a step of `encode`")
    for name, (rule, fixed_point) in WAYS.items():
        cells, asked = [], []
        for world in WORLDS.values():
            counted = Counted(world.denoiser(processes.VP()))
            x = world.sample(64, 5)
            calls.clear()
            z = samplers.encode(counted, x, sampler=rule, steps=steps, fixed_point=fixed_point)
            asked.append(len(calls) / steps)
            back = samplers.decode(counted, z, sampler=rule, steps=steps)
            cells.append(f"{float((back - x).square().mean().sqrt()):.1e}")
        table.add_row(name, *cells, " and ".join(f"{number:.1f}" for number in asked))
    show("inversion", table)


calls: list[float] = []


class Counted(Transform):
    """The base, whose calls are written down."""

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor | float):  # type: ignore[no-untyped-def]
        calls.append(float(torch.as_tensor(t).reshape(-1)[0]))
        return self.base(x_t, t)


if __name__ == "__main__":
    main()
