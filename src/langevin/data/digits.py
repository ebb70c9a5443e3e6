"""scikit-learn's scans of hand-written digits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from . import _hash
from .dataset import Dataset, Examples, Options, assemble, subset
from .entry import Entry

SPLIT_SEED = 0
CLASSES = tuple(str(k) for k in range(10))


@register(
    "data",
    "digits",
    title="Digits: 1,797 real 8×8 scans, 10 classes",
    proof="data: tests/data/test_named.py",
    about=Entry(1_438, 359, (1, 8, 8), "BSD"),
)
def digits(options: Options | None = None) -> Dataset:
    """The 1,797 scans of digits that ship with scikit-learn (UCI optical recognition, its test part).

    8×8 pixels of 17 grey levels, x = pixel/8 − 1, labels 0…9. A fifth of each class is held out by a fixed hash of the
    position: 1,438 to train on (142, 146, 142, 146, 145, 146, 145, 143, 139, 144 of 0…9), 359 held out.
    """
    options = options or Options()
    pixel_options("digits", options, side=8)
    return assemble("digits", _scans(options.limit, lambda grey: grey / 8 - 1), options, classes=CLASSES, levels=17)


@register(
    "data",
    "digits-17",
    title="Digits as tokens: 8×8 ordinals of 17 levels, 10 classes",
    proof="data: tests/data/test_token_sets.py",
    about=Entry(1_438, 359, (1, 8, 8), "BSD"),
)
def digits_17(options: Options | None = None) -> Dataset:
    """The scans of ``digits`` with the same split, as int64 tokens 0…16: a pixel's grey level itself."""
    options = options or Options()
    pixel_options("digits-17", options, side=8)
    tokens = [str(level) for level in range(17)]
    return assemble(
        "digits-17", _scans(options.limit, torch.Tensor.long), options, classes=CLASSES, levels=17, tokens=tokens
    )


def _scans(limit: int | None, form: Callable[[Tensor], Tensor]) -> list[Examples]:
    """The training and the held-out part, in a form of the grey levels 0…16 in float32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = form(torch.from_numpy(bunch.images.astype(np.float32)).unsqueeze(1))
    label = bunch.target.astype(np.int64)
    test = np.zeros(len(label), dtype=bool)
    for k in range(10):
        members = np.flatnonzero(label == k)
        order = members[np.argsort(_hash.mix(SPLIT_SEED, members))]
        test[order[: round(0.2 * len(order))]] = True
    return [
        subset(Examples(x[mask], {"label": torch.from_numpy(label[mask])}), limit)
        for mask in (torch.from_numpy(~test), torch.from_numpy(test))
    ]


def pixel_options(name: str, options: Options, side: int) -> None:
    """Refuse another size, channels or window than this set of fixed grey images has."""
    if options.size not in (None, side) or options.channels not in (None, 1) or options.crop != "center":
        raise UserError(f"{name}: images are 1×{side}×{side}; size, channels and crop cannot change that.")
