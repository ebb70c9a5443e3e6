"""The bound of a latent variable model, its two terms apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Noise
from ..objectives.elbo import Codec, decoder_of, elbo
from .units import Measured, Units, error_of_mean


@dataclass(frozen=True)
class LatentBound(Measured):
    """A bound on −log p(x) of each example, in nats.

    Args:
        reconstruction: −E_q log p(x | z), float64 ``(B,)``: what the latents leave open.
        kl: KL(q(z | x) ‖ p(z)), ``(B,)``: what the latents cost.
        units: what the nats are counted in.
        protocol: how it was computed, plain JSON.
    """

    reconstruction: Tensor
    kl: Tensor
    units: Units
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def nats(self) -> Tensor:
        """The bound, ``(B,)`` in nats."""
        return self.reconstruction + self.kl

    def __str__(self) -> str:
        nats = ", ".join(f"{name} {float(getattr(self, name).mean()):.4f}" for name in ("reconstruction", "kl"))
        error = error_of_mean(self.bits_per_dim)
        return f"{float(self.bits_per_dim.mean()):.4f} ± {error:.4f} bits/dim ({nats} nats)"


@register(
    "likelihood",
    "elbo",
    title="ELBO of a variational autoencoder, its two terms apart",
    arxiv="1312.6114",
    proof="exact: tests/likelihood/test_latent.py",
)
@torch.no_grad()
def latent_bound(codec: Codec, x: Tensor, *, draws: int = 16, seed: int = 0, batch: int = 256) -> LatentBound:
    """The ELBO of data under a codec (``langevin.objectives.elbo``), the mean over draws of z.

    Args:
        codec: a variational autoencoder, as ``langevin.models.load_codec`` reads it.
        x: data ``(N, *shape)``.
        draws: of z for each example, ≥ 1; the KL term is exact at any number.
        seed: of the noise.
        batch: examples carried at a time.

    Raises:
        UserError: for a shape that is not the model's, or values that are not finite.
    """
    if tuple(x.shape[1:]) != tuple(codec.shape) or len(x) == 0:
        raise UserError(f"x must have shape (N, {', '.join(map(str, codec.shape))}), got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise UserError("x holds values that are not finite")
    for name, value in (("draws", draws), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    noise, parts = Noise(seed, len(x)), []
    for first in range(0, len(x), batch):
        rows = slice(first, min(first + batch, len(x)))
        terms = [torch.stack(elbo(codec, x[rows], noise.rows(rows).step(draw))) for draw in range(draws)]
        parts.append(torch.stack(terms).mean(0).cpu())
    reconstruction, kl = torch.cat(parts, 1)
    units = Units.of(codec.data, tuple(codec.shape), density=decoder_of(codec).density)
    protocol = {"bound": "ELBO", "draws": draws, "seed": seed, "n": len(x)}
    return LatentBound(reconstruction, kl, units, protocol | units.protocol())
