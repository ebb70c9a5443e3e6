"""Fit the constants of the default solver's time grid again, and the variance that is assumed of unknown data.

    python benchmarks/fit_grid.py [known|plane|unknown] [--evaluations 400] [--quick]

The criterion is the mean, over worlds × EDM and DDPM × 8, 10 and 15 evaluations, of the logarithm of the RMS error at
the end of the probability flow. The truth is the same flow with 200 evaluations. The simplex of Nelder and Mead starts
at the constants of the code, each spread by a tenth, and the best point seen is kept. Worlds (none is one of those of
docs/remainder.md): for `plane`, rings and mixtures in 2 dimensions; for `known`, mixtures in 4 to 64; each also four
times finer. `unknown` has worlds of both without their moments, and its variance is fitted with it.

Fitted constants are printed beside those of the code, with the criterion of both on the worlds they were fitted to and
on worlds of other seeds. The criterion is flat near its least value: other numbers of the same quality are no surprise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from langevin import Noise, processes, samplers, worlds
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import GaussianRemainder, loop
from langevin.samplers.gaussian import noise_grid
from langevin.samplers.gaussian.noise_grid import EvaluationDensity

NAMES = (
    *("above", "below", "share", "shift A", "shift B", "head A", "head B"),
    *("tail A", "tail B", "rise", "blend from", "blend over", "variance"),
)
COUNTS, REFERENCE = (8, 10, 15), 200


def vector(activity: EvaluationDensity, variance: float | None) -> list[float]:
    """The constants as numbers; the variance last, where it is one of them."""
    a = activity
    pairs = [*a.shift, *a.head, *a.tail, a.weight.rise, *a.blend]
    return [a.above, a.below, a.share, *pairs, *([] if variance is None else [variance])]


def activity(v: Sequence[float]) -> EvaluationDensity:
    """The inverse of ``vector``; the power of σ is 2, which follows from the flow."""
    v = [float(x) for x in v]
    weight = noise_grid.Weight(2, v[9])
    return EvaluationDensity(v[0], v[1], v[2], (v[3], v[4]), (v[5], v[6]), (v[7], v[8]), weight, (v[10], v[11]))


@dataclass(frozen=True)
class Case:
    """A world under a process, with starts and where the flow takes them."""

    denoiser: object
    start: torch.Tensor
    truth: torch.Tensor


def finer(world: worlds.GaussianMixture, factor: float) -> worlds.GaussianMixture:
    """The same clusters with their spread divided by ``factor``."""
    cov = torch.einsum("kij,kj,klj->kil", world.basis, world.values / factor**2, world.basis)
    return worlds.GaussianMixture(world.log_weights.exp(), world.means, cov)


def cases(name: str, seed: int, samples: int, quick: bool) -> list[Case]:
    """The worlds of a fit, made with this seed; one of them if that is to be quick."""
    plane = [worlds.ring(6 + seed % 5), *(worlds.random_mixture(2, 5, rms=0.6, seed=seed + i) for i in range(2))]
    high = [worlds.random_mixture(d, 6, min(d, 8), rms=0.6, seed=seed + d) for d in (4, 16, 64)]
    picked = {"plane": plane, "known": high, "unknown": [*plane[1:], *high[:2]]}[name]
    if quick:
        world = picked[1]
        denoiser, start = world.denoiser(processes.EDM()), processes.EDM().prior(world.shape).sample(Noise(seed, 4))
        return [Case(denoiser, start, solve(denoiser, start, 40, None))]
    found = []
    for world in [*picked, *(finer(w, 4.0) for w in picked)]:
        for process in (processes.EDM(), processes.DDPM()):
            denoiser = world.denoiser(process)
            start = process.prior(world.shape).sample(Noise(seed, samples))
            found.append(Case(denoiser, start, solve(denoiser, start, REFERENCE, None)))
    return found


def solve(denoiser, start: torch.Tensor, steps: int, variance: float | None) -> torch.Tensor:
    """The default solver on its own grid, with the moments of the world or with the assumed variance alone."""
    size = math.prod(denoiser.shape)
    sampler = GaussianRemainder()
    if variance is not None:
        flat = torch.zeros(size, dtype=torch.float64)
        sampler = replace(sampler, frame=GaussianFrame(flat, torch.full_like(flat, variance), spectral=False))
    sampler = sampler.for_model(denoiser)
    grid = sampler.default_grid(denoiser.process, steps)
    *_, last = samplers.trajectory(denoiser, sampler, grid=grid, start=start)
    return last.x


def criterion(v: Sequence[float], name: str, problems: list[Case]) -> float:
    """Mean log RMS error with these constants in the place of the code's; infinite where they make no grid."""
    kept = getattr(noise_grid, name.upper())
    setattr(noise_grid, name.upper(), activity(v))
    forget()
    variance = float(v[12]) if name == "unknown" else None
    try:
        if min(v[0], v[1], v[2], v[11]) <= 0 or (variance is not None and variance <= 0):
            return math.inf
        logs = []
        for case in problems:
            for steps in COUNTS:
                error = (solve(case.denoiser, case.start, steps, variance) - case.truth).square().mean().sqrt()
                logs.append(math.log(float(error)))
        mean = float(np.mean(logs))
        return mean if math.isfinite(mean) else math.inf
    except (ValueError, ArithmeticError):  # times that do not fall, or errors that are no numbers
        return math.inf
    finally:
        setattr(noise_grid, name.upper(), kept)
        forget()


