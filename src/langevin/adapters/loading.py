"""``langevin.load``: the model of a directory, whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import models
from .._errors import UserError, check_path
from ..denoisers.noisy import NoisyDataModel
from ..models.directory import as_denoiser
from ..models.low_rank import is_lora, load_lora
from ..models.with_learned import with_learned
from .clip import is_clip
from .clip import load as load_clip
from .diffusers.directory import is_diffusers
from .hub import find

K = TypeVar("K", bound=NoisyDataModel)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
    ema: float | None = None,
    step: int | None = None,
) -> Any:
    """The model of a directory or of a repository of the Hub: this library's own, one of diffusers, or CLIP's weights.

    Nothing is unpickled and no code of it runs: JSON, vocabularies and safetensors are read, and checked against each
    other.

    Args:
        path: a directory as ``models.save`` or a training run writes it, or a pipeline or network of diffusers (see
            :func:`langevin.adapters.diffusers.load`, which takes more settings), or a CLIP model of transformers, which
            is a contrastive encoder; if there is none of that name,
            ``owner/name`` or ``owner/name@revision`` on the Hub. Of a LoRA (``langevin train --lora``) it is the model
            that the LoRA was trained on, with the LoRA merged into its weights.
        device: where the network goes; a CUDA device if there is one, else the CPU, if not given.
        revision: of a repository: a branch, a tag or a commit.
        base: of a LoRA, where the model is that it was trained on, if that is no longer where it was.
        ema: of a run that stored averages of its weights (``langevin train --ema.snapshots``): the length σ_rel in
            (0, 0.28] of the moving average that the weights are to be, whatever length the run was trained with (see
            :mod:`langevin.training.posthoc_ema`). What was learned for the model as it is kept is left out.
        step: with ``ema``: the step of training after which the average is taken; the last one stored if not given.

    Raises:
        UserError: if a file is missing, damaged, of an unknown format, or contradicts another; it names the file.
    """
    if ema is not None:
        return _with_ema(path, device, revision, base, ema, step)
    if step is not None:
        raise UserError(f"step says when an average of another length is taken; give ema too, got step {step!r}")
    check_path("path", path)
    name = os.fspath(path)
    if revision is None and not os.path.exists(name) and "@" in name:
        name, _, revision = name.partition("@")
    folder = find(name, revision)
    if is_lora(folder):
        where = None if base is None else os.fspath(base)
        return with_learned(load_lora(folder, lambda path: load(path, device=device), where), folder)
    if base is not None:
        raise UserError(f"base is for a LoRA, but {name} holds a whole model")
    if is_diffusers(folder):
        from .diffusers.loading import load as load_diffusers

        return load_diffusers(folder, device=device)
    if is_clip(folder):
        return load_clip(folder, device=device)
    return models.load(folder, device=device)


def _with_ema(
    path: str | os.PathLike[str],
    device: torch.device | str | None,
    revision: str | None,
    base: str | os.PathLike[str] | None,
    ema: float,
    step: int | None,
) -> Any:
    """``load``, with an average of another length as the weights."""
    from ..training.posthoc_ema import with_ema

    model = load(path, device=device, revision=revision, base=base)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"ema needs the directory of a run on this machine, with its stored averages; got {path}")
    return with_ema(model, folder, ema, step)


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


def load_kind(place: str, kind: type[K], name: str, *, device: torch.device | str | None = None) -> K:
    """A model of one kind, such as a classifier that is to guide.

    Args:
        place: as ``load`` takes it.
        kind: of ``NoisyDataModel``, whose ``what`` says what it is.
        name: of the argument, for messages.
        device: where the network goes.

    Raises:
        UserError: as ``load``, and for a model of another kind.
    """
    found = load(place, device=device)
    if not isinstance(found, kind):
        raise UserError(f"{name} must be {kind.what}, but {place} holds {type(found).__name__}")
    return found
