"""A folder of 200 photographs, learned with no option but their size: what it says beforehand, and what it takes.

    python benchmarks/photos.py [--size 32] [--count 200] [--out runs/photos] [-- MORE OPTIONS OF langevin train]

The folder is made of crops, of many sizes and shapes, of the two photographs that scikit-learn carries, and of three of
scikit-image if it is installed. ``langevin train`` then runs as a newcomer would run it. Printed at the end: the time
it announced, the time it took, the picture of its last samples, and one of the photographs at the same size.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from langevin import data, training
from langevin._duration import duration

COLOUR = ("astronaut", "chelsea", "coffee")
"""Photographs in colour that come with the wheel of scikit-image."""


def photographs() -> list[np.ndarray]:
    """What is on this machine, uint8 (H, W, 3)."""
    from sklearn.datasets import load_sample_images

    found = list(load_sample_images().images)
    try:
        import skimage.data as more
    except ImportError:
        return found
    return found + [getattr(more, name)() for name in COLOUR]


def folder(path: Path, count: int, seed: int = 0) -> Path:
    """A flat folder of JPEG crops: a third to nine tenths of a photograph's shorter side, 96 to 400 pixels wide."""
    path.mkdir(parents=True, exist_ok=True)
    draw, images = np.random.default_rng(seed), photographs()
    for i in range(count):
        image = images[i % len(images)]
        short = min(image.shape[:2])
        height, width = (round(short * draw.uniform(0.33, 0.9)) for _ in "hw")
        top, left = (draw.integers(0, n - m + 1) for n, m in zip(image.shape[:2], (height, width)))
        crop = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
        wide = int(draw.integers(96, 401))
        crop.resize((wide, max(8, round(wide * height / width)))).save(path / f"photo-{i:04d}.jpg", quality=90)
    return path


def forecast(line: str) -> str | None:
    """The time that a line of ``langevin train`` announces and the hour at which it is done; None for another line."""
    said = re.search(r": ([^:]+) in all, done (at [^(]+)", line)
    return f"{said[1]}, {said[2].strip()}" if said else None


@dataclass
class Settings:
    """What to train."""

    size: int = 32
    """Side of the images."""
    count: int = 200
    """Photographs in the folder."""
    out: Path = Path("runs/photos")
    """Where the folder and the run go."""


def main(settings: Settings, more: list[str]) -> None:
    """Make the folder, train on it, and say how long it took."""
    photos = folder(settings.out / f"{settings.count}-photos", settings.count)
    run = settings.out / f"{settings.count}-at-{settings.size}"
    words = [sys.executable, "-m", "langevin", "train", str(photos), "--size", str(settings.size), "--out", str(run)]
    print("$ langevin", *words[3:], *more, flush=True)
    begun, announced = time.monotonic(), "not announced"
    with subprocess.Popen([*words, *more], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"{duration(time.monotonic() - begun):>14}  {line}", end="", flush=True)
            if said := forecast(line):
                announced = f"{said}, said after {duration(time.monotonic() - begun)}"
    if process.returncode:
        sys.exit(process.returncode)
    took = time.monotonic() - begun
    x = data.load(photos, size=settings.size).train.plain(torch.arange(min(16, settings.count // 2)))["x"]
    real = run / "photographs.png"
    training.image_grid(x, 8, low=-1.0, high=1.0).save(real)
    print(f"announced  {announced}\ntook       {duration(took)}, done at {time.strftime('%H:%M')}")
    print(f"samples    {sorted((run / 'pictures').iterdir())[-1]}\nreal       {real}")


if __name__ == "__main__":
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    main(tyro.cli(Settings, args=sys.argv[1:cut], description=__doc__), sys.argv[cut + 1 :])
