"""Few labels: features of a denoiser that has seen pictures without any, and training on pictures that a model drew.

    langevin train digits --steps 1650 --objective.dropout label 1 --out runs/unlabelled
    python benchmarks/few_labels.py --model runs/unlabelled              # features: two minutes on a core
    python benchmarks/few_labels.py --augment 50 200 1438                # synthetic pictures: an hour

**Features.** The model has been told no label. Rows: logistic regression on the pixels, on the denoiser's features
(``langevin.tasks.DiffusionFeatures``) at one noise level or several, and a small convolutional network that learns from
the labelled pictures alone. Each is trained on the same labelled pictures, drawn ``--repeats`` times, of every class
as many; the table has the mean share of the 359 held-out digits that are named right, with its standard error.

**Augmentation.** A class-conditional model learns from the labelled pictures and nothing else, and draws ``--drawn``
pictures, as many of each class. The convolutional network learns from the labelled pictures, from these shifted by up
to a pixel, from drawn ones beside them, and from drawn ones alone, for the same number of steps. Half of a batch are
real pictures where there are both.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import langevin
from langevin import training
from langevin.data import Dataset, Split
from langevin.tasks import DiffusionFeatures, fit_classifier
from record import show

STEPS, BATCH = 600, 64
"""Of the convolutional network."""


def drawn_labels(split: Split, count: int, seed: int) -> Tensor:
    """Rows of a split, as many of each class as go into ``count``, the rest by chance."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    labels = split.labels[order]
    turn = torch.zeros(len(order), dtype=torch.int64)
    for k in labels.unique():  # the how-manyth of its class each one is
        turn[labels == k] = torch.arange(int((labels == k).sum()))
    return order[turn.argsort(stable=True)[:count]]


