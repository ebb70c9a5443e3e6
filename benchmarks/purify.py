"""DiffPure on digits: accuracy under PGD with and without, and where it breaks.

    python benchmarks/purify.py                        # trains both models, about ten minutes on a core
    python benchmarks/purify.py --model runs/digits    # with a diffusion model that is there

A small convolutional network classifies digits. Attacks move every pixel by at most ``radius`` (of the range of 2):

* transfer: PGD on the classifier alone; the defence is not known to the attacker;
* adaptive: PGD with gradients through the sampler, one draw of its noise a step;
* adaptive + EOT: the same with the mean gradient of several draws a step.

Every accuracy is that of one draw of the defence, another one than any the attack saw.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

import langevin
import record
from langevin import Noise, tasks, training


class Classifier(nn.Sequential):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        conv = lambda a, b: (nn.Conv2d(a, b, 3, padding=1), nn.SiLU())
        super().__init__(*conv(1, 16), *conv(16, 32), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10))


def trained(split: langevin.data.Split, steps: int = 1500) -> Classifier:
    """The classifier, trained on clean digits."""
    torch.manual_seed(0)
    network, (x, label) = Classifier(), (split.all()["x"], split.all()["label"])
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(steps):
        rows = torch.randint(len(x), (128,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(network(x[rows]), label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a diffusion model of digits; trained if not given")
    parser.add_argument("-n", type=int, default=100, help="held-out digits")
    parser.add_argument("--radius", type=float, default=0.25, help="of the L∞ ball, in [-1, 1]")
    parser.add_argument("--pgd", type=int, default=20, help="steps of an attack")
    parser.add_argument("--eot", type=int, default=8, help="draws of a step with EOT")
    parser.add_argument("--steps", type=int, default=16, help="of DiffPure's whole grid")
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.25, 0.5, 1.0])
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    data = langevin.data.load("digits")
    if options.model is None:
        options.model = "runs/purify"
        if not Path(options.model).exists():
            training.train(data, options.model, training.Config())
    model = langevin.load(options.model)
    model.network.requires_grad_(False)
    classifier = trained(data.train)
    held = data.test.all()
    x, label = held["x"][: options.n], held["label"][: options.n]

    def defended(strength: float | None):
        if strength is None:
            return lambda image, noise: classifier(image)
        return lambda image, noise: classifier(
            tasks.purify(model, image, strength=strength, steps=options.steps, noise=noise, batch=len(image))
        )

    def accuracy(predict, image: torch.Tensor) -> float:
        with torch.no_grad():
            draws = [predict(image, Noise(10**6 + i, len(image))).argmax(1) == label for i in range(4)]
        return float(torch.stack(draws).double().mean())

    attack = {"radius": options.radius, "steps": options.pgd}
    plain = defended(None)
    transferred = tasks.pgd(plain, x, label, **attack)
    error = 100 * math.sqrt(0.25 / len(x))
    table = Table(title=f"accuracy of {len(x)} digits in %, ±{error:.0f}; L∞ {options.radius}, PGD-{options.pgd}")
    for column in ("defence", "clean", "PGD, transfer", "PGD, adaptive", f"adaptive + EOT-{options.eot}"):
        table.add_column(column, justify="left" if column == "defence" else "right")
    for strength in (None, *options.strengths):
        predict = defended(strength)
        rows = [accuracy(predict, x), accuracy(predict, transferred)]
        if strength is None:
            rows += [rows[1], rows[1]]  # there is no noise to go through: all attacks are one
        else:
            rows += [accuracy(predict, tasks.pgd(predict, x, label, **attack, samples=m)) for m in (1, options.eot)]
        name = "none" if strength is None else f"DiffPure, σ/α = {strength:g}"
        table.add_row(name, *(f"{100 * value:.0f}" for value in rows))
        print(name, *(f"{100 * value:.0f}" for value in rows), flush=True)
    record.show("purify", table)


if __name__ == "__main__":
    main()
