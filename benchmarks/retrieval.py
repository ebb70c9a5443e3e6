"""How often a contrastive encoder finds the caption of a real picture among 100, by why the picture is held out.

    langevin train emoji --objective.name contrastive --minutes 30 --out runs/emoji-encoder
    python benchmarks/retrieval.py runs/emoji-encoder                    # a minute on a core

The other 99 are of the same part of the held-out pictures, and the mean is over all choices of them; a picture with the
same caption is none of them. Of ``emoji``, ``pair`` is a style of a name that is trained on in other styles, ``name`` a
name that no style was trained on; of ``glyphs``, ``family`` is a family of fonts and ``combination`` a combination of
attributes that is never trained on.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin.metrics import Retrieval, retrieval
from record import show

BATCH = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="contrastive encoders of data by name, with captions")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    table = Table("model", "held out", "pictures", "caption of a picture", "picture of a caption")
    table.title = "the right one of 100, %"
    told = lambda found: f"{100 * found.value:.1f} ± {100 * found.stderr:.1f}"
    for name in options.models:
        model = langevin.load(name)
        held = langevin.data.load(model.data.name, size=model.shape[-1]).test
        parts, every = held.attributes["part"], held.all()
        with torch.no_grad():
            u = torch.cat([model.encode_image(part) for part in every["x"].split(BATCH)])
            v = torch.cat([model.encode_text(part) for part in every["caption"].split(BATCH)])

        def among(a: Tensor, b: Tensor, rows: list[int], captions: Tensor) -> Retrieval:
            return retrieval(a[rows] @ b[rows].T, torch.unique(captions[rows], dim=0, return_inverse=True)[1])

        for part in dict.fromkeys(parts):
            rows = [i for i, one in enumerate(parts) if one == part]
            each = (among(u, v, rows, every["caption"]), among(v, u, rows, every["caption"]))
            table.add_row(name.rstrip("/").rsplit("/", 1)[-1], part, f"{len(rows):,}", *map(told, each))
    show("retrieval", table)


if __name__ == "__main__":
    main()
