"""Tensors of a state dict, taken from under a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..._errors import UserError


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


def as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are kept here: real numbers in float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
