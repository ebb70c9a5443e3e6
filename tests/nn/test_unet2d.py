"""The U-Net of DDPM against diffusers' own, weight for weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import UserError
from langevin.nn import UNet2D, create_network, default
from langevin.nn.unet2d import as_diffusers

CASES: dict[str, dict[str, Any]] = {
    "plain": {"channels": 3, "size": (8, 8), "width": 16, "multipliers": (1, 2), "head": 8},
    "attention": {
        "channels": 2,
        "out_channels": 4,
        "size": (8, 16),
        "width": 8,
        "multipliers": (2, 1, 3),
        "blocks": 2,
        "attention": (8, 2),
        "head": 8,
        "groups": 4,
    },
    "classes": {"channels": 1, "size": (4, 4), "width": 16, "multipliers": (1,), "head": 4, "conditions": {"label": 5}},
}


def awake(name: str, **more: Any) -> UNet2D:
    torch.manual_seed(0)
    network = UNet2D(**{"time_range": (0, 999), **CASES[name], **more}).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def inputs(network: UNet2D) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, network.config["channels"], *network.config["size"], generator=g, dtype=torch.float64)
    return x, torch.tensor([0.0, 17.5, 999.0], dtype=torch.float64)


@pytest.mark.parametrize("name", list(CASES))
def test_parity(name: str) -> None:
    """The same weights give the same output, in float64: its sums are in another order, a thousand ulps at most.

    The sinusoids of the time alone are float32 in both, and equal to the bit.
    """
    diffusers = pytest.importorskip("diffusers")
    network = awake(name)
    config, weights = as_diffusers(network)
    peer = diffusers.UNet2DModel.from_config(config).double().eval()
    peer.load_state_dict(weights)  # one to one: none is missing, none is left
    x, time = inputs(network)
    if "conditions" in CASES[name]:
        label = torch.tensor([0, -1, 4])
        ours = network(x, time, {"label": label})
        theirs = peer(x, time, class_labels=torch.tensor([0, 5, 4])).sample
    else:
        ours, theirs = network(x, time), peer(x, time).sample
    assert float(ours.detach().std()) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_narrow_labels_are_stretched() -> None:
    """t in [0, 1] is what 1000 t is, which flows of diffusers are told."""
    wide, narrow = awake("plain", time_range=(0, 1000)), awake("plain", time_range=(0, 1))
    x, _ = inputs(wide)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(narrow(x, t), wide(x, 1000 * t))


def test_defaults_and_refusals() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 12, 20)):
        made = create_network(default(shape, {"label": 3}, name="unet2d"))
        assert made(torch.zeros(1, *shape), torch.zeros(1)).shape == (1, *shape)
    with pytest.raises(UserError, match="head must divide the channels where there is attention, 16, got 12"):
        UNet2D(width=16, multipliers=(1, 1), head=12)
    with pytest.raises(UserError, match="vector"):
        UNet2D(conditions={"vector": 3})
    with pytest.raises(UserError, match="width must be a multiple of 8"):
        UNet2D(width=12)
    with pytest.raises(UserError, match="sizes must be divisible by 4"):
        UNet2D(size=(30, 32))
