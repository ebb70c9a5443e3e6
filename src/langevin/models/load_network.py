"""Networks with the weights of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import nn
from .._errors import UserError
from ..storage import files

HALF = (torch.float16, torch.bfloat16)
"""What weights may be kept in: a value of either is one of float32."""


def load_network(file: Path, config: Any) -> torch.nn.Module:
    """The network of a configuration with the weights of a file, which are compared before either takes memory.

    Args:
        file: a safetensors file.
        config: name and options, as ``nn.create_network`` takes them.

    Raises:
        UserError: for a configuration that cannot be met, or a file that is damaged or of another network.
    """
    wanted = nn.outline(config).state_dict()
    files.fit(file, widened(files.outline(file), wanted), wanted)
    return filled(config, widened(files.read_safetensors(file), wanted), file)


def widened(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, those that are kept in half precision as float32, exactly, where the network computes so."""
    half = lambda name, v: v.dtype in HALF and name in wanted and wanted[name].dtype == torch.float32
    return {name: v.float() if half(name, v) else v for name, v in tensors.items()}


def filled(config: Any, weights: Mapping[str, Tensor], file: Path) -> Any:
    """The network of a configuration with weights that were read of a file, in evaluation mode.

    Raises:
        UserError: for weights of another network, or that are not finite.
    """
    network: torch.nn.Module = nn.outline(config)
    files.fit(file, weights, network.state_dict())  # the file may have been replaced since its header was read
    if not files.is_finite(weights):
        raise UserError(f"{file} holds weights that are not finite")
    network.load_state_dict(dict(weights), assign=True)
    return network.eval()