def convolutional(batch: Callable[[torch.Generator], tuple[Tensor, Tensor]], seed: int) -> Callable[[Tensor], Tensor]:
    """A network of three convolutions that learns from batches of pictures ``(B, 1, 8, 8)`` and classes."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, STEPS)
    order = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        x, label = batch(order)
        loss = F.cross_entropy(network(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    return lambda x: network(x).argmax(1).detach()


@dataclass(frozen=True)
class Labelled:
    """Pictures ``(N, 1, 8, 8)`` with their classes."""

    x: Tensor
    label: Tensor

    def some(self, count: int, order: torch.Generator, shift: bool = False) -> tuple[Tensor, Tensor]:
        """So many, with replacement."""
        rows = torch.randint(len(self.x), (count,), generator=order)
        x = shifted(self.x[rows], order) if shift else self.x[rows]
        return x, self.label[rows]


def learned(parts: tuple[Labelled, ...], seed: int, shift: bool = False) -> Callable[[Tensor], Tensor]:
    """A convolutional network of batches that have as many pictures of each part."""

    def batch(order: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = [part.some(BATCH // len(parts), order, shift) for part in parts]
        return torch.cat([x for x, _ in drawn]), torch.cat([label for _, label in drawn])

    return convolutional(batch, seed)


def shifted(x: Tensor, order: torch.Generator) -> Tensor:
    """Each picture moved by up to a pixel, along each axis, by itself."""
    steps = torch.randint(-1, 2, (len(x), 2), generator=order).tolist()
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return torch.stack([part[:, 1 + a : 9 + a, 1 + b : 9 + b] for part, (a, b) in zip(wide, steps, strict=True)])


def told(values: list[float]) -> str:
    """Mean and standard error, in per cent."""
    found = 100 * torch.tensor(values)
    return f"{found.mean():.1f}" + (f" ± {found.std() / math.sqrt(len(found)):.1f}" if len(found) > 1 else "")


def right(found: Tensor, held: dict[str, Tensor]) -> float:
    return float((found == held["label"]).float().mean())


def features(path: str, counts: list[int], repeats: int) -> None:
    """The table of classifiers from few labels."""
    digits, model = langevin.data.load("digits"), langevin.load(path)
    held = digits.test.all()
    levels = {f"features at σ = {', '.join(map(str, ls))}": ls for ls in ((0.1,), (0.4,), (0.1, 0.4), (0.2, 0.5, 1.0))}
    table = Table("classifier", *map(str, counts), title="359 held-out digits named right, %, by labelled pictures")
    cells: dict[str, list[str]] = {}
    for count in counts:
        found: dict[str, list[float]] = {}
        for seed in range(repeats):
            few = digits.train.plain(drawn_labels(digits.train, count, seed))
            x, label = few["x"], few["label"]
            fitted: dict[str, Callable[[Tensor], Tensor]] = {
                "logistic regression on pixels": on_pixels(x, label),
                "convolutional network": learned((Labelled(x, label),), seed),
                **{
                    name: fit_classifier(DiffusionFeatures(model, levels=each), x, label)
                    for name, each in levels.items()
                },
            }
            for name, classify in fitted.items():
                found.setdefault(name, []).append(right(classify(held["x"]), held))
        for name, values in found.items():
            cells.setdefault(name, []).append(told(values))
    for name, row in cells.items():
        table.add_row(name, *row)
    show("few-labels", table)


def on_pixels(x: Tensor, label: Tensor) -> Callable[[Tensor], Tensor]:
    """Logistic regression on the pixels as they are, C = 1: on 8×8 digits better than standardised."""
    head = LogisticRegression(C=1.0, max_iter=2000).fit(x.flatten(1).numpy(), label.numpy())
    return lambda x: torch.from_numpy(head.predict(x.flatten(1).numpy()))


def augmentation(counts: list[int], repeats: int, steps: int, drawn: int, scale: float) -> None:
    """The table of training on drawn pictures."""
    digits = langevin.data.load("digits")
    held = digits.test.all()
    names = ("real", "real, shifted", "real and drawn", "shifted and drawn", "drawn alone")
    table = Table("labelled", *names)
    table.title = f"A convolutional network's share of 359 held-out digits named right, %; {drawn:,} drawn pictures"
    for count in counts:
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(repeats):
            few = digits.train.plain(drawn_labels(digits.train, count, seed))
            real = Labelled(few["x"], few["label"])
            made = pictures_of(digits, real, steps, drawn, scale, seed)
            ways = ((real,), False), ((real,), True), ((real, made), False), ((real, made), True), ((made,), False)
            for name, (parts, shift) in zip(names, ways, strict=True):
                found[name].append(right(learned(parts, seed, shift)(held["x"]), held))
        table.add_row(str(count), *map(told, found.values()))
    show("augmentation", table)


def pictures_of(digits: Dataset, few: Labelled, steps: int, drawn: int, scale: float, seed: int) -> Labelled:
    """What a model draws that has learned from labelled pictures alone."""
    part = Split(few.x, {"label": few.label})
    config = training.Config(seed=seed, budget=training.BudgetConfig(steps=steps))
    with TemporaryDirectory() as place:
        model = training.train(config, replace(digits, train=part), Path(place) / "run", quiet=True)
    label = torch.arange(drawn) % 10
    guided = langevin.guidance.classifier_free(model, label=label, guidance_scale=scale)
    return Labelled(langevin.sample(guided, n=drawn, steps=15, seed=seed).clamp(-1, 1), label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of digits, for the table of features")
    parser.add_argument("--labelled", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--augment", type=int, nargs="*", default=[], help="labelled pictures, for the second table")
    parser.add_argument("--steps", type=int, default=1000, help="of the models that draw")
    parser.add_argument("--drawn", type=int, default=2000)
    parser.add_argument("--scale", type=float, default=1.0, help="of their guidance")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.model:
        features(options.model, options.labelled, options.repeats)
    if options.augment:
        augmentation(options.augment, options.repeats, options.steps, options.drawn, options.scale)


if __name__ == "__main__":
    main()
