"""A pretrained model learns a style from sixty pictures: what it draws before and after, and what it forgets.

    langevin train digits --out runs/digits --minutes 4
    python benchmarks/finetune.py runs/digits --record         # five minutes on one core

The style is new to the model: threes that are dark on light, where all its digits are light on dark. Sixty of them,
under their class, are learned by all weights or by low-rank updates, with samples of the model's other classes learned
along (``--prior``) or without. A classifier that was trained on other pictures says how many of the threes that are
drawn are in the style. What was forgotten is said by the Fréchet distance of samples of the other nine classes to
held-out digits, before and after, from the same noises.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin.data import Dataset, Split
from langevin.report import Bar
from langevin.training import BudgetConfig, Config, OutputConfig, StartConfig, train

try:
    from record import show
except ImportError:  # imported by a test as benchmarks.finetune
    from benchmarks.record import show

STYLE, PICTURES = 3, 60
"""The class whose pictures are in the style, and how many are learned from."""


def styled(data: Dataset) -> Dataset:
    """Sixty pictures of a class, light for dark, and the held-out ones."""

    def part(split: Split, count: int) -> Split:
        rows = torch.nonzero(split.labels == STYLE)[:count, 0]
        return Split(-split.batch(rows)["x"], {"label": torch.full((len(rows),), STYLE)})

    train_split = part(data.train, PICTURES)
    x = train_split.all()["x"].flatten(1).double()
    info = replace(
        data.info, name="light-threes", levels=None, mean=x.mean(0), cov=x.T.cov(), class_mean=None, class_cov=None
    )
    return Dataset(info, train_split, part(data.test, PICTURES))


def classifier(data: Dataset) -> Any:
    """Tells pictures in the style from others, by the pixels of threes that are not learned from."""
    from sklearn.linear_model import LogisticRegression

    rows = torch.nonzero(data.train.labels == STYLE)[PICTURES:, 0]
    x = data.train.batch(rows)["x"].flatten(1)
    return LogisticRegression(max_iter=2000).fit(torch.cat([x, -x]).numpy(), np.repeat([0, 1], len(x)))


def drawn(model: Any, label: Tensor, seed: int) -> Tensor:
    """Samples of classes."""
    return langevin.sample(model.given(label=label), n=len(label), steps=15, seed=seed)


def table(path: str, samples: int, steps: int) -> Table:
    """Every way of learning the style."""
    data, base = langevin.data.load("digits"), langevin.load(path)
    style, judge = styled(data), classifier(data)
    others = torch.tensor([k for k in range(10) if k != STYLE])
    rest = others[torch.arange(samples) % len(others)]
    held = data.test.all()
    space = langevin.metrics.feature_space("pca:32", data)
    real = space(held["x"][held["label"] != STYLE])
    ways: dict[str, dict[str, Any]] = {
        "before": {},
        "all weights, prior 540": {"prior": 540},
        "LoRA of rank 8, prior 540": {"prior": 540, "lora": 8, "layers": ("all",)},
        "LoRA of rank 8, no prior": {"lora": 8, "layers": ("all",)},
    }
    shown = Table("what learned", "threes in the style", "Fréchet, other classes", "ratio", "minutes", box=None)
    first = 0.0
    for name, start in ways.items():
        model, minutes = base, ""
        if start:
            config = Config(
                start=StartConfig(model=str(Path(path).resolve()), **start),
                budget=BudgetConfig(steps=steps),
                output=OutputConfig(validate_every=0, sample_every=0),
            )
            with tempfile.TemporaryDirectory() as folder, Bar(name) as bar:
                made = train(config, style, Path(folder) / "run", base=base, quiet=True, progress=bar)
                model = langevin.load(Path(folder) / "run")
            minutes = f"{made.config['seconds'] / 60:.1f}"
        threes = drawn(model, torch.full((samples // 4,), STYLE), 1).flatten(1).numpy()
        distance = langevin.metrics.frechet_distance(space(drawn(model, rest, 2)), real)
        first = first or distance
        share = judge.predict(threes).mean()
        shown.add_row(name, f"{share:.1%}", f"{distance:.3f}", f"{distance / first:.2f}", minutes)
    return shown


def main() -> None:
    """Run and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=1080)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    show("finetune", table(options.model, options.samples, options.steps))


if __name__ == "__main__":
    main()
