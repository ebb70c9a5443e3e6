"""Why one noise level is not enough: score models of an exact mixture, where they err, and what their chains find.

    python benchmarks/levels.py [--steps 3000]

Two unit Gaussians of weights 0.8 and 0.2 at (5, 5) and (−5, −5) (the example of arXiv:1907.05600 §3). The naive model
is sliced score matching of the data themselves (σ = 0.01); the other learns all levels that NCSNv2's rules give for the
same points, by denoising. Errors are E|s − ∇log p|² / E|∇log p|², over the data and over the square [−8, 8]². The
chains are 2,000 of Langevin dynamics from uniform starts in that square, with steps of 0.1, and annealed ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

import langevin
from langevin import Noise, nn, objectives, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser

WORLD = worlds.GaussianMixture(torch.tensor([0.8, 0.2]), torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), torch.ones(2))
POINTS, HALF, CHAINS = 10_000, 8.0, 2000


@dataclass
class Options:
    """What is run."""

    steps: int = 3000
    """Optimiser steps of 256 samples, for each of the two models."""


def learn(process: processes.ScalarGaussian, prediction: str, objective: dict[str, object], steps: int) -> Denoiser:
    """A small MLP trained by an objective on the points."""
    torch.manual_seed(0)
    network = nn.create_network({"name": "mlp", "channels": 2, "width": 64, "depth": 3})
    denoiser = NetworkDenoiser(
        network, process, AffineParameterization(prediction, sigma_data=5.1, scale_input=True), (2,)
    )
    loss, points = objectives.create_objective(objective), WORLD.sample(POINTS, 0).float()
    adam = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for step in range(steps):
        noise = Noise(1, 256, draw=step)
        x0 = points[(noise.fold_in(1).uniform(()) * POINTS).long()]
        adam.zero_grad()
        loss(denoiser, x0, None, noise).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        rate.step()
    network.eval()
    return denoiser


def naive(steps: int) -> tuple[Denoiser, Tensor]:
    """The score of the data, learned as it stands, and its time."""
    process = processes.VE(0.01, 20.0)
    t = process.time(-2 * math.log(0.01))
    times = {"name": "uniform", "low": float(t), "high": float(t)}
    return learn(process, "score", {"name": "sliced-vr", "weight": "simple", "times": times}, steps), t


def many(steps: int) -> tuple[Denoiser, processes.NoiseLevels]:
    """The scores at all levels."""
    levels = processes.NoiseLevels.of(WORLD.sample(POINTS, 0), last=0.1)
    times = {"name": "levels", "first": levels.first, "last": levels.last, "count": levels.count}
    return learn(levels.process(), "eps", {"name": "dsm", "times": times}, steps), levels


def scores(denoiser: Denoiser, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The learned and the exact score."""
    process = denoiser.process
    assert isinstance(process, processes.ScalarGaussian)
    with torch.no_grad():
        return process.score(x, denoiser(x, t), t), WORLD.score(x, process, t)


def error(denoiser: Denoiser, x: Tensor, t: Tensor) -> float:
    """Relative, over given points."""
    found, true = scores(denoiser, x, t)
    return float((found - true).square().sum() / true.square().sum())


def square(n: int, seed: int) -> Tensor:
    """Uniform points of the square."""
    return HALF * (2 * Noise(seed, n).uniform((2,)) - 1)


def chain(denoiser: Denoiser, t: Tensor, steps: int = 1000, size: float = 0.1) -> Tensor:
    """Langevin dynamics at one level from uniform starts."""
    x, noise = square(CHAINS, 2), Noise(3, CHAINS)
    process = denoiser.process
    assert isinstance(process, processes.ScalarGaussian)
    with torch.no_grad():
        for i in range(steps):
            x = x + size / 2 * process.score(x, denoiser(x, t), t) + math.sqrt(size) * noise.step(i).normal((2,))
    return x


def annealed(denoiser: Denoiser, levels: processes.NoiseLevels, steps: int = 100) -> Tensor:
    """The same number of chains, from level to level."""
    return langevin.sample(
        denoiser, samplers.AnnealedLangevin(steps), n=CHAINS, steps=levels.count + 1, seed=4, batch=CHAINS
    )


def share(x: Tensor) -> float:
    """Of the samples near the larger component."""
    return float((x.sum(1) > 0).double().mean())


def main(options: Options) -> None:
    """Both tables."""
    model, t = naive(options.steps)
    data = WORLD.sample(20_000, 9, process=model.process, t=t)
    off = f"{error(model, data, t):.1%} | {error(model, square(20_000, 5), t):.0%}"
    print("| chain | error on the data | on the square | weight of the larger component (0.8) |\n|---|---|---|---|")
    print(f"| one level, exact score | 0 | 0 | {share(chain(WORLD.denoiser(model.process), t)):.3f} |")
    print(f"| one level, learned | {off} | {share(chain(model, t)):.3f} |")
    model, levels = many(options.steps)
    exact = annealed(WORLD.denoiser(model.process), levels)
    print(f"| {levels.count} levels, exact scores | 0 | 0 | {share(exact):.3f} |")
    print(f"| {levels.count} levels, learned | below | below | {share(annealed(model, levels)):.3f} |")
    print("\n| σ | error on its own draws | on the square |\n|---|---|---|")
    for sigma, t in zip(levels.sigmas, levels.times(model.process)):
        x = WORLD.sample(20_000, 9, process=model.process, t=t)
        print(f"| {float(sigma):.2f} | {error(model, x, t):.1%} | {error(model, square(20_000, 5), t):.1%} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
