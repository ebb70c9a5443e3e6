"""Does noise of another shape help: digits under normal, Gamma and mixture noise, trained alike and sampled alike.

    python benchmarks/noise_shapes.py [--steps 800] [--record]

Each model is the default one of ``langevin train digits``, on the variance-preserving schedule, from the same weights
and the same order of the data, for the same number of steps of training. Samples are ancestral, with x̂_0 in place of
the belief, on times uniform in t; the measures are against the held-out digits, and the last row is training digits in
the samples' place. Smaller is better but for the agreement of a classifier with the labels asked for.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import tyro
from rich.table import Table
from torch import Tensor

import langevin
import record
from langevin import data, metrics, samplers, training
from langevin.data import Dataset

BASE = {"base": {"name": "vp"}}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "normal": ("vp", {}),
    "Gamma, θ = 0.001": ("gamma", {**BASE, "theta": 0.001}),
    "Gamma, θ = 0.1": ("gamma", {**BASE, "theta": 0.1}),
    "mixture, ρ = ½, h = ½": ("mixture", {**BASE, "share": 0.5, "size": 0.5}),
}


@dataclass
class Options:
    """What is run."""

    steps: int = 800
    """Optimiser steps of 128 digits, for each noise."""
    n: int = 360
    """Samples, as many of each class; there are 360 held-out digits."""
    ancestral: tuple[int, ...] = (20, 100, 1000)
    """Numbers of steps of the sampler."""
    record: bool = False
    """Write the record of the table."""


def measures(x: Tensor, labels: Tensor, digits: Dataset, classifier: metrics.Classifier) -> list[str]:
    """Fréchet distance of pixels, sliced Wasserstein distance, agreement."""
    real = digits.test.all()["x"]
    agreement = metrics.label_agreement(x, labels, classifier)
    return [
        f"{metrics.frechet_distance(x, real):.2f}",
        f"{metrics.sliced_wasserstein(x, real):.3f}",
        f"{agreement.value:.1%}",
    ]


def main(options: Options) -> None:
    """A row for each noise and number of steps."""
    digits = data.load("digits")
    train, classes = digits.train.all(), digits.info.classes
    classifier = metrics.svc(train["x"], digits.train.labels)
    labels = langevin.distributions.Noise(0, options.n).sample % len(classes)
    table = Table("noise", "steps", "Fréchet", "sliced W₂", "agreement")
    for name, (process, settings) in SHAPES.items():
        config = training.Config(
            process=training.ProcessConfig(process, settings), budget=training.BudgetConfig(steps=options.steps)
        )
        with tempfile.TemporaryDirectory() as place:
            model = training.train(config, digits, f"{place}/run", quiet=True)
        for steps in options.ancestral:
            x = samplers.sample(
                model.given(label=labels), samplers.DDPM(), n=options.n, steps=steps, grid="uniform", batch=options.n
            )
            table.add_row(name, str(steps), *measures(x.clamp(-1, 1), labels, digits, classifier))
            print(name, steps, *list(zip(*(column.cells for column in table.columns)))[-1][2:], flush=True)
    table.add_row(
        "training digits", "", *measures(train["x"][: options.n], digits.train.labels[: options.n], digits, classifier)
    )
    record.show("noise-shapes", table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
