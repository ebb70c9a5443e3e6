"""The bound of a ring under point beliefs on three grids of each number of steps, above −log p, in nats an event.

    python benchmarks/grids.py [--record]

Evenly over the knots of DDPM's table, quadratic over its hundredths, and the least of all sub-grids of a hundred
knots by dynamic programming over one table of terms, measured on 500 points; the figures are of 2,000 others.
"""

from __future__ import annotations

import math

import torch
from rich.table import Table

from langevin import denoisers, likelihood, processes, worlds
from langevin.samplers import grids
from record import show

FINE = 100


def main() -> None:
    world, process = worlds.ring(8, 1.0, 0.08), processes.DDPM()
    points, fresh = denoisers.dirac(world.denoiser(process)), world.sample(2000, 2)
    pairs = likelihood.pairs(points, world.sample(500, 1), fine=FINE)
    table = Table("steps", "even", "quadratic", "least", "±", title="bound − entropy, nats an event")
    for steps in (5, 10, 20, 50):
        knots = (grids.quadratic(process, steps)[:-1] * FINE).round().clamp_min(1).unique().flip(0) / FINE
        quadratic = torch.cat((knots, torch.zeros(1, dtype=torch.float64)))
        found = [
            likelihood.bound(points, fresh, grid=grid, seed=5).nats + world.log_prob(fresh)
            for grid in (grids.trailing(process, steps), quadratic, pairs.grid(steps))
        ]
        error = max(float(v.std()) for v in found) / math.sqrt(len(fresh))
        table.add_row(str(steps), *(f"{float(v.mean()):.3f}" for v in found), f"{error:.3f}")
    show("grids", table)


if __name__ == "__main__":
    main()
