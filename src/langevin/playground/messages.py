"""Numbers of a page to numbers here and back: what a request may hold, and arrays as text."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import samplers
from .._errors import UserError, shown, unknown
from .._registry import methods
from ..processes import Process


def packed(x: Tensor) -> dict[str, Any]:
    """An array for a page: its shape, and its numbers as base64 of float32 or uint8, little-endian."""
    kind = "uint8" if x.dtype == torch.uint8 else "float32"
    array = x.detach().cpu().contiguous()
    data = (array if kind == "uint8" else array.float()).numpy()
    return {"shape": list(x.shape), "kind": kind, "data": base64.b64encode(data.tobytes()).decode()}


SPECIAL = ("learned", "jump", "boomerang", "splitting", "mala", "denoising-mcmc")
"""Samplers that need more than a belief and noise: a solver that was learned, a model of one step, a start, the parts
of a guided model, a density."""


def titles(process: Process) -> dict[str, str]:
    """The samplers that draw from noise under a process, given nothing else, by name with their titles."""
    found = {}
    for row in methods("samplers"):
        with contextlib.suppress(UserError):  # it needs a measurement, a setting, or another process
            samplers.create_sampler(row.name).check(process)
            if row.name not in SPECIAL:
                found[row.name] = row.title
    return found


FAMILIES = {
    "linear.multistep": "Multistep: an evaluation a step",
    "linear.pndm": "Multistep: an evaluation a step",
    "linear.taylor": "Multistep: an evaluation a step",
    "linear": "Euler, DDIM, ancestral",
    "runge_kutta": "Runge–Kutta: several evaluations a step",
    "sde": "Reverse SDE",
    "mcmc": "Langevin dynamics",
}
"""What samplers of a module are called together; of two that fit, the first."""


def families() -> dict[str, str]:
    """The family of each sampler, by its name."""
    found = {}
    for row in methods("samplers"):
        module = row.make.__module__.removeprefix("langevin.samplers.")
        family = next((title for part, title in FAMILIES.items() if f"{module}.".startswith(f"{part}.")), None)
        if family is not None:
            found[row.name] = family
    return found


def whole(given: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    """An integer of a request.

    Raises:
        UserError: if it is none, or not in least … most.
    """
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
        raise UserError(f"{name} must be a whole number, got {shown(value)}")
    if not least <= value <= most:
        raise UserError(f"{name} must be in {least}…{most}, got {shown(value)}")
    return int(value)


def number(given: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number of a request.

    Raises:
        UserError: if it is none, or not in least … most.
    """
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {shown(value)}")
    if not least <= value <= most:
        raise UserError(f"{name} must be in {least:g}…{most:g}, got {shown(value)}")
    return float(value)


def choice(given: Mapping[str, Any], name: str, default: str, known: Collection[str]) -> str:
    """One of several names.

    Raises:
        UserError: for another, with the nearest.
    """
    value = given.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise unknown(name, str(value), known)
    return value
