"""Networks with the weights of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import nn
from .._errors import UserError
from ..storage import files


def load_network(file: Path, config: Any) -> torch.nn.Module:
    """The network of a configuration with the weights of a file, which are compared before either takes memory.

    Args:
        file: a safetensors file.
        config: name and options, as ``nn.create`` takes them.

    Raises:
        UserError: for a configuration that cannot be met, or a file that is damaged or of another network.
    """
    network: torch.nn.Module = nn.outline(config)
    files.fit(file, files.outline(file), network.state_dict())
    weights = files.read_safetensors(file)
    files.fit(file, weights, network.state_dict())  # the file may have been replaced
    if not files.is_finite(weights):
        raise UserError(f"{file} holds weights that are not finite")
    network.load_state_dict(weights, assign=True)
    return network
