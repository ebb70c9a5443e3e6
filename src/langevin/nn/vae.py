"""A convolutional variational autoencoder: images to small latents and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._registry import register
from ..distributions import Normal
from .backbone import check_image
from .layers import GROUP, Norm, integer, integers, zero
from .unet import conv


class Block(nn.Module):
    """x + conv(SiLU(GN(conv(SiLU(GN(x)))))), the last layer from zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(channels), conv(channels, channels)
        self.norm2, self.conv2 = Norm(channels), zero(conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


@register(
    "nn",
    "vae",
    title="Convolutional variational autoencoder",
    arxiv="1312.6114",
    proof="exact: tests/objectives/test_elbo.py; data: tests/training/test_vae.py",
)
class VAE(nn.Module):
    r"""Encoder and decoder of residual blocks, a halving between levels (arXiv:1312.6114).

    .. math:: q(z | x) = N(m(x), \mathrm{diag}\, v(x)), \quad p(z) = N(0, I), \quad p(x | z) = N(f(z), s^2 I)

    with one learned s. An untrained network has q(z | x) = p(z) and f = 0.

    Args:
        channels: C of the image.
        size: (height, width); any other size the halvings allow may be fed.
        latent: channels of the latents, ``(latent, height / 2^k, width / 2^k)`` with k halvings.
        width: channels at the full size are ``width · multipliers[0]``; a multiple of 8.
        multipliers: a factor a level; k is one less than their number.
        blocks: residual blocks a level.
    """

    name: ClassVar[str] = "vae"

    def __init__(
        self,
        channels: int = 3,
        *,
        size: Sequence[int] = (32, 32),
        latent: int = 4,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
    ) -> None:
        super().__init__()
        multipliers = integers("multipliers", multipliers, 1, 64, range(1, 11))
        height, wide = integers("size", size, 1, 2**14, range(2, 3))
        self._options: dict[str, Any] = {
            "channels": integer("channels", channels, 1, 10**4),
            "size": [height, wide],
            "latent": integer("latent", latent, 1, 10**4),
            "width": integer("width", width, GROUP, 2**12, multiple=GROUP),
            "multipliers": list(multipliers),
            "blocks": integer("blocks", blocks, 1, 64),
        }
        self.halvings = len(multipliers) - 1
        self.shape = (channels, height, wide)
        self.check_shape(self.shape)
        self.latent = (latent, height >> self.halvings, wide >> self.halvings)
        widths = [width * m for m in multipliers]
        stage = lambda c: [Block(c) for _ in range(blocks)]
        halve = lambda a, b: nn.Conv2d(a, b, 2, stride=2)
        double = lambda a, b: nn.Sequential(conv(a, b, 1), nn.Upsample(scale_factor=2.0))

        down: list[nn.Module] = [conv(channels, widths[0]), *stage(widths[0])]
        for a, b in itertools.pairwise(widths):
            down += [halve(a, b), *stage(b)]
        up: list[nn.Module] = [conv(latent, widths[-1]), *stage(widths[-1])]
        for a, b in itertools.pairwise(reversed(widths)):
            up += [double(a, b), *stage(b)]
        head = lambda c, out: [Norm(c), nn.SiLU(), zero(conv(c, out))]
        self.encoder = nn.Sequential(*down, *head(widths[-1], 2 * latent))
        self.decoder = nn.Sequential(*up, *head(widths[0], channels))
        self.log_std = nn.Parameter(torch.zeros(()))

    @property
    def config(self) -> dict[str, Any]:
        """Name and options, plain JSON: ``nn.create_network(network.config)`` is a network of the same shape."""
        return {"name": self.name, **self._options}

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``UserError`` if an image of this shape can't be taken."""
        channels, times = self._options["channels"], f"halved {self.halvings} times"
        check_image(shape, channels, 2**self.halvings, times)

    def encode(self, x: Tensor) -> Normal:
        """q(z | x) of images ``(B, C, H, W)``, over ``(B, *latent)``."""
        self.check_shape(tuple(x.shape[1:]))
        mean, log_variance = self.encoder(x.to(self.log_std.dtype)).float().chunk(2, 1)
        return Normal(mean, log_variance.exp())

    def decode(self, z: Tensor) -> Normal:
        """p(x | z) of latents ``(B, *latent)``, over ``(B, C, H, W)``."""
        return Normal(self.decoder(z.to(self.log_std.dtype)).float(), torch.exp(2 * self.log_std.float()))
