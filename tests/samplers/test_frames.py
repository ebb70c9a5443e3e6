"""From ``langevin.sample`` to the network there is nothing but the loop, the step and the reading of the network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import langevin
from langevin import processes, samplers
from langevin.denoisers import AffineParameterization, NetworkDenoiser

SOURCE = Path(langevin.__file__).parent


class Watcher(nn.Module):
    """A network that answers zero, and writes down the frames of the library between ``sample`` and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, ...]] = []

    def forward(self, x, time, condition):
        between, frame = [], sys._getframe(1)
        while frame.f_code is not samplers.sample.__code__:
            if SOURCE in Path(frame.f_code.co_filename).parents:
                between.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name)
            frame = frame.f_back
        self.seen.append(tuple(reversed(between)))
        return x * self.weight


SAMPLERS = {
    "default": None,
    "ddim": samplers.DDIM(),
    "dpmpp-2m": samplers.create_sampler("dpmpp-2m"),
    "unipc": samplers.create_sampler("unipc"),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_three_frames_to_the_network(sampler):
    """The loop, the step and the denoiser: whoever reads how a sample is made crosses three functions."""
    network = Watcher()
    denoiser = NetworkDenoiser(network, processes.VP(), AffineParameterization("eps"), (4,))
    langevin.sample(denoiser, SAMPLERS[sampler], n=2, steps=4)
    assert len(network.seen) >= 4
    for loop, step, call in network.seen:
        assert loop.endswith("trajectory")
        assert step.endswith("step")
        assert call.endswith("__call__")
