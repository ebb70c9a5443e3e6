"""Autoencoders of diffusers as codecs of this library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...distributions import Normal


class Codec(nn.Module):
    r"""``AutoencoderKL`` or ``VQModel``: images to scaled latents and back.

    .. math:: z = (\mathrm{latent} - \mathrm{shift}) · \mathrm{scale}

    is what denoisers of latents are trained on. p(x | z) has unit variance, as in the loss such autoencoders are
    trained with (arXiv:2112.10752); of a ``VQModel`` q(z | x) is a point, and what is decoded is quantised.

    Args:
        network: the model of diffusers.
        size: (height, width) of the images.
    """

    foreign = True

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        config: Mapping[str, Any] = network.config  # type: ignore[assignment]
        self.config = {"diffusers": type(network).__name__}
        scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        channels = int(config["latent_channels"])
        mean, std = config.get("latents_mean"), config.get("latents_std")
        ones = torch.ones(1, channels, 1, 1)
        scale = ones * scale if std is None else scale / torch.tensor(std).view(1, -1, 1, 1)
        shift = ones * shift if mean is None else torch.tensor(mean).view(1, -1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.scale: Tensor
        self.shift: Tensor
        factor = reduction(config)
        self.shape = (int(config["in_channels"]), *size)
        self.latent = (channels, size[0] // factor, size[1] // factor)

    def encode(self, x: Tensor) -> Normal:
        """q(z | x) of images ``(B, C, H, W)``, over ``(B, *latent)``."""
        found = self.network.encode(x.to(next(self.network.parameters()).dtype))  # type: ignore[operator]
        if hasattr(found, "latent_dist"):
            mean, variance = found.latent_dist.mean.float(), found.latent_dist.var.float()
        else:
            mean, variance = found.latents.float(), torch.zeros_like(found.latents.float())
        return Normal((mean - self.shift) * self.scale, variance * self.scale**2)

    def decode(self, z: Tensor) -> Normal:
        """p(x | z) of latents ``(B, *latent)``, over ``(B, C, H, W)``."""
        first = next(self.network.parameters())
        latent = (z / self.scale + self.shift).to(first.dtype)
        mean = self.network.decode(latent, return_dict=False)[0]  # type: ignore[operator]
        return Normal(mean.float(), 1.0)


def reduction(config: Mapping[str, Any]) -> int:
    """How many times smaller than the image each side of the latents is."""
    return int(2 ** (len(config["block_out_channels"]) - 1))
