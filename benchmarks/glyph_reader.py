"""What a picture of ``glyphs`` shows: character, colours, size and place, read by a network trained on renderings.

    python benchmarks/glyph_reader.py                 # trains it once (minutes on a core), then reads held-out pictures

The reader is a small convolutional network. It learns from renderings of every family and every combination, those
that models are never trained on too, since a judge must know what it judges; none of the 2,000 held-out pictures is
among them, and no picture of a model. It is kept in ``$LANGEVIN_CACHE/judges``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from langevin.data import glyphs
from langevin.data._progress import track
from langevin.data.faces import CHARACTERS, FACES, digest
from langevin.data.glyphs import COLOURS, Glyph, glyphs_at, pictures
from langevin.data.packages import cache
from langevin.storage import files
from langevin.storage.formats import as_safetensors, read_safetensors
from record import show

COUNT = 60_000
"""Renderings it learns from: those to train on, and as many as are missing from behind the held-out ones."""
EPOCHS, BATCH = 6, 128
READ = ("character", "colour", "background", "size", "place")
"""What is read, by the names of ``Split.attributes``."""


class Reader(nn.Module):
    """Convolutions at 16×16 and 8×8, then numbers: logits of characters and colours, and where the ink is.

    ``(B, 3, S, S)`` in [-1, 1] to character (36), colour (8), background (8), and extent, across, down (3) as shares of
    the side.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        fold = side // 16  # blocks of pixels become channels, without loss
        widths = [3 * fold**2, 48, 96]
        self.down = nn.Sequential(nn.PixelUnshuffle(fold), *[
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for a, b in pairwise(widths)
        ])  # fmt: skip
        self.hidden = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(widths[-1] * 16, 256), nn.ReLU())
        self.heads = nn.Linear(256, len(CHARACTERS) + 2 * len(COLOURS) + 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        character, colour, background, where = self.heads(self.hidden(self.down(x))).split(
            [len(CHARACTERS), len(COLOURS), len(COLOURS), 3], 1
        )
        return character, colour, background, where

    @torch.no_grad()
    def read(self, x: Tensor) -> list[dict[str, str]]:
        """What each picture ``(N, 3, S, S)`` in [-1, 1] shows, by the names in ``READ``."""
        found = []
        for part in x.split(256):
            character, colour, background, where = self(part.float())
            for c, ink, ground, (extent, across, down) in zip(
                character.argmax(1).tolist(), colour.argmax(1).tolist(), background.argmax(1).tolist(), where.tolist()
            ):
                names = list(COLOURS)
                found.append({
                    "character": CHARACTERS[c],
                    "colour": names[ink],
                    "background": names[ground],
                    "size": size_of(extent),
                    "place": glyphs.place_of(across, down),
                })  # fmt: skip
        return found


def size_of(extent: float) -> str:
    """The name of a size: that whose range, from its least to its greatest extent, is nearest."""
    middle = lambda name: sum(glyphs.SIZES[name]) / 2
    return min(glyphs.SIZES, key=lambda name: abs(extent - middle(name)))


def targets(shown: Sequence[Glyph]) -> tuple[Tensor, Tensor]:
    """Character, colour and background as integers ``(N, 3)``, and extent, across and down ``(N, 3)``."""
    names = list(COLOURS)
    integers = [[CHARACTERS.index(g.character), names.index(g.colour), names.index(g.background)] for g in shown]
    return torch.tensor(integers), torch.tensor([[g.extent, g.across, g.down] for g in shown])


def loss(reader: Reader, x: Tensor, named: Tensor, where: Tensor) -> Tensor:
    """Cross-entropies, and the squared errors of extent and middle in units of a tenth of the side."""
    *logits, at = reader(x)
    return sum(F.cross_entropy(out, want) for out, want in zip(logits, named.T)) + 100 * F.mse_loss(at, where)


def scale(x: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return x.float() / 127.5 - 1


@functools.cache
def reader(side: int = 32) -> Reader:
    """The reader of pictures of a side, trained if it is not in the cache."""
    words = (
        digest(FACES),
        *(inspect.getsource(one) for one in (Reader, loss, reader)),
        Path(glyphs.__file__).read_text(),
        str(side),
    )
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    path = cache() / "judges" / f"glyphs-{side}-{key}.safetensors"
    made = Reader(side)
    if path.is_file():
        made.load_state_dict(read_safetensors(path))
        return made.eval().requires_grad_(False)
    held = glyphs.TRAIN + glyphs.TEST
    shown = glyphs_at(torch.cat([torch.arange(glyphs.TRAIN), torch.arange(held, held + COUNT - glyphs.TRAIN)]))
    x, (named, where) = torch.from_numpy(pictures(shown, side)), targets(shown)
    torch.manual_seed(0)
    made = Reader(side)
    steps = EPOCHS * len(x) // BATCH
    optimiser = torch.optim.AdamW(made.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    order = torch.Generator().manual_seed(0)
    for _ in track(range(steps), steps, "reader", True):
        rows = torch.randint(len(x), (BATCH,), generator=order)
        value = loss(made, scale(x[rows]), named[rows], where[rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    made.eval().requires_grad_(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, as_safetensors(made.state_dict()))
    return made


def read(x: Tensor) -> list[dict[str, str]]:
    """What pictures ``(N, 3, S, S)`` in [-1, 1] show, by the names in ``READ``."""
    return reader(x.shape[-1]).read(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    shown = glyphs_at(torch.arange(glyphs.TRAIN, glyphs.TRAIN + glyphs.TEST))
    found = reader(options.size).read(scale(torch.from_numpy(pictures(shown, options.size))))
    table = Table("held-out pictures", *READ, title=f"Real pictures of {options.size} pixels, read right, %")
    for part in ("family", "combination"):
        rows = [i for i, glyph in enumerate(shown) if glyph.part == part]
        right = [sum(found[i][key] == shown[i].attributes[key] for i in rows) for key in READ]
        table.add_row(part, *(f"{100 * count / len(rows):.1f}" for count in right))
    show(f"glyph-reader-{options.size}", table)


if __name__ == "__main__":
    main()
