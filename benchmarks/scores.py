"""Six ways to learn a score, on one mixture whose score is known: how far each is from it after the same steps.

    python benchmarks/scores.py [--steps 2000] [--seeds 1]

The set ``mixture`` (eight Gaussians on a ring, 20,000 points) under VE noise from 0.05 to 5; a small MLP
predicting ε, through the one trainer with nothing but the objective changed. The error is
E σ²|s − ∇log p_t|² / E σ²|∇log p_t|² over fresh draws, in three bands of σ, and over all; the last column is the time
of a step.

    python benchmarks/scores.py --variance

Instead: the variance of the likelihood-weighted loss of exact beliefs, uniform times over `likelihood-importance`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import torch
import tyro

from langevin import Noise, data, objectives, processes, training, worlds
from langevin.data.toys import RING_STD
from langevin.denoisers import Denoiser
from langevin.training import BudgetConfig, Config, ObjectiveConfig, OutputConfig, PredictionConfig, ProcessConfig

TRUTH = {"name": "ring", "radius": 2**0.5, "std": RING_STD}
OBJECTIVES: dict[str, tuple[str, dict[str, object]]] = {
    "explicit (score known)": ("explicit", {"world": TRUTH}),
    "denoising": ("dsm", {}),
    "implicit (exact trace)": ("implicit", {}),
    "sliced, 1 projection": ("sliced", {}),
    "sliced, 4 projections": ("sliced", {"projections": 4}),
    "sliced, variance reduced": ("sliced-vr", {}),
    "denoising, energy": ("dsm", {}),
}
BANDS = ((0.05, 0.15), (0.15, 0.6), (0.6, 5.0))


@dataclass
class Options:
    """What is run."""

    steps: int = 2000
    """Optimiser steps of 256 samples."""
    seeds: int = 1
    """Trainings of each, averaged."""
    variance: bool = False
    """The other table."""


def errors(denoiser: Denoiser, n: int = 20_000) -> list[float]:
    """The relative error of the score in each band, and over all of them."""
    world, process = worlds.ring(8, 2**0.5, RING_STD), processes.VE(0.05, 5.0)
    off, size = [], []
    for k, (low, high) in enumerate(BANDS):
        levels = torch.exp(torch.linspace(*torch.tensor([low, high], dtype=torch.float64).log().tolist(), n))
        t = process.time(-2 * torch.log(levels.double()))
        x = world.sample(n, 1000 + k, process=process, t=t)
        with torch.no_grad():
            found, true = (process.score(x, d(x, t), t) for d in (denoiser, world.denoiser(process)))
        scale = process.sigma(t)[:, None]
        off.append(float((scale * (found - true)).square().mean()))
        size.append(float((scale * true).square().mean()))
    return [o / s for o, s in zip(off, size)] + [sum(off) / sum(size)]


def variances(n: int = 20_000) -> None:
    """Of one draw's loss, under two laws of t with the same expectation."""
    shown = [processes.VP(), processes.SubVP(), processes.RectifiedFlow(), processes.Cosine(), processes.VE(0.01, 50.0)]
    print(f"| world | {' | '.join(type(p).__name__ for p in shown)} |\n|---|{'---|' * len(shown)}")
    made = {"ring": worlds.ring(), "64-D mixture": worlds.random_mixture(64, components=8, rank=16)}
    for title, world in made.items():
        x0, noise, ratios = world.sample(n, 3), Noise(4, n), []
        for process in shown:
            laws = objectives.Uniform(high=process.t_max), objectives.LikelihoodImportance()
            losses = (
                objectives.DenoisingLoss("likelihood", law)(world.denoiser(process), x0, None, noise) for law in laws
            )
            uniform, importance = (float(loss.var()) for loss in losses)
            ratios.append(f"{uniform / importance:.1f}")
        print(f"| {title} | {' | '.join(ratios)} |")


def main(options: Options) -> None:
    """All rows."""
    if options.variance:
        return variances()
    dataset = data.load("mixture")
    print("| objective | σ < 0.15 | 0.15–0.6 | σ > 0.6 | all | ms a step |\n|---|---|---|---|---|---|")
    for title, (name, settings) in OBJECTIVES.items():
        rows = []
        for seed in range(options.seeds):
            network = {"conditions": {}, "width": 64, "depth": 3, **({"energy": True} if "energy" in title else {})}
            config = Config(
                seed=seed,
                batch=256,
                network=training.NetworkConfig("mlp", network),  # type: ignore[arg-type]
                process=ProcessConfig("ve", {"sigma_min": 0.05, "sigma_max": 5.0}),  # type: ignore[dict-item]
                prediction=PredictionConfig("eps"),
                objective=ObjectiveConfig(name, settings, times="likelihood-importance"),  # type: ignore[arg-type]
                budget=BudgetConfig(steps=options.steps),
                output=OutputConfig(log_every=0, validate_every=0, sample_every=0, checkpoint_every=0),
            )
            with tempfile.TemporaryDirectory() as out:
                model = training.train(config, dataset, out, quiet=True, device="cpu")
            rows.append([*errors(model), 1000 * model.config["seconds"] / options.steps])
        mean = [sum(column) / len(rows) for column in zip(*rows)]
        print(f"| {title} | {' | '.join(f'{v:.2%}' for v in mean[:-1])} | {mean[-1]:.1f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
