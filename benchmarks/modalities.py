"""Several conditions from models that never met: a class, a caption and a low resolution, combined while sampling.

    langevin train glyphs --size 16 NETWORK conditions '{"label": 36}' --out runs/by-class
    langevin train glyphs --size 16 NETWORK conditions '{"caption": 104}' --out runs/by-caption
    langevin train glyphs --size 16 --degrade resize=4 NETWORK conditions '{"image": 3}' --out runs/by-picture
    python benchmarks/modalities.py --label runs/by-class --caption runs/by-caption --image runs/by-picture

Multimodal priors (Nair et al. 2022, arXiv:2206.05039): x̂ = x̂_∅ + Σ_k (x̂_k − x̂_∅) over the models k, with x̂_∅ the
mean of what they say when they are told nothing, by ``guidance.linear``. Each model is told one thing about held-out
pictures of a family of fonts that none was trained on: which character it is, its caption without the character's name
("a large red letter on blue"), or 4 by 4 pixels of it. What is drawn is read by ``glyph_reader.py``; PSNR is to the
picture that was there. Alone, a model can get right what it is told and no more.
"""

from __future__ import annotations

import argparse
import itertools
import re

import torch
from rich.table import Table
from torch import Tensor

import langevin
from glyph_reader import READ, read
from glyphs import right
from langevin.data.degradations import Degradation
from langevin.nn.text import decode_text, encode_texts
from record import show
from super_resolution import psnr

SILENT = re.compile(r"\b(letter|digit) \S")


def combined(
    models: dict[str, langevin.Denoiser], told: dict[str, Tensor], names: tuple[str, ...]
) -> langevin.Denoiser:
    """The models of these names, each told its own, as one."""
    parts = [models[name].given({name: told[name]}) for name in names]
    if len(parts) == 1:
        return parts[0]
    none = [models[name] for name in names]
    weights = [1.0] * len(parts) + [(1 - len(parts)) / len(parts)] * len(parts)
    return langevin.guidance.linear([*parts, *none], weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("label", "caption", "image"):
        parser.add_argument(f"--{name}", required=True, help=f"a model that is told the condition {name}")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    models = {name: langevin.load(getattr(options, name)) for name in ("label", "caption", "image")}
    data = langevin.data.load("glyphs", size=next(iter(models.values())).shape[-1])
    parts = data.test.attributes["part"]
    rows = [i for i, part in enumerate(parts) if part == "family"][: options.n]
    held = data.test.plain(torch.tensor(rows))
    x, length = held["x"], held["caption"].shape[1]
    silent = [SILENT.sub(r"\1", decode_text(caption)) for caption in held["caption"]]
    low = Degradation.parse("resize=4")(x, langevin.Noise(0, len(x)))["image"]
    told = {"label": held["label"], "caption": encode_texts(silent, length), "image": low}

    table = Table("told", "evaluations", "PSNR", *READ, title=f"{len(x)} held-out pictures, read as they were, %")

    def add(name: str, evaluations: str, made: Tensor) -> None:
        found = dict(zip(rows, read(made), strict=True))
        aligned = [found.get(i, {}) for i in range(len(parts))]
        nearness = "" if made is x else f"{psnr(made, x):.2f}"
        table.add_row(name, evaluations, nearness, *(right(aligned, data.test, rows, key) for key in READ))

    add("the pictures themselves", "", x)
    for count in (1, 2, 3):
        for names in itertools.combinations(models, count):
            made = langevin.sample(combined(models, told, names), n=len(x), steps=options.steps, seed=0).clamp(-1, 1)
            calls = options.steps * (count if count == 1 else 2 * count)
            add(" × ".join(names), str(calls), made)
    show("modalities", table)


if __name__ == "__main__":
    main()
