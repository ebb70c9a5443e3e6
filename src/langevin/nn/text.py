"""Placeholder until the branch with it is merged."""

from torch import nn


class TextEncoder(nn.Module):
    width = 8

    def __init__(self, length: int, **kw: object) -> None:
        super().__init__()
