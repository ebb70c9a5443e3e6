"""A contrastive encoder whose vectors are known: they are the data themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlainEncoder(nn.Module):
    """Vectors x/‖x‖, with no word of the time; of captions the first token's features.

    Args:
        scale: τ.
        both: whether the feature map is x and 1 − x, and not x alone.
        shape: of the data, if another is not to be shown.
    """

    reads = "sequence"

    def __init__(self, scale: float = 1.0, *, both: bool = False, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.both, self.shape = both, shape

    def check_shape(self, shape: tuple[int, ...]) -> None:
        assert self.shape in (None, shape)

    def encode_image(self, x: Tensor, time: Tensor) -> Tensor:
        return nn.functional.normalize(x.flatten(1), dim=1)

    def feature_map(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.cat([x, 1 - x], 1) if self.both else x

    def encode_text(self, value: Tensor) -> Tensor:
        return nn.functional.normalize(value[:, 0], dim=1)
