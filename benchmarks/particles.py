"""Particles against exact tilted laws: the error of the mean by the number of particles, and what guidance leaves.

    python benchmarks/particles.py                    both tables, about five minutes on one core
    python benchmarks/particles.py --populations 32   a quarter of the work

The error is the RMS over populations and coordinates of E[x_0] − truth; the data have an RMS of 0.7.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

import langevin
import record
from langevin import guidance, operators, processes, samplers, worlds
from langevin.samplers.particles import Particles, smc_posterior, twisted_smc

PROCESS = processes.VP()
STEPS = 24
METHODS = {
    "importance sampling": {"proposal": None, "threshold": 0.0},
    "steered, no gradient": {"proposal": None},
    "twisted": {},
}
COUNTS = (16, 64, 256, 1024)


@dataclass(frozen=True)
class Problem:
    """A tilted law, what draws particles of it, its mean, and what guidance without particles draws."""

    draw: Callable[..., Particles]
    mean: Tensor
    guided: langevin.denoisers.Denoiser
    gentle: Callable[..., Particles] | None = None
    """The same law, looked ahead at with the factor at scale 1 until the last step."""


def classifier(scale: float = 3.0) -> Problem:
    """p(x) p(y | x)^scale in the plane, its mean by quadrature."""
    world = worlds.random_mixture(2, 4, rms=0.7, seed=2)
    exact = world.classifier(PROCESS)
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    log_p = torch.nan_to_num(world.log_prob(x) + scale * exact(x, 0.0)[:, 1], nan=-torch.inf)
    guided = guidance.classifier(world.denoiser(PROCESS), exact, label=1, scale=scale)
    one = guidance.classifier(world.denoiser(PROCESS), exact, label=1)
    return Problem(
        lambda **given: twisted_smc(guided, **given),
        torch.softmax(log_p, 0) @ x,
        guided,
        lambda **given: twisted_smc(one, tilt=lambda x0: scale * exact(x0, 0.0)[:, 1], **given),
    )


def posterior(dim: int = 16, measurements: int = 8, std: float = 0.2) -> Problem:
    """p(x | y) of random projections of a mixture, in closed form; guidance by the likelihood of x̂_0 beside it."""
    world = worlds.random_mixture(dim, 4, rms=0.7, seed=3)
    operator = operators.compressed_sensing((dim,), measurements, seed=1)
    y = operators.measure(operator, world.sample(1, 11), std, seed=2).y
    denoiser = world.denoiser(PROCESS)
    guided = guidance.energy(denoiser, lambda x0: (operator(x0) - y).square().sum(1) / (2 * std**2))
    truth = world.posterior(operator, y, std)
    return Problem(lambda **given: smc_posterior(denoiser, operator, y, std, **given), truth.mean, guided)


PROBLEMS = {
    "classifier at scale 3, 2-D": classifier,
    "8 projections of 16-D, std 0.2": posterior,
}


def error(found: Particles, mean: Tensor) -> float:
    """RMS over populations and coordinates of each population's own estimate of the mean."""
    each = (torch.softmax(found.log_weights, 1)[..., None] * found.x).sum(1)
    return float((each - mean).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--populations", type=int, default=96)
    parser.add_argument("--record", action="store_true", help="keep the table for the docs")
    given = parser.parse_args()
    table = Table("law", "particles", *METHODS, "effective size, twisted", "twisted at scale 1", "guidance alone")
    for title, make in PROBLEMS.items():
        problem = make()
        alone = langevin.sample(problem.guided, samplers.Heun(), n=2000, steps=60, seed=1, batch=2000).mean(0)
        left = float((alone - problem.mean).norm()) / problem.mean.numel() ** 0.5
        for n in COUNTS:
            shared = {"n": n, "steps": STEPS, "populations": given.populations, "seed": n}
            runs = [problem.draw(**shared, **settings) for settings in METHODS.values()]
            cells = [f"{error(run, problem.mean):.3f}" for run in runs]
            gentle = "" if problem.gentle is None else f"{error(problem.gentle(**shared), problem.mean):.3f}"
            table.add_row(title, str(n), *cells, f"{float(runs[-1].ess[:, -1].mean()):.0f}", gentle, f"{left:.3f}")
    record.show("particles", table)


if __name__ == "__main__":
    main()
