"""Pipelines of diffusers, saved once and loaded as models here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin.adapters import diffusers as adapter

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import small_pipelines as small  # noqa: E402

PROMPT, STEPS, SIZE = "a red apple on the sea", 5, 16
MADE: dict[str, Any] = {}


def pipeline(name: str, place: Path) -> Any:
    """A pipeline by its factory, saved once."""
    if name not in MADE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers advises on settings that are meant as they are
            MADE[name] = getattr(small, name)()
            small.save(MADE[name], place / name)
    return MADE[name]


def loaded(name: str, place: Path, **more: Any) -> Any:
    pipeline(name, place)
    more = {"size": SIZE, **more} if name == "flux" else more
    return adapter.load(place / name, **{"device": "cpu", **more})


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def latents(model: Any, n: int = 2) -> Tensor:
    return torch.randn((n, *model.shape), generator=drawn())
