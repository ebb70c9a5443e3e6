"""Autoencoders as models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..data import DataInfo
from ..denoisers import EvaluationCounter
from ..distributions import Noise, Normal


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A codec of ``langevin.nn`` with the description of its data: see ``langevin.objectives.Codec``.

    Args:
        network: has ``encode``, ``decode`` and ``latent``.
        data: what it was trained on.
        config: how it was made, as plain JSON.
        counter: as every model has; codecs are not counted.
    """

    network: nn.Module
    data: DataInfo
    config: Mapping[str, Any] = field(default_factory=dict)
    counter: EvaluationCounter = field(default_factory=EvaluationCounter, repr=False)
    kind = "codec"

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        name = f"{type(self.network).__name__} {count / 1e6:.2f} M"
        return f"Autoencoder({name}, {self.shape} to {self.latent}) of {self.data}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of the data."""
        return tuple(self.data.shape)

    @property
    def latent(self) -> tuple[int, ...]:
        """Event shape of the latents."""
        shape: tuple[int, ...] = self.network.latent  # type: ignore[assignment]
        return shape

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it is given: that of its weights, float32 at least."""
        return torch.promote_types(next(self.network.parameters()).dtype, torch.float32)

    def counted(self) -> Autoencoder:
        """The same with a counter of its own."""
        return replace(self, counter=EvaluationCounter())

    def conditions(self) -> tuple[str, ...]:
        """None: codecs take no conditions."""
        return ()

    def encode(self, x: Tensor) -> Normal:
        """q(z | x) of data ``(B, *shape)``, over ``(B, *latent)``."""
        law: Normal = self.network.encode(x)  # type: ignore[operator]
        return law

    def decode(self, z: Tensor) -> Normal:
        """p(x | z) of latents ``(B, *latent)``, over ``(B, *shape)``; its mean is the decoded datum."""
        law: Normal = self.network.decode(z)  # type: ignore[operator]
        return law

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Means of p(x | z) for z ~ N(0, I), ``(n, *shape)``, clipped to the range of the data.

        Where p(x | z) is integrated over bins the first and the last have no end, and a mean may lie beyond them.
        """
        if n < 1:
            raise UserError(f"n must be at least 1, got {n}")
        made = self.decode(Noise(seed, n).normal(self.latent).to(self.device, torch.float32)).mean
        return made if self.data.low is None else made.clamp(self.data.low, self.data.high)
