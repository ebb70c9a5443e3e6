"""The scheduler in the loop of a pipeline, around a smooth function of the state and of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import langevin
import small_pipelines as small
from langevin import Noise
from langevin.adapters.diffusers.scheduler_config import Conventions, prediction_of

SHAPE = (2, 3, 4)
CONFIG = {**small.SD_TABLE, "clip_sample": False, "_class_name": "DDIMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}

MIX = torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 24**0.5


def network(x: Tensor, time: Tensor) -> Tensor:
    """A smooth function of the state and of the time, in float64."""
    phase = time.double().reshape(-1, 1) / 300
    return torch.sin(x.double().flatten(1) @ MIX + phase).reshape(x.shape).to(x.dtype)


def start(n: int = 3, seed: int = 1) -> Tensor:
    return Noise(seed, n).normal(SHAPE)


def walk(scheduler: Any, x: Tensor, first: int = 0, touch: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
    """The loop of a pipeline."""
    generator = torch.Generator().manual_seed(7)
    for i, t in enumerate(scheduler.timesteps[first:]):
        out = network(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(out, t, x, generator=generator, return_dict=False)[0]
        x = touch(i, x) if touch else x
    return x


def ours(config: dict[str, Any]) -> langevin.Denoiser:
    """The same network as a denoiser of this library."""
    units = Conventions.of(config)
    return langevin.denoiser(
        network if units.kind == "table" else lambda x, t: network(x, 1000 * t),
        process=units.process,
        prediction=prediction_of(config),
        shape=SHAPE,
        time="index" if units.kind == "table" else "t",
        dtype=torch.float64,
    )
