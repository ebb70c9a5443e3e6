"""A folder of patches of the two photographs that ship with scikit-learn, for a model larger than the demo's.

    python benchmarks/patches.py runs/patches-images          # 4,000 patches of 16×16, grey
    python benchmarks/models.py runs/patches                  # after the training that docs/remainder.md prints

Patches stand at random places, by a seed; every second one, by chance, is mirrored. What is cut out is larger, and
averaged down, so that a patch shows more than texture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track
from sklearn.datasets import load_sample_images


def main() -> None:
    """Write the patches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=16, help="pixels a side")
    parser.add_argument("--cut", type=int, default=48, help="pixels a side of the photograph, before they are averaged")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--colour", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not 1 <= asked.size <= asked.cut <= 400 or asked.count < 1:
        parser.error("sizes must satisfy 1 <= size <= cut <= 400, and count be at least 1")
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    for k in track(range(asked.count), "patches"):
        photograph = photographs[k % len(photographs)]
        left, top = (int(draw.integers(0, side - asked.cut + 1)) for side in photograph.size)
        patch = photograph.crop((left, top, left + asked.cut, top + asked.cut))
        patch = patch.resize((asked.size, asked.size), Image.Resampling.BOX)
        patch = patch if asked.colour else patch.convert("L")
        if draw.integers(2):
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        patch.save(asked.out / f"{k:05d}.png")
    print(f"{asked.count} patches in {asked.out}")


if __name__ == "__main__":
    main()