def forget() -> None:
    """Grids and rows that were made with other constants."""
    for cached in (noise_grid.time_warp, noise_grid._times, loop._tabulate):
        cached.cache_clear()


def fit(name: str, evaluations: int, quick: bool = False) -> tuple[list[float], list[float], list[float]]:
    """The constants of the code, the fitted ones, and the criterion of both: on the fit's worlds, and on others."""
    variance = float(GaussianFrame.unknown(1).variances[0]) if name == "unknown" else None
    code = vector(getattr(noise_grid, name.upper()), variance)
    problems, others = (cases(name, seed, 32, quick) for seed in (100, 200))
    best = (math.inf, code)

    def goal(v: np.ndarray) -> float:
        nonlocal best
        found = criterion(v, name, problems)
        best = min(best, (found, list(v)), key=lambda pair: pair[0])
        return found

    simplex = np.array(
        [code] + [[x + (0.1 * abs(x) + 0.02) * (i == j) for j, x in enumerate(code)] for i in range(len(code))]
    )
    minimize(
        goal, code, method="Nelder-Mead", options={"maxfev": evaluations, "initial_simplex": simplex, "adaptive": True}
    )
    fitted = best[1]
    marks = [criterion(v, name, p) for v in (code, fitted) for p in (problems, others)]
    return code, fitted, marks


def main(argv: Sequence[str] | None = None) -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", default=["known", "plane", "unknown"], choices=["known", "plane", "unknown"])
    parser.add_argument("--evaluations", type=int, default=400, help="of the criterion, a few seconds each")
    parser.add_argument("--quick", action="store_true", help="6 evaluations on one world: to see that it runs")
    asked = parser.parse_args(argv)
    for name in asked.name:
        code, fitted, marks = fit(name, 6 if asked.quick else asked.evaluations, asked.quick)
        table = Table("constant", "in the code", "fitted", title=name.upper())
        for label, a, b in zip(NAMES, code, fitted):
            table.add_row(label, f"{a:.3g}", f"{b:.3g}")
        table.add_row("mean log error", f"{marks[0]:.3f}", f"{marks[2]:.3f}")
        table.add_row("on other worlds", f"{marks[1]:.3f}", f"{marks[3]:.3f}")
        Console().print(table)


if __name__ == "__main__":
    main()
