"""Held-out bits a dimension of trained models on ``digits``, next to baselines computed in the same run.

    python benchmarks/bits.py MODEL [MODEL …] [--steps 100] [--pairs 60] [--exact] [--out runs/bits]

Baselines are fitted to the training split, their one setting each chosen on a fifth of it that is then given back:

* histogram: the frequencies of the 17 levels at each pixel, smoothed by adding a constant to every count;
* Gaussian: the mean and full covariance plus a multiple of the identity; the probability of a whole image is that of
  its box of bins, by sequential conditioning (the Geweke–Hajivassiliou–Keane sampler, 200 draws an image, with the
  edge bins open), whose logarithm is biased by less than the spread of the draws allows (printed);
* PixelCNN: five masked layers of 64 channels, a softmax over the levels, early stopping.

The models' figure is the variational bound (``langevin.likelihood.bound``), with ``--exact`` that of the probability
flow too (``langevin.likelihood.exact``), a bound as well, for what the dequantisation costs. Writes a table (JSON).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import langevin
from langevin import Noise
from langevin.data import Dataset

LEVELS, PIXELS = 17, 64
DELTA = 2 / (LEVELS - 1)


def split(dataset: Dataset) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images as levels ``(N, 64)``, a part to fit on and a part to choose on, and the held-out images."""
    train, test = (((part.all()["x"] + 1) / DELTA).round().long().flatten(1) for part in (dataset.train, dataset.test))
    choose = torch.arange(len(train)) % 5 == 0
    return train, train[~choose], train[choose], test


def histogram(fit: Tensor, held: Tensor, add: float) -> Tensor:
    """−log P in nats of each held image."""
    counts = torch.nn.functional.one_hot(fit, LEVELS).sum(0).double() + add
    log_probs = torch.log(counts / counts.sum(-1, keepdim=True))
    return -log_probs.gather(1, held.T).sum(0)


def gaussian(fit: Tensor, held: Tensor, ridge: float, draws: int = 200) -> tuple[Tensor, float]:
    """−log P of the box of bins of each held image, and the mean standard error of that estimate, in nats.

    With Σ = LLᵀ and x = μ + Lz, pixel i lies in its bin if z_i lies in an interval that depends on z_1…z_{i−1}: draw
    those in order from truncated normals; the product of the intervals' probabilities is an unbiased estimate of P.
    """
    x = fit.double()
    root = torch.linalg.cholesky(torch.cov(x.T, correction=0) + ridge * torch.eye(PIXELS, dtype=torch.float64))
    mean, noise = x.mean(0), Noise(0, draws)
    u = noise.uniform((PIXELS,))[None]
    z = torch.zeros(len(held), draws, PIXELS, dtype=torch.float64)
    total = torch.zeros(len(held), draws, dtype=torch.float64)
    for i in range(PIXELS):
        centre = mean[i] + z[..., :i] @ root[i, :i]
        level = held[:, i, None].double()
        low = torch.where(level == 0, -math.inf, (level - 0.5 - centre) / root[i, i])
        high = torch.where(level == LEVELS - 1, math.inf, (level + 0.5 - centre) / root[i, i])
        # In the lower tail, where cdfs do not round to 1; by logarithms, where they do not round to 0.
        flip = low + high > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        a, b = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        total += b + torch.log1p(-torch.exp(a - b))
        a, b = a.exp(), b.exp()
        # Beyond 37 standard deviations a cdf is 0: the interval's own end.
        inside = torch.maximum(torch.special.ndtri((a + (b - a) * u[..., i]).clamp(1e-300, 1 - 1e-16)), low)
        inside = torch.minimum(inside, high)
        z[..., i] = torch.where(flip, -inside, inside)
    nats = math.log(draws) - torch.logsumexp(total, 1)
    share = torch.softmax(total, 1)
    return nats, float(torch.sqrt(((share * draws - 1) ** 2).mean(1) / draws).mean())


