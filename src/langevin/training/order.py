"""Which examples a step sees: a pure function of the seed and the step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributions import Noise, Stream


class Order:
    """The training stream: epoch after epoch, each a permutation of the examples by (seed, epoch) alone.

    Args:
        examples: N ≥ 1.
        seed: in [0, 2⁶⁴).
    """

    def __init__(self, examples: int, seed: int) -> None:
        self.examples, self.seed = examples, seed
        self._kept: tuple[int, Tensor] | None = None

    def permutation(self, epoch: int) -> Tensor:
        """The examples of an epoch, int64 ``(N,)``."""
        if self._kept is None or self._kept[0] != epoch:
            # Two words a key: 64 random bits, so that ties do not happen; a stable sort decides them if they do.
            keys = Noise(self.seed, self.examples, draw=epoch).fold_in(Stream.ORDER).uniform((2,))
            rough = torch.argsort(keys[:, 1], stable=True)
            self._kept = (epoch, rough[torch.argsort(keys[rough, 0], stable=True)])
        return self._kept[1]

    def batch(self, first: int, size: int) -> Tensor:
        """Examples first … first + size − 1 of the stream; a batch may end one epoch and begin the next."""
        parts = []
        while size > 0:
            epoch, offset = divmod(first, self.examples)
            part = self.permutation(epoch)[offset : offset + size]
            parts.append(part)
            first, size = first + len(part), size - len(part)
        return torch.cat(parts)
