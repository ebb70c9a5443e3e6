"""Random orders that are a function of their seed and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributions import Noise, Stream


def permutation(count: int, seed: int, draw: int, inner: bool = False) -> Tensor:
    """A permutation of 0 … count − 1 by (seed, draw), int64 ``(count,)``.

    Args:
        count: N ≥ 0.
        seed: in [0, 2⁶⁴).
        draw: counts the permutations of a seed.
        inner: of another sequence of permutations, independent of the first: those within blocks.
    """
    # Two words a key: 64 random bits, so that ties do not happen; a stable sort decides them if they do.
    noise = Noise(seed, count, draw=draw).fold_in(Stream.ORDER)
    keys = (noise.fold_in(Stream.INNER) if inner else noise).uniform((2,))
    rough = torch.argsort(keys[:, 1], stable=True)
    return rough[torch.argsort(keys[rough, 0], stable=True)]
