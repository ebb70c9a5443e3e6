"""A tiny data set with every condition, and a tiny model that takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import langevin
from langevin.data import DataInfo
from langevin.denoisers import NetworkDenoiser
from langevin.nn.text import encode_texts
from langevin.training import Config, NetworkConfig, build, resolve_config

NAMES = ("label", "caption", "image", "mask", "vector")
SHAPES = {"label": (), "caption": (10,), "image": (1, 4, 4), "mask": (1, 8, 8), "vector": (2,)}


def data_file(path: Path, count: int = 120, names: tuple[str, ...] = NAMES) -> Path:
    """Images 8x8 of noise with a label, a caption, a small image, a mask and a vector."""
    g = np.random.default_rng(0)
    held: dict[str, np.ndarray] = {
        "label": np.arange(count) % 3,
        "caption": encode_texts([None if i % 5 == 0 else f"number {i % 10}" for i in range(count)], 10).numpy(),
        "image": g.integers(0, 256, (count, 4, 4), dtype=np.uint8),
        "mask": (g.random((count, 8, 8)) < 0.5).astype(np.float32),
        "vector": g.normal(size=(count, 2)).astype(np.float32),
    }
    x = g.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    np.savez(path, **{"x": x, **{name: held[name] for name in names}})  # type: ignore[arg-type]
    return path


def described(names: tuple[str, ...] = NAMES) -> DataInfo:
    """What such data say of themselves, without moments."""
    beside = {name: SHAPES[name] for name in names if name != "label"}
    classes = ("0", "1", "2") if "label" in names else ()
    info = DataInfo(name="beside", shape=(1, 8, 8), classes=classes, levels=256, conditions=beside)
    flat = torch.full((64,), 1 / 3, dtype=torch.float64)
    return replace(info, mean=torch.zeros(64, dtype=torch.float64), cov=flat.diag())


def untrained(names: tuple[str, ...] = NAMES, **settings: Any) -> NetworkDenoiser:
    """A DiT in float32 that no longer returns zeros, so that every condition matters."""
    info = described(names)
    options: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
    if "caption" in names:
        options["text"] = {"width": 16, "depth": 1, "heads": 2}
    torch.manual_seed(0)
    config = resolve_config(Config(network=NetworkConfig("dit", options), **settings), info)
    denoiser = build(config, info)[0]
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    made = replace(denoiser, network=denoiser.network.eval(), config={"steps": 0, "config": config.to_dict()})
    assert dict(made.condition_sizes) == info.condition_sizes
    return made


def conditions(count: int, names: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    """One of each for each sample."""
    g = torch.Generator().manual_seed(3)
    held = {
        "label": torch.arange(count) % 3,
        "caption": encode_texts([f"{i} red" for i in range(count)], 10),
        "image": torch.rand(count, 1, 4, 4, generator=g) * 2 - 1,
        "mask": (torch.rand(count, 1, 8, 8, generator=g) < 0.5).float(),
        "vector": torch.randn(count, 2, generator=g),
    }
    return {name: held[name] for name in names}


def saved(path: Path, model: NetworkDenoiser | None = None) -> Path:
    """Such a model as a directory."""
    langevin.models.save(untrained() if model is None else model, path)
    return path
