"""``langevin.load``: the model of a directory, whoever wrote it."""

from __future__ import annotations

import os
from typing import Any

import torch

from .. import models
from .._errors import check_path
from ..models.directory import as_denoiser
from .diffusers.directory import is_diffusers
from .hub import find


def load(path: str | os.PathLike[str], *, device: torch.device | str | None = None, revision: str | None = None) -> Any:
    """The model of a directory or of a repository of the Hub: this library's own, or one of diffusers.

    Nothing is unpickled and no code of it runs: JSON, vocabularies and safetensors are read, and checked against each
    other.

    Args:
        path: a directory as ``models.save`` or a training run writes it, or a pipeline or network of diffusers (see
            :func:`langevin.adapters.diffusers.load`, which takes more settings); if there is none of that name,
            ``owner/name`` on the Hub.
        device: where the network goes; a CUDA device if there is one, else the CPU, if not given.
        revision: of a repository: a branch, a tag or a commit.

    Raises:
        UserError: if a file is missing, damaged, of an unknown format, or contradicts another; it names the file.
    """
    check_path("path", path)
    folder = find(os.fspath(path), revision)
    if is_diffusers(folder):
        from .diffusers.loading import load as load_diffusers

        return load_diffusers(folder, device=device)
    return models.load(folder, device=device)


def load_denoiser(path: str | os.PathLike[str], *, own: bool = True, device: torch.device | str | None = None) -> Any:
    """``models.load_denoiser``, of a pipeline of diffusers too."""
    return as_denoiser(load(path, device=device), path, own=own)


def load_network(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Any:
    """The model of a directory for what acts on a network's belief: a denoiser of a network, or of codes by one.

    Raises:
        UserError: as ``load``, and for a model of another kind.
    """
    model = load_denoiser(path, own=False, device=device)
    as_denoiser(model.belief_of if model.autoencoder is not None else model, path, own=True)
    return model
