"""Solvers that carry the noise prediction, on processes whose α begins near 0: sliced W2 and what float32 does.

    python benchmarks/noise_predictions.py

A mixture of four components in the plane, 2000 samples, 12 steps from t_max; the belief is exact, in float64 and passed
through float32. Under a minute.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import langevin
from langevin import processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.distributions import Dirac, Distribution
from langevin.metrics import sliced_wasserstein
from langevin.samplers import grids

SOLVERS = {
    "plms": samplers.PLMS(),
    "pndm": samplers.PNDM(),
    "deis": samplers.DEIS(),
    "dpmpp-2m": samplers.DPMSolverPP(),
    "default": samplers.GaussianRemainder(),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Single(Transform):
    """A belief whose state and mean pass through float32, as those of a network do."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return Dirac(self.base(x_t.double(), t).mean.float())


def main() -> None:
    """A row a process and grid: for each solver the distance of its samples, and how far float32 moves them."""
    world = worlds.random_mixture(2, components=4, rms=0.7, seed=2)
    real = world.sample(2000, 7)
    print(f"{'process':<16}{'grid':<10}" + "".join(f"{name:>20}" for name in SOLVERS) + "   W2, moved by float32")
    for process in (processes.RectifiedFlow(), processes.Cosine(), processes.VP()):
        start = world.sample(2000, 1, process=process, t=process.t_max)
        for name, grid in (("uniform", grids.uniform), ("log-snr", grids.log_snr)):
            row = f"{type(process).__name__:<16}{name:<10}"
            for solver in SOLVERS.values():
                exact, single = (
                    langevin.sample(denoiser, solver, start=start, grid=grid(process, 12)).double()
                    for denoiser in (world.denoiser(process), Single(world.denoiser(process)))
                )
                moved = float((single - exact).abs().median())
                row += f"{sliced_wasserstein(single, real):>11.3f}{moved:>9.0e}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
