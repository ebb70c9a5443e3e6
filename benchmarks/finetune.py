"""A pretrained model learns a style from sixty pictures: what it draws before and after, and what it forgets.

    langevin train digits --steps 1650 --objective.dropout label 0.05 --out runs/digits
    python benchmarks/finetune.py runs/digits --record         # five minutes on one core
    python benchmarks/small_pipeline.py runs/small-sd
    python benchmarks/finetune.py runs/small-sd --record       # a latent pipeline of diffusers; twenty minutes

The style is new to the model. To one that knows digits it is threes that are dark on light, where all its digits are
light on dark; to one that draws glyphs from captions, glyphs on white in a grey frame, which it has never seen.
Sixty such pictures are learned by all weights or by low-rank updates, with samples of the model itself learned along
(``--prior``) or without. A classifier that was trained on other pictures says how many of those that are then asked for
in the style are in it. What was forgotten is said by the Fréchet distance to held-out pictures of what has nothing to
do with the style, the other nine digits or other backgrounds, before and after, from the same noises.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin.data import Dataset, Split
from langevin.nn.text import decode_text
from langevin.report import Bar
from langevin.training import BudgetConfig, Config, OutputConfig, StartConfig, train

try:
    from record import show
except ImportError:  # imported by a test as benchmarks.finetune
    from benchmarks.record import show

THREE, FRAME = 3, 2
"""The class that is drawn in the style, and pixels of a frame."""

PICTURES, PRIOR = 60, 1620
"""Pictures that are learned from, and samples of the model itself that are learned along."""


@dataclass(frozen=True)
class Lesson:
    """A style, and what tells how well it was learned.

    Attributes:
        name: of the record.
        data: what the model knows.
        style: sixty pictures in the style.
        prior: settings of the samples of the model that are learned along.
        judge: the share of pictures that are in the style.
        asked: the condition of pictures in the style, by number.
        others: that of pictures that are not.
        held: pictures that the latter are compared with.
    """

    name: str
    data: Dataset
    style: Dataset
    prior: dict[str, Any]
    judge: Callable[[Tensor], float]
    asked: Callable[[int], dict[str, Any]]
    others: Callable[[int], dict[str, Any]]
    held: Tensor


def restyled(data: Dataset, name: str, change: Callable[[Split, int], Split]) -> Dataset:
    """Sixty pictures in a style, and as many held-out ones."""
    train_split, test_split = change(data.train, PICTURES), change(data.test, PICTURES)
    x = train_split.all()["x"].flatten(1).double()
    info = replace(data.info, name=name, levels=None, mean=x.mean(0), cov=x.T.cov(), class_mean=None, class_cov=None)
    return Dataset(info, train_split, test_split)


def judge_of(plain: Tensor, styled: Tensor) -> Callable[[Tensor], float]:
    """The share of pictures in the style, by pixels and their squares, from pictures that are not learned from."""
    from sklearn.linear_model import LogisticRegression

    features = lambda x: torch.cat([x.flatten(1), x.flatten(1).square()], 1).numpy()
    which = np.repeat([0, 1], [len(plain), len(styled)])
    found = LogisticRegression(max_iter=2000).fit(features(torch.cat([plain, styled])), which)
    return lambda x: float(found.predict(features(x)).mean())


def light_threes() -> Lesson:
    """Threes, dark on light."""
    data = langevin.data.load("digits")

    def change(split: Split, count: int) -> Split:
        rows = torch.nonzero(split.labels == THREE)[:count, 0]
        return Split(-split.batch(rows)["x"], {"label": torch.full((len(rows),), THREE)})

    plain = data.train.batch(torch.nonzero(data.train.labels == THREE)[PICTURES:, 0])["x"]
    rest = torch.tensor([k for k in range(10) if k != THREE])
    held = data.test.all()
    return Lesson(
        "finetune",
        data,
        restyled(data, "light-threes", change),
        {},
        judge_of(plain, -plain),
        lambda n: {"label": torch.full((n,), THREE)},
        lambda n: {"label": rest[torch.arange(n) % len(rest)]},
        held["x"][held["label"] != THREE],
    )


def framed_glyphs(size: int, folder: Path) -> Lesson:
    """Glyphs on white in a grey frame; the others are all that are not on white."""
    data = langevin.data.load("glyphs", size=size)
    captions = lambda split, rows: [decode_text(row) for row in split.batch(rows)["caption"]]

    def on_white(split: Split, count: int, asked: bool = True) -> Tensor:
        first = torch.arange(min(len(split), 20 * count))
        told = [(re.search("on (a )?white", text) is not None) == asked for text in captions(split, first)]
        return first[torch.tensor(told)][:count]

    def framed(x: Tensor) -> Tensor:
        inside = torch.zeros_like(x)
        inside[..., FRAME:-FRAME, FRAME:-FRAME] = x[..., FRAME:-FRAME, FRAME:-FRAME]
        return inside

    def change(split: Split, count: int) -> Split:
        rows = on_white(split, count)
        return Split(framed(split.batch(rows)["x"]), {"caption": split.batch(rows)["caption"]})

    made = restyled(data, "framed-glyphs", change)
    shape = tuple(made.train.all()["caption"].shape[1:])
    style = replace(made, info=replace(made.info, classes=(), conditions={"caption": shape}))
    known = folder / "captions.txt"
    texts = captions(data.train, on_white(data.train, PRIOR // 2, asked=False))  # a file has at most 64 KiB
    known.write_text("\n".join(texts), encoding="utf-8")
    seen = data.train.batch(torch.arange(len(data.train) - 2000, len(data.train)))["x"]
    asked, rest = (captions(data.test, on_white(data.test, 512, asked=white)) for white in (True, False))
    return Lesson(
        "finetune-pipeline",
        data,
        style,
        {"prior_captions": str(known)},
        judge_of(seen, framed(seen)),
        lambda n: {"caption": [asked[i % len(asked)] for i in range(n)]},
        lambda n: {"caption": [rest[i % len(rest)] for i in range(n)]},
        data.test.batch(on_white(data.test, 512, asked=False))["x"],
    )


def drawn(model: Any, condition: dict[str, Any], n: int, seed: int) -> Tensor:
    """Samples of a condition each."""
    return langevin.sample(model.given(condition), n=n, steps=15, seed=seed)


def table(lesson: Lesson, path: str, samples: int, steps: int) -> Table:
    """Every way of learning the style."""
    base = langevin.load(path)
    space = langevin.metrics.feature_space("pca:32", lesson.data)
    real = space(lesson.held)
    prior = {"prior": PRIOR, **lesson.prior}
    ways: dict[str, dict[str, Any]] = {
        "before": {},
        f"all weights, prior {PRIOR}": prior,
        f"LoRA of rank 8, prior {PRIOR}": {**prior, "lora": 8, "layers": ("all",)},
        "LoRA of rank 8, no prior": {"lora": 8, "layers": ("all",)},
    }
    shown = Table("what learned", "drawn in the new style", "Fréchet of the others", "ratio", "minutes", box=None)
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
                made = train(config, lesson.style, Path(folder) / "run", base=base, quiet=True, progress=bar)
                model = langevin.load(Path(folder) / "run")
            minutes = f"{made.config['seconds'] / 60:.1f}"
        share = lesson.judge(drawn(model, lesson.asked(samples // 4), samples // 4, 1))
        distance = langevin.metrics.frechet_distance(space(drawn(model, lesson.others(samples), samples, 2)), real)
        first = first or distance
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
    base = langevin.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        told = "caption" in base.conditions()
        lesson = framed_glyphs(base.output.shape[-1], Path(folder)) if told else light_threes()
        show(lesson.name, table(lesson, options.model, options.samples, options.steps))


if __name__ == "__main__":
    main()
