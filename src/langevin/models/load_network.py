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


def load_network(file: Path, config: Any) -> torch.nn.Module:
    """The network of a configuration with the weights of a file, which are compared before either takes memory.

    Args:
        file: a safetensors file.
        config: name and options, as ``nn.create_network`` takes them.

    Raises:
        UserError: for a configuration that cannot be met, or a file that is damaged or of another network.
    """
    files.fit(file, files.outline(file), nn.outline(config).state_dict())
    return filled(config, files.read_safetensors(file), file)


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
