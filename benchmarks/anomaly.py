"""Anomaly maps on digits: a blob is drawn on held-out digits, and the map must find its pixels.

    python benchmarks/anomaly.py --model runs/digits      # a minute on a core

The blob is a square of 3 × 3 grey pixels. Healthy is the digit's own class; the model has seen no blobs. Beside the map
stands what needs no model: how far a pixel is from the mean of its class, in standard deviations.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table

import langevin
import record
from langevin import Noise, tasks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a diffusion model of digits")
    parser.add_argument("-n", type=int, default=100, help="held-out digits")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    model, data = langevin.load(options.model), langevin.data.load("digits")
    held, train = data.test.all(), data.train.all()
    x, label = held["x"][: options.n].clone(), held["label"][: options.n]
    truth = torch.zeros(x.shape[0], 8, 8, dtype=torch.bool)
    corner = (Noise(0, len(x)).uniform((2,)) * 6).long()
    for i, (row, column) in enumerate(corner.tolist()):
        truth[i, row : row + 3, column : column + 3] = True
    ill = torch.where(truth[:, None], torch.tensor(0.3), x)

    table = Table(title=f"AUROC of the pixels of a blob, {len(x)} digits")
    for column in ("strength σ/α", "AUROC", "mean map on the blob", "elsewhere", "of digits without a blob"):
        table.add_column(column, justify="right")
    mean = torch.stack([train["x"][train["label"] == k].mean(0) for k in range(10)])[label]
    std = torch.stack([train["x"][train["label"] == k].std(0) for k in range(10)])[label]
    plain = ((ill - mean).abs() / (std + 0.05))[:, 0]
    for strength in (None, 0.5, 1.0, 2.0, 5.0):
        if strength is None:
            table.add_row(
                "no model: distance from the class's mean, in its std", f"{tasks.auroc(plain, truth):.3f}", "", "", ""
            )
            continue
        found = tasks.anomaly(model, ill, strength=strength, label=label).map
        clean = tasks.anomaly(model, x, strength=strength, label=label).map
        row = [tasks.auroc(found, truth), found[truth].mean(), found[~truth].mean(), clean.mean()]
        table.add_row(f"{strength:g}", *(f"{float(value):.3f}" for value in row))
    record.show("anomaly", table)


if __name__ == "__main__":
    main()
