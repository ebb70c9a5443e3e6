"""The rows of the demo's table: samplers side by side on one model."""

from __future__ import annotations

from dataclasses import dataclass

from ..generate.samples import Recipe


@dataclass(frozen=True)
class Trial:
    """A row.

    Args:
        id: short name in files.
        title: what a reader sees.
        recipe: how samples are drawn.
        evaluations: of the network, that each sample takes.
        share: of the samples asked for, in (0, 1]: what costs a hundred times as much is measured on fewer.
        note: what has to be said about it.
    """

    id: str
    title: str
    recipe: Recipe
    evaluations: int
    share: float = 1.0
    note: str = ""

    def count(self, samples: int) -> int:
        """How many are drawn where ``samples`` are asked for."""
        return max(8, round(self.share * samples))


TRIALS = (
    Trial(
        "ddpm-1000",
        "DDPM",
        # The published sampler: every knot of the published table. On the model's own process, whose σ is linear in t,
        # 1000 uniform steps would take the last 0.08 of noise in one.
        Recipe(sampler="ddpm", process="ddpm", grid="uniform", steps=1000),
        1000,
        share=0.03,
        note="all 1,000 knots of the published table of β (linear, 1e-4 to 0.02), the model read in it at equal "
        "signal-to-noise ratio; few samples, since each takes a hundred times as long, so its own floors apply",
    ),
    Trial("ddim-20", "DDIM", Recipe(sampler="ddim", steps=20), 20, share=0.5),
    Trial("ddim-10", "DDIM", Recipe(sampler="ddim", steps=10), 10, share=0.5),
    Trial(
        "heun-8",
        "Heun",
        Recipe(sampler="heun", steps=8),
        15,
        share=0.5,
        note="two evaluations a step, one for the last",
    ),
    Trial("dpmpp-2m-sde-20", "DPM-Solver++(2M) SDE", Recipe(sampler="dpmpp-2m-sde", steps=20), 20, share=0.5),
    Trial(
        "default-10",
        "default",
        Recipe(steps=10),
        10,
        share=0.5,
        note="what is drawn when nothing is named: the Gaussian-remainder solver on its grid; so are its other rows",
    ),
    Trial("default-12", "default", Recipe(steps=12), 12),
    Trial("default-15", "default", Recipe(steps=15), 15, share=0.5),
)
"""From the published reference down to the default: all unguided, on the process's own grid unless they name one."""

HEADLINE = "default-12"
"""The row the report opens with, and its pictures are of."""
