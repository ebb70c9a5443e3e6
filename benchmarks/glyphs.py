"""Letters by their captions: is what a sentence asks for what a model draws, and how much variety is left?

    langevin train glyphs ... --out runs/glyphs-32               # the command of the model's card: hours
    python benchmarks/glyphs.py runs/glyphs-32                   # a quarter of an hour on a core

The captions are those of held-out pictures: of a family of fonts that is never trained on, and of combinations of
size, colour and character that are never trained on, such as a large green Q. What is drawn is read by the reader of
``glyph_reader.py``, which has seen renderings alone; its own errors on the real held-out pictures are in the first
rows. A place counts where the caption names one. Evaluations are calls of the network for a picture, two a step under
guidance. Characters are counted by the size that is asked for, too. Recall (arXiv:1904.06991), of the first 64
principal components, says how much of the real pictures lies among those drawn; the last column divides the distance to
the nearest training picture by that of real held-out ones, 1 for new pictures and 0 for copies.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table
from torch import Tensor

import langevin
from glyph_reader import READ, read
from langevin import metrics
from langevin.data import Split
from langevin.data.glyphs import SIZES
from record import show

BATCH = 250
"""Pictures drawn at a time; a result does not depend on it."""


def drawn(model: langevin.Denoiser, captions: Tensor, scale: float, steps: int, seed: int = 0) -> Tensor:
    """One picture a caption, guided by a scale."""
    made = []
    for first in range(0, len(captions), BATCH):
        told = captions[first : first + BATCH]
        guided = model.given(caption=told)
        if scale != 1:
            guided = langevin.guidance.classifier_free(model, caption=told, guidance_scale=scale)
        index = torch.arange(first, first + len(told))
        made.append(langevin.sample(guided, n=len(told), steps=steps, noise=langevin.Noise(seed, index)))
    return torch.cat(made).clamp(-1, 1)


def right(found: list[dict[str, str]], split: Split, rows: list[int], name: str) -> str:
    """How many of these are read as their captions say, in per cent."""
    if name == "place":  # the caption of the other half does not say
        rows = [i for i in rows if names_place(split, i)]
    hits = sum(found[i][name] == split.attributes[name][i] for i in rows)
    return f"{100 * hits / len(rows):.1f}"


def names_place(split: Split, i: int) -> bool:
    """Whether a caption says where the character stands."""
    caption = langevin.nn.text.decode_text(split.plain(torch.tensor([i]))["caption"][0])
    return "in the middle" in caption or " at the " in caption or " on the " in caption


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="models of glyphs that are told captions")
    parser.add_argument("-n", type=int, default=2000, help="held-out captions")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 5.0])
    parser.add_argument("--evaluations", type=int, default=14)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    loaded = {name: langevin.load(name) for name in options.models}
    side = next(iter(loaded.values())).shape[-1]
    data = langevin.data.load("glyphs", size=side)
    index = torch.arange(min(options.n, len(data.test)))
    held = data.test.plain(index)
    space = metrics.feature_space("pca:64", data)
    real = space(held["x"])
    parts = {p: [i for i in index.tolist() if data.test.attributes["part"][i] == p] for p in ("family", "combination")}
    train = data.train.all()["x"]

    table = Table(
        "model", "guidance", "evaluations", "held out", *READ, "small, medium, large", "recall", "nearest",
        title=f"{len(index):,} held-out captions at {side} pixels: read as asked, %",
    )  # fmt: skip

    def add(name: str, scale: str, evaluations: str, x: Tensor) -> None:
        found = read(x)
        recall, ratio = "", ""
        if name != "real":
            recall = f"{metrics.precision_recall(space(x), real).recall:.2f}"
            ratio = f"{metrics.memorisation(x, train, held['x']).ratio:.2f}"
        for part, rows in parts.items():
            first = part == "family"
            cells = [right(found, data.test, rows, key) for key in READ]
            sized = [[i for i in rows if data.test.attributes["size"][i] == size] for size in SIZES]
            cells.append(", ".join(right(found, data.test, some, "character") for some in sized if some))
            table.add_row(name, scale, evaluations, part, *cells, recall if first else "", ratio if first else "")

    add("real", "", "", held["x"])
    for name, model in loaded.items():
        for scale in options.scales:
            steps = options.evaluations if scale == 1 else options.evaluations // 2
            x = drawn(model, held["caption"], scale, steps)
            calls = steps if scale == 1 else 2 * steps
            add(name.rstrip("/").rsplit("/", 1)[-1], f"{scale:g}", str(calls), x)
    show("glyphs", table, width=140)


if __name__ == "__main__":
    main()
