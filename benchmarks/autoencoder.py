"""A variational autoencoder on the data it was trained on: both terms of its bound, its errors, and a picture.

Run: python benchmarks/autoencoder.py MODEL [PICTURE]
"""

from __future__ import annotations

import math
import sys

import torch

from langevin import data, likelihood, models, training


@torch.no_grad()
def main(path: str, picture: str | None = None) -> None:
    """Figures of the training and of the held-out split; the picture shows held-out data, what is left, and samples."""
    codec = models.load_codec(path, device="cpu")
    source = dict(codec.data.source)
    dataset = data.load(source.pop("source"), **source)
    held = dataset.test.all()["x"]
    for name, x in (("training", dataset.train.plain(torch.arange(len(held)))["x"]), ("held-out", held)):
        print(f"{name}, {len(x)} images: {likelihood.latent_bound(codec, x)}")
    mean = codec.encode(held).mean
    error = float((codec.decode(mean).mean.clamp(codec.data.low, codec.data.high) - held).square().mean())
    used = int((mean.var(0) > 0.01).sum())
    print(f"PSNR {10 * math.log10((codec.data.high - codec.data.low) ** 2 / error):.1f} dB")
    print(f"{used} of {mean[0].numel()} latents are used (variance of their means over the data > 0.01)")
    if picture is not None:
        sheet = training.pairs(codec, held[torch.arange(16) * (len(held) // 16)])
        training.image_grid(torch.cat([sheet, codec.sample(16, 1)]), 8, low=codec.data.low, high=codec.data.high).save(
            picture
        )
        print(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
