"""Features of a trained denoiser: the places of a picture named from 50 labelled pictures.

    langevin train avatars --out runs/avatars-32
    python benchmarks/features.py runs/avatars-32 runs/glyphs-32         # half an hour on a core

The classes of a pixel are background, skin, hair, clothes and the rest in the faces of ``avatars``, background and ink
in ``glyphs``. The table has the mean intersection over union on held-out pictures, of logistic regression on the
denoiser's activations (``langevin.tasks.DiffusionFeatures``), of the same regression on the colours of 5×5 pixels, of
a small U-Net that learns from the same 50 pictures, and of that U-Net that learns from all there are: full supervision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from sklearn.metrics import jaccard_score
from torch import Tensor

import langevin
from langevin import nn
from langevin.data import avatars, glyphs
from langevin.data._progress import track
from langevin.tasks import DiffusionFeatures, fit_segmenter
from record import show

HELD = 200
"""Held-out pictures that are measured."""


def faces(index: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Pictures of ``avatars`` in [-1, 1], and the class of each pixel."""
    shown, parts = avatars.avatars_at(index), avatars.read_parts()
    return scale(avatars.pictures(shown, parts, side)), avatars.places(shown, parts, side)


def letters(index: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Pictures of ``glyphs`` in [-1, 1], and where more than half of a pixel is ink."""
    shown = glyphs.glyphs_at(index)
    letter = {(g.face, g.character): g.face.letter(g.character) for g in shown}
    ink = [glyphs.coverage(letter[g.face, g.character], g, side) > 0.5 for g in shown]
    return scale(glyphs.pictures(shown, side)), torch.from_numpy(np.stack(ink)).long()


def scale(x: np.ndarray) -> Tensor:
    """uint8 to [-1, 1]."""
    return torch.from_numpy(x).float() / 127.5 - 1


SETS: dict[str, tuple[Callable[[Tensor, int], tuple[Tensor, Tensor]], int, int]] = {
    "avatars": (faces, avatars.TRAIN, len(avatars.PLACES)),
    "glyphs": (letters, glyphs.TRAIN, 2),
}
"""How pictures with the class of each pixel are made, how many there are to train on, and how many classes."""


def iou(found: Tensor, mask: Tensor) -> float:
    """Mean over the classes of intersection over union."""
    return float(jaccard_score(mask.flatten().numpy(), found.flatten().numpy(), average="macro"))


def patches(x: Tensor) -> Tensor:
    """The colours of the 5×5 pixels around each pixel, ``(N, 75, H, W)``."""
    return F.unfold(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5).unflatten(2, tuple(x.shape[2:]))


class Patches:
    """Colours of patches in the place of a denoiser's features."""

    batch = 64

    def maps(self, x: Tensor, progress: Callable[[int, int], None] | None = None):
        return (patches(part) for part in x.split(self.batch))


def supervised(x: Tensor, mask: Tensor, classes: int, steps: int) -> Callable[[Tensor], Tensor]:
    """A U-Net that learns the class of each pixel, by cross-entropy; mirrored half of the time."""
    torch.manual_seed(0)
    options = {"size": tuple(x.shape[2:]), "width": 32, "multipliers": (1, 2, 2), "blocks": (1, 1, 1), "attention": ()}
    network = nn.create_network({"name": "unet", "channels": 3, "out_channels": classes, **options})
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    order = torch.Generator().manual_seed(0)
    for _ in track(range(steps), steps, f"a U-Net of {len(x):,} pictures", True):
        rows = torch.randint(len(x), (32,), generator=order)
        flip = torch.rand(32, generator=order)[:, None, None] < 0.5
        some, want = x[rows], mask[rows]
        some, want = torch.where(flip[:, None], some.flip(3), some), torch.where(flip, want.flip(2), want)
        loss = F.cross_entropy(network(some, torch.zeros(32)), want)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()

    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        return torch.cat([network(part, torch.zeros(len(part))).argmax(1) for part in x.split(100)])

    return predict


def segmentation(path: str, table: Table, labelled: int, steps: int) -> None:
    """The rows of a model."""
    model = langevin.load(path)
    name = model.data.name if model.data.name in SETS else "avatars"
    make, train, classes = SETS[name]
    side = model.shape[-1]
    x, mask = make(torch.arange(train), side)
    held, truth = make(torch.arange(train, train + HELD), side)
    few = slice(0, labelled)
    full = iou(supervised(x, mask, classes, steps)(held), truth)
    rows = {
        "U-Net, all pictures": full,
        f"U-Net, {labelled} pictures": iou(supervised(x[few], mask[few], classes, steps)(held), truth),
        f"colours of 5×5 pixels, {labelled} pictures": iou(fit_segmenter(Patches(), x[few], mask[few])(held), truth),
    }
    for levels in ((0.1,), (0.4,), (0.1, 0.4), (0.1, 0.4, 1.0)):
        features = DiffusionFeatures(model, levels=levels)
        what = f"features at {', '.join(f'{level:g}' for level in levels)}, {labelled} pictures"
        rows[what] = iou(fit_segmenter(features, x[few], mask[few])(held), truth)
    for what, found in rows.items():
        table.add_row(name, what, f"{found:.3f}", f"{found / full:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="models of avatars or glyphs")
    parser.add_argument("--labelled", type=int, default=50)
    parser.add_argument("--steps", type=int, default=3000, help="of the supervised U-Nets")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    table = Table("data", "segmenter", "mean IoU", "of full supervision", title=f"{HELD} held-out pictures")
    for path in options.models:
        segmentation(path, table, options.labelled, options.steps)
    show("features-segmentation", table)


if __name__ == "__main__":
    main()
