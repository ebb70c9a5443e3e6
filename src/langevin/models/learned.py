"""Where what is learned of a model is kept, and whether it is of the model as it is."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FOLDER = "langevin"
"""What is kept of a pipeline of diffusers lies in a folder of this name, beside its components."""

PLACES = ("", "denoiser/", f"{FOLDER}/")
"""Where solvers and variances lie in a directory: of a model, of a latent model, of a pipeline."""

NUMBERS = 16
"""Weights of each parameter that a checksum is of: any training changes them all."""


def is_foreign(model: Any) -> bool:
    """Whether a model is a pipeline of diffusers, whose files are not changed."""
    return "diffusers" in model.config


def place(folder: Path, model: Any) -> Path:
    """Where solvers and variances of a model are kept, from which ``langevin.load`` reads them.

    Args:
        folder: of the model, as it was loaded.
        model: a denoiser of a network or a latent model.
    """
    if is_foreign(model):
        return folder / FOLDER
    return folder / "denoiser" if model.autoencoder is not None else folder


def stamp(model: Any) -> dict[str, Any]:
    """What tells a model from what it was: its steps of training, and for want of these a checksum of its weights.

    A pipeline is loaded for images of any size, so that its shape belongs to it.
    """
    steps = model.config.get("steps")
    made: dict[str, Any] = {"trained_steps": None if steps is None else int(steps)}
    if not is_foreign(model):
        return made
    return {**made, "weights": checksum(model.network), "shape": list(model.shape)}


def checksum(network: torch.nn.Module) -> str:
    """SHA-256 of the names and the first numbers of all parameters, as float32."""
    found = hashlib.sha256()
    for name, parameter in sorted(network.state_dict().items()):
        numbers = parameter.detach().reshape(-1)[:NUMBERS].to("cpu", torch.float32)
        found.update(name.encode() + numbers.numpy().tobytes())
    return found.hexdigest()


def is_current(path: Path, made: Mapping[str, Any], now: Mapping[str, Any], again: str) -> bool:
    """Whether what was learned is of the model as it is; if not, a warning says so.

    Args:
        path: of the file or the directory that holds it.
        made: its stamp.
        now: that of the model.
        again: what to do, for the warning.
    """
    then, steps = made.get("trained_steps"), now.get("trained_steps")
    if then != steps:
        why = f"after {then} steps of training, the model has had {steps}"
    elif made.get("weights") != now.get("weights"):
        why = "for other weights"
    elif made.get("shape") != now.get("shape"):
        why = f"for states of shape {made.get('shape')}, the model's are {now.get('shape')}"
    else:
        return True
    warnings.warn(f"{path} was learned {why}: it is not used; {again}", stacklevel=4)
    return False
