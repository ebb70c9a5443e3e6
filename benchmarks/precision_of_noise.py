"""Precision, recall and the sliced distance of samples of the law itself, of training pictures, and of noise, by how
many pictures are held out. Pictures have the spectrum of photographs.

    python benchmarks/precision_of_noise.py [HELD_OUT ...]
"""

from __future__ import annotations

import sys

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from langevin.metrics import precision_recall, sliced_wasserstein

TRAIN, SIDE, COMPONENTS, DRAWS = 200, 32, 64, 5


def photos(count: int, seed: int) -> Tensor:
    """Amplitudes 1/f^1.2, in [-1, 1], each picture of its own contrast and colour."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(SIDE) * SIDE
    radius = (f[:, None].square() + f.square()).sqrt().clamp_min(1)
    white = torch.fft.fft2(torch.randn(count, 3, SIDE, SIDE, generator=generator))
    x = torch.fft.ifft2(white / radius**1.2).real
    x = x / x.std() * 0.4 * torch.exp(0.5 * torch.randn(count, 1, 1, 1, generator=generator))
    return (x + 0.3 * torch.randn(count, 3, 1, 1, generator=generator)).clamp(-1, 1)


def row(held_out: int) -> list[list[float]]:
    """Each measure of the law, of training pictures and of noise, the mean over draws."""
    train = photos(TRAIN, 1)
    fitted = PCA(COMPONENTS, random_state=0).fit(train.flatten(1).double().numpy())
    pixels = lambda x: x.flatten(1).double()
    components = lambda x: torch.from_numpy(fitted.transform(pixels(x).numpy()))
    total = torch.zeros(5, 3)
    for k in range(DRAWS):
        generator = torch.Generator().manual_seed(k)
        real, fresh = photos(held_out, 10 + k), photos(held_out, 100 + k)
        noise = (train.mean() + train.std() * torch.randn(fresh.shape, generator=generator)).clamp(-1, 1)
        some = train[torch.randperm(TRAIN, generator=generator)[:held_out]]
        for i, x in enumerate((fresh, some, noise)):
            found = [v for space in (components, pixels) for v in precision_recall(space(x), space(real))]
            total[:, i] += torch.tensor([*found, sliced_wasserstein(x, real)])
    return (total / DRAWS).tolist()


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [24, 100, 1000]
    print(
        "| held out | precision, `pca:64` | recall, `pca:64` | precision, pixels | recall, pixels | sliced W₂, pixels |"
    )
    print("|---|---|---|---|---|---|")
    for count in counts:
        cells = [", ".join(f"{v:.{3 if i == 4 else 2}f}" for v in three) for i, three in enumerate(row(count))]
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
