"""A small network with random weights to code with, and images for it."""

from __future__ import annotations

import torch
from torch import Tensor

import langevin
from langevin import processes
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser


def network(shape: tuple[int, ...] = (1, 8, 8), levels: int = 17, seed: int = 0) -> NetworkDenoiser:
    """A small network with random weights: it believes something, and what it believes is wrong."""
    torch.manual_seed(seed)
    net = langevin.nn.create_network(
        {"name": "unet", "channels": shape[0], "size": shape[1:], "width": 8, "multipliers": (1, 2), "attention": ()}
    ).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return NetworkDenoiser(
        net, processes.VP(), AffineParameterization("v", 0.7), shape, data=DataInfo("made", shape, levels=levels)
    )


def smooth(n: int, shape: tuple[int, ...], levels: int, seed: int = 0) -> Tensor:
    """Levels of images that are brighter in one corner, with some noise."""
    ramp = torch.linspace(0, 1, shape[1])[:, None] + torch.linspace(0, 1, shape[2])
    noise = torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))
    return ((ramp / 2 * 0.8 + 0.2 * noise) * (levels - 1)).round().long()


def replace_data(data: DataInfo, **changes: object) -> DataInfo:
    return DataInfo(**{"name": data.name, "shape": data.shape, "levels": data.levels, **changes})  # type: ignore[arg-type]
