"""Stiff guidance: a multistep method on the guided flow, and the same with the guidance split off (arXiv:2301.11558).

    python benchmarks/splitting.py      about two minutes on one core

Median distance from the guided flow (4th-order Runge–Kutta, 600 steps) at log-SNR 6, from log-SNR −4, on grids uniform
in log-SNR: a ring of 8 components of width 0.1 on a circle of radius 1, its exact classifier, VP. Above 1 a sample is
lost.
"""

from __future__ import annotations

import torch
from rich.table import Table

import langevin
import record
from langevin import guidance, processes, samplers, worlds
from langevin.samplers import Splitting

SAMPLERS = {
    "PLMS": samplers.PLMS(),
    "DDIM": samplers.DDIM(),
    "LTSP (PLMS, Euler)": Splitting(kind="lie"),
    "STSP (PLMS, Euler)": Splitting(),
    "STSP, 4 guidance steps": Splitting(guidance_steps=4),
}
SCALES, STEPS = (5.0, 20.0, 60.0, 200.0), (6, 12, 24)


def main() -> None:
    world, process = worlds.ring(8, 1.0, 0.1), processes.VP()
    table = Table("scale", "steps", *SAMPLERS)
    ends = process.time(torch.tensor([-4.0, 6.0], dtype=torch.float64))
    start = world.sample(64, 1, process=process, t=ends[0])
    for scale in SCALES:
        denoiser = guidance.classifier(world.denoiser(process), world.classifier(process), label=1, scale=scale)

        def last(sampler: samplers.Sampler, steps: int, guided: langevin.denoisers.Denoiser = denoiser) -> torch.Tensor:
            grid = process.time(torch.linspace(-4, 6, steps + 1, dtype=torch.float64))
            *_, state = langevin.trajectory(guided, sampler, grid=grid, start=start)
            return state.x

        reference = last(samplers.RhoRK4(), 600)
        for steps in STEPS:
            errors = [float((last(s, steps) - reference).norm(dim=1).median()) for s in SAMPLERS.values()]
            table.add_row(f"{scale:g}", str(steps), *(f"{e:.2g}" for e in errors))
    record.show("splitting", table)


if __name__ == "__main__":
    main()
