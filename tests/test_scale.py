"""The arithmetic of benchmarks/scale.py: counts by hand, and on the meta device as with numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from langevin.nn import create_network

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import scale


class Two(nn.Module):
    """Two convolutions around a square."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, int] = {}
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, x, time, condition=None):
        return self.two(self.one(x).square())


def test_counts_by_hand() -> None:
    """2·9·3·8 and 2·8·3 operations a pixel; x, what is squared and the square are kept, in 4 bytes."""
    found = scale.counted(Two(), (3, 10, 10))
    assert found.parameters == 9 * 3 * 8 + 8 * 3
    assert found.flops == 100 * 2 * (9 * 3 * 8 + 8 * 3)
    assert found.saved == 100 * 4 * (3 + 8 + 8)


def test_counting_needs_no_numbers() -> None:
    # Without attention, which keeps, and lets be counted, other things on other devices.
    config = {"name": "unet", "size": [16, 16], "width": 16, "multipliers": [1, 2], "blocks": 1, "attention": []}
    meta = scale.counted(create_network({**config, "conditions": {"label": 3}}), (3, 16, 16))
    real = scale.counted(create_network({**config, "conditions": {"label": 3}}), (3, 16, 16), device="cpu")
    assert meta == real


def test_estimate_by_hand() -> None:
    net = scale.Counted(parameters=10**8, flops=10**11, saved=10**8)
    settings = scale.Settings(
        devices=8, flops=1e14, utilisation=0.5, bandwidth=1e10, batch=80, images=800, samples=40, steps=10
    )
    found = scale.estimate(net, settings)
    assert found == pytest.approx(
        {
            "state": 24e8,
            "activations": 1e9,
            "step": 0.06,  # 3·1e11·80 of 4e14 a second
            "sent": 7e8,
            "network": 0.07,
            "hidden": 0.6,
            "exposed": 1.3,
            "sampling": 0.1,
        }
    )


def test_the_network_of_the_run_takes_no_memory() -> None:
    network = scale.for_run(64)
    assert all(p.device == torch.device("meta") for p in network.parameters())
