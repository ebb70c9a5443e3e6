"""Tensors of a state dict, taken from under a prefix and put into a network of ``langevin.nn``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import nn
from ..._errors import UserError
from ...storage import files


def below(tensors: Mapping[str, Tensor], mark: str, file: Path, what: str) -> tuple[str, dict[str, Tensor]]:
    """The prefix under which a network lies, and its tensors without it; that of a moving average comes first.

    Args:
        tensors: of a state dict.
        mark: a name, as a pattern, that every network of this kind has.
        file: for messages.
        what: kind of network, for messages.

    Raises:
        UserError: if there is none.
    """
    found = [match[1] for name in tensors if (match := re.fullmatch(rf"((?:.*\.)?){mark}", name))]
    if not found:
        first = ", ".join(list(tensors)[:3])
        raise UserError(f"{file} holds no {what}: no tensor is called {mark}; its tensors are {first} …")
    prefix = min(found, key=lambda name: ("ema" not in name, len(name)))
    return prefix, {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int, file: Path) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
        UserError: if it is not there, or has another number of axes.
    """
    if name not in tensors or tensors[name].ndim != axes:
        got = f"of shape {tuple(tensors[name].shape)}" if name in tensors else "missing"
        raise UserError(f"{file}: {name} must be a tensor of {axes} axes, and is {got}")
    return tuple(tensors[name].shape)


def filled(config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> Any:
    """The network of a configuration with these weights, in float32.

    Raises:
        UserError: for a configuration that cannot be met, or weights of another network, or that are not finite.
    """
    weights = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    network = nn.outline(config)
    files.fit(file, weights, network.state_dict())
    if not files.is_finite(weights):
        raise UserError(f"{file} holds weights that are not finite")
    network.load_state_dict(weights, assign=True)
    return network.eval()
