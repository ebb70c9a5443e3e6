"""A network compiled once and replayed at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from .base import Denoiser
from .network import NetworkDenoiser


class Compiled(nn.Module):
    """``network`` under ``torch.compile``; what it returns is not overwritten by the next replay."""

    def __init__(self, network: nn.Module, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        # Not a child: the compiled module has the network's parameters, which would be there twice.
        self.__dict__["call"] = torch.compile(network, **options)

    @property
    def config(self) -> Any:
        """The configuration of the network inside."""
        return getattr(self.network, "config", {})

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        out: Tensor = self.__dict__["call"](x, time, condition)
        return out.clone()


def compiled(denoiser: Denoiser, **options: Any) -> Denoiser:
    """The same belief, its network compiled by ``torch.compile``.

    On a GPU the default mode is ``reduce-overhead``, which replays the network's kernels as one CUDA graph. The first
    call for a shape takes as long as compiling does; the loop around it makes no host–device synchronisation.

    Args:
        denoiser: of a network.
        options: for ``torch.compile``: mode, backend, dynamic, ….

    Raises:
        ValueError: for a denoiser without a network of its own.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        raise UserError(f"denoiser must be a NetworkDenoiser to be compiled, got {type(denoiser).__name__}")
    if denoiser.device.type == "cuda" and not options:
        options = {"mode": "reduce-overhead"}
    return replace(denoiser, network=Compiled(denoiser.network, options))
