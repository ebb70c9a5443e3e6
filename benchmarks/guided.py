"""The default solver under guidance, by the order of its interpolation: how far its samples end from the exact path's.

    python benchmarks/guided.py --record                    # exact worlds: two minutes
    python benchmarks/guided.py runs/digits                 # a trained model with classes too

Medians over samples of the distance to the end of the converged path from the same noise, in standard deviations of the
data. Guidance of scale w is (1 − w) D + w D_k of a world's belief and that of one of its components; of a model,
classifier-free with a class in turn. ``default`` is the order that the default takes at that scale; ``as without
guidance`` is that order in the data's own frame, with every step integrated twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from rich.table import Table

import langevin
import tolerance
from langevin.samplers import default_sampler
from record import show
from tolerance import Case

STEPS = (6, 8, 10, 12, 16, 20)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Worlds under EDM's process, and the models that are given."""
    tolerance.GUIDANCE = tuple(options.guidance)
    for case in tolerance.worlds(1, options.samples):
        if case.name.startswith("EDM"):
            yield replace(case, name=case.name.removesuffix(", 0"))
    yield from tolerance.models(options.models, options.samples)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    table = Table("problem", "order", *(f"{n} steps" for n in STEPS), box=None)
    for case in cases(options):
        rule = default_sampler(case.denoiser)
        unit = tolerance.accuracy.std_of(case.denoiser.output, case.end)
        rows = {f"{n}, default" if n == rule.order else str(n): replace(rule, order=n) for n in (2, 3, 4)}
        if rule.guidance_scale > 1:
            rows[f"{rule.order}, as without guidance"] = replace(rule, guidance_scale=1.0)
        for name, one in rows.items():
            figures = []
            for steps in STEPS:
                made = langevin.sample(case.denoiser, one, steps=steps, noise=case.noise)
                figures.append(float(tolerance.accuracy.distances(made, case.end).median()) / unit)
            table.add_row(case.name if name == next(iter(rows)) else "", name, *(f"{figure:.2g}" for figure in figures))
    show("guided", table, width=140)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
