"""The steps that a tolerance chooses: the error that is reached, and how many evaluations would have done.

    python benchmarks/tolerance.py [MODEL …] [--seeds 2] [--samples 256] [--record]

On exact worlds (two processes, with and without guidance) the end of every path is known to 1e-10, by DOP853 in
σ-coordinates. On trained models it is the default's at 256 steps. The first table says, a row a case, the error that
was estimated from twelve probes, the median error that samples of other noises have with as many steps, and the fewest
steps with which that median is at most what was asked. The second counts how often that was kept, and evaluations over
the fewest.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import exact
import langevin
import record
from langevin import Noise, guidance, samplers
from langevin.denoisers import Denoiser, Transform
from langevin.distributions import Dirac
from langevin.samplers import tolerance as accuracy

TOLERANCES = (0.1, 0.03, 0.01)
GUIDANCE = (1.0, 4.0)
REFERENCE = 256
LABEL = 1


@dataclass(frozen=True, eq=False)
class Pooled(Transform):
    """A world's belief, guided towards one of its components: ``(1 − w) D(y) + w D(y | k)``."""

    whole: exact.FastMean
    part: exact.FastMean
    scale: float

    @property
    def extrapolation(self) -> float:
        return max(1.0, 2 * self.scale - 1)

    def mean(self, y: Tensor, rho: float | Tensor) -> Tensor:
        """In σ-coordinates."""
        plain = self.whole(y, rho)
        return plain if self.scale == 1 else (1 - self.scale) * plain + self.scale * self.part(y, rho)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        process: exact.ScalarGaussian = self.process  # type: ignore[assignment]
        now = torch.as_tensor(t, dtype=torch.float64)
        alpha = process.alpha(now)
        return Dirac(self.mean(x_t / alpha, process.sigma(now) / alpha))


@dataclass(frozen=True, eq=False)
class Case:
    """A model with the ends of its paths from known noises, and the data's standard deviation."""

    name: str
    denoiser: Denoiser
    noise: Noise
    end: Tensor

    def median(self, steps: int) -> float:
        """The error of half of the samples, or more."""
        x = langevin.sample(self.denoiser, samplers.default_sampler(self.denoiser), steps=steps, noise=self.noise)
        unit = accuracy.std_of(self.denoiser.output, self.end)
        return float(accuracy.distances(x, self.end).median()) / unit


def worlds(seeds: int, samples: int) -> Iterator[Case]:
    """Exact worlds under two processes, plain and guided."""
    for world in exact.WORLDS:
        for process in exact.PROCESSES:
            for scale in GUIDANCE:
                for seed in range(seeds):
                    problem = exact.Problem(world, process, seed, samples=samples)
                    part = exact.FastMean(problem.world.part(LABEL))
                    belief = Pooled(problem.world.denoiser(problem.process), problem.fast, part, scale)
                    last = 1e-5 * math.sqrt(float(problem.world.values.min()))
                    end = belief.mean(exact.flow(belief.mean, problem.start_y, problem.rho_max, last), last)
                    yield Case(f"{problem.name}, guidance {scale:g}, {seed}", belief, problem.noise, end)


def models(paths: list[str], samples: int) -> Iterator[Case]:
    """Trained models, labels in turn where there are any."""
    for path in paths:
        model = langevin.load(path)
        labels = model.condition_sizes.get("label", 0)
        told = {"label": torch.arange(samples) % labels} if labels else {}
        for scale in GUIDANCE if labels else (1.0,):
            belief = guidance.classifier_free(model, told, guidance_scale=scale) if scale != 1 else model.given(told)
            noise = Noise(1000, samples)
            end = langevin.sample(belief, samplers.default_sampler(belief), steps=REFERENCE, noise=noise)
            yield Case(f"{path}, guidance {scale:g}", belief, noise, end)


def fewest(case: Case, tolerance: float, known: dict[int, float]) -> int:
    """The fewest steps that would have done, of 1 to 64."""
    for steps in range(1, accuracy.MOST + 1):
        if steps not in known:
            known[steps] = case.median(steps)
        if known[steps] <= tolerance:
            return steps
    return accuracy.MOST + 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    long = Table()
    for head in ("model", "asked", "estimated", "reached", "evaluations", "fewest", "spent a probe"):
        long.add_column(head, justify="left" if head == "model" else "right")
    found: dict[float, list[tuple[bool, float]]] = {asked: [] for asked in TOLERANCES}
    unmet = dict.fromkeys(TOLERANCES, 0)
    cases = (*worlds(arguments.seeds, arguments.samples), *models(arguments.models, min(arguments.samples, 32)))
    for case in cases:
        known: dict[int, float] = {}
        for asked in TOLERANCES:
            try:
                chosen = samplers.choose_steps(case.denoiser, asked, n=len(case.noise))
            except langevin.UserError:
                unmet[asked] += 1
                continue
            reached, least = case.median(chosen.steps), fewest(case, asked, known)
            found[asked].append((reached <= asked, chosen.steps / least))
            figures = f"{chosen.error:.2g}", f"{reached:.2g}", f"{chosen.steps}", f"{least}", f"{chosen.spent}"
            long.add_row(case.name, f"{asked:g}", *figures)
    Console(width=120).print(long)
    table = Table()
    for head in (
        "asked",
        "cases",
        "kept",
        "evaluations over the fewest: median",
        "mean",
        "at most 1.3",
        "not met in 64",
    ):
        table.add_column(head, justify="right")
    every = [each for several in found.values() for each in several]
    for name, several in (*((f"{asked:g}", found[asked]) for asked in TOLERANCES), ("all", every)):
        shares = [share for _, share in several]
        middle, mean = f"{statistics.median(shares):.2f}", f"{statistics.mean(shares):.2f}"
        within, missed = sum(share <= 1.3 for share in shares), unmet.get(float(name) if name != "all" else 0.0)
        row = name, f"{len(several)}", f"{sum(kept for kept, _ in several)}", middle, mean, f"{within}"
        table.add_row(*row, f"{sum(unmet.values()) if missed is None else missed}")
    record.show("tolerance", table)


if __name__ == "__main__":
    main()
