"""Small models that are told captions, and no longer return zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from langevin import processes
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.nn import DiT, UNet, encode_texts

LENGTH = 40


def captioned(
    kind: str = "dit", dtype: torch.dtype = torch.float64, size: float = 0.1, words: int = 1, **more: int
) -> NetworkDenoiser:
    """Of pictures 3×8×8; ``size`` is that of the random numbers added to the weights, ``more`` are other conditions."""
    text = {"width": 16, "depth": 1 + words, "heads": 2, "words": words}
    settings = {"conditions": {"caption": LENGTH, **more}, "text": text}
    torch.manual_seed(0)
    network: torch.nn.Module
    if kind == "unet":
        network = UNet(3, size=(8, 8), width=16, multipliers=(1, 2), blocks=1, attention=(8, 4), **settings)  # type: ignore[arg-type]
    else:
        network = DiT(3, patch=2, width=16, depth=2, heads=2, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape))
    data = DataInfo(name="captioned", shape=(3, 8, 8), levels=256, conditions={"caption": (LENGTH,)})
    read = AffineParameterization("edm")
    return NetworkDenoiser(network.to(dtype).eval(), processes.EDM(), read, (3, 8, 8), data=data)


def told(*captions: str) -> Tensor:
    """Their tokens."""
    return encode_texts(captions, LENGTH)