class Masked(nn.Conv2d):
    """A convolution that sees the pixels before, in raster order, and its own pixel if ``own``."""

    def __init__(self, channels: int, out: int, size: int, own: bool) -> None:
        super().__init__(channels, out, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask.view(-1)[: size * size // 2 + own] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(nn.Module):
    """Logits of every level at every pixel given the pixels before (van den Oord et al. 2016, arXiv:1601.06759)."""

    def __init__(self, width: int = 64, layers: int = 4, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = Masked(LEVELS + 2, width, 7, own=False)
        self.layers = nn.ModuleList(Masked(width, width, 5, own=True) for _ in range(layers))
        self.drop = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(width, LEVELS, 1)
        ramp = torch.linspace(-1, 1, 8)
        self.register_buffer("place", torch.stack((ramp[:, None].expand(8, 8), ramp[None].expand(8, 8))))

    def forward(self, level: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(level.reshape(-1, 8, 8), LEVELS).permute(0, 3, 1, 2).float()
        # The place of a pixel is no secret: it goes in unmasked, as a bias.
        h = self.first(torch.cat((hot, self.place.expand(len(level), -1, -1, -1)), 1))
        for layer in self.layers:
            h = h + self.drop(layer(nn.functional.silu(h)))
        return self.last(nn.functional.silu(h))

    def nats(self, level: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self(level), level.reshape(-1, 8, 8), reduction="none")
        return loss.flatten(1).sum(1)


def pixelcnn(fit: Tensor, held: Tensor, epochs: int, watch: Tensor | None = None) -> tuple[PixelCNN, int]:
    """The network after so many epochs, or the best on ``watch`` with the number of epochs that took."""
    torch.manual_seed(0)
    network, best, found = PixelCNN(), math.inf, epochs
    kept = copy.deepcopy(network)
    adam = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    for epoch in track(range(1, epochs + 1), "PixelCNN", transient=True):
        network.train()
        for rows in torch.randperm(len(fit)).split(64):
            adam.zero_grad()
            (network.nats(fit[rows]).mean() / PIXELS).backward()
            adam.step()
        rate.step()
        network.eval()
        if watch is not None:
            with torch.no_grad():
                now = float(network.nats(watch).mean())
            if now < best:
                best, found, kept = now, epoch, copy.deepcopy(network)
    return (network if watch is None else kept).eval(), found


def bits(nats: Tensor) -> tuple[float, float]:
    """Mean and standard error, bits a dimension."""
    scaled = nats.double() / (PIXELS * math.log(2))
    return float(scaled.mean()), float(scaled.std() / math.sqrt(len(scaled)))


def baselines(dataset: Dataset, epochs: int) -> list[tuple[str, str, Tensor]]:
    """(name, how, −log P of each held-out image in nats); the PixelCNN last."""
    train, fit, choose, test = split(dataset)
    rows = []
    add = min((0.01, 0.03, 0.1, 0.3, 1.0), key=lambda a: float(histogram(fit, choose, a).mean()))
    rows.append(("per-pixel histogram", f"add {add} a level", histogram(train, test, add)))
    ridges = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    ridge = min(ridges, key=lambda r: float(gaussian(fit, choose, r, 20)[0].mean()))
    nats, error = gaussian(train, test, ridge)
    rows.append(("full-covariance Gaussian", f"ridge {ridge}, ± {error:.2f} nats an image by draws", nats))
    _, found = pixelcnn(fit, choose, epochs, watch=choose)
    network, _ = pixelcnn(train, test, found)
    with torch.no_grad():
        nats = network.nats(test)
    rows.append(("PixelCNN", f"{sum(p.numel() for p in network.parameters())} parameters, {found} epochs", nats))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60, help="of the PixelCNN, at most")
    parser.add_argument("--pairs", type=int, default=0, help="also the best grid of 10 and 25 steps of so many times")
    parser.add_argument("--exact", action="store_true", help="also by the probability flow")
    parser.add_argument("--out", type=Path, default=Path("runs/bits"))
    asked = parser.parse_args()
    begun, dataset = time.monotonic(), langevin.data.load("digits")
    rows = baselines(dataset, asked.epochs)
    reference = rows[-1][2]
    x = dataset.test.all()["x"]
    for path in asked.models:
        model = langevin.load(path)
        grids = {f"{asked.steps} steps": None}
        if asked.pairs:  # chosen on training images
            table = langevin.likelihood.pairs(model, dataset.train.all()["x"][:300], fine=asked.pairs)
            grids |= {f"best {steps} steps": table.grid(steps) for steps in (10, 25)}
            for steps in (10, 25):
                grids[f"{steps} steps"] = langevin.likelihood.bound(model, x[:1], steps=steps).grid
        for name, grid in grids.items():
            steps = asked.steps if grid is None else None
            found = langevin.likelihood.bound(model, x, steps=steps, grid=grid, samples=asked.samples)
            rows.append((path, f"bound, {name}", found.nats))
        if asked.exact:
            flow = langevin.likelihood.exact(model, x, divergence="hutchinson", dequantise="normal")
            how = "flow, 60 evaluations, one probe each, normal dequantisation"
            rows.append((path, how, -flow.log_prob))
    table = Table("model", "how", "bits/dim", "less than PixelCNN", title=f"{len(x)} held-out digits, {LEVELS} levels")
    found = []
    for name, how, nats in sorted(rows, key=lambda row: -float(row[2].mean())):
        (mean, error), (less, apart) = bits(nats), bits(reference - nats)  # on the same images
        table.add_row(name, how, f"{mean:.4f} ± {error:.4f}", "" if nats is reference else f"{less:.4f} ± {apart:.4f}")
        found.append(
            {"model": name, "how": how, "bits_per_dim": mean, "error": error, "less": less, "less_error": apart}
        )
    Console().print(table)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "bits.json").write_text(json.dumps({"rows": found, "seconds": time.monotonic() - begun}, indent=1))


if __name__ == "__main__":
    main()
