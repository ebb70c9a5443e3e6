"""The scheduler of diffusers that a config is for: its own times, its bounds, and what is kept of ours beside it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, shown
from ..._registry import name_of
from ...samplers import GaussianRemainder, LearnedSolver, Sampler, create_sampler
from .classes import defaults, native_class
from .scheduler_config import FLOWS, Conventions

OURS = "_langevin"
"""The key of a config under which sampler and grid are kept; diffusers passes over keys that begin so."""


def clips(config: Mapping[str, Any]) -> bool:
    """Whether the config's own class keeps predicted data within ``clip_sample_range``."""
    return "clip_sample" in (defaults(native_class(config).__name__) or {}) and bool(config.get("clip_sample"))


def bounded(mean: Tensor, config: Mapping[str, Any]) -> Tensor:
    """x̂_0 as the config bounds it: dynamic thresholding (arXiv:2205.11487 §2.3), or clipping."""
    if config.get("thresholding"):
        sizes = mean.flatten(1).abs()
        s = torch.quantile(sizes, float(config.get("dynamic_thresholding_ratio", 0.995)), dim=1)
        s = s.clamp(1, max(1.0, float(config.get("sample_max_value", 1.0)))).reshape(-1, *[1] * (mean.ndim - 1))
        return mean.clamp(-s, s) / s
    if clips(config):
        most = float(config.get("clip_sample_range", 1.0))
        return mean.clamp(-most, most)
    return mean


def native_grid(config: Mapping[str, Any], units: Conventions, steps: int, mu: float | None) -> Tensor:
    """The times of the config's own scheduler, with the end it has: clean data, or its first level."""
    native: Any = native_class(config)
    own = native.from_config(dict(config))
    own.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
    asked = own.timesteps.double().unique_consecutive()  # some schedulers ask twice at a time
    sigmas = getattr(own, "sigmas", None)
    if sigmas is None or len(sigmas) != len(own.timesteps) + 1:
        to_data = float(getattr(own, "final_alpha_cumprod", 1.0)) == 1.0
        end = torch.zeros(1, dtype=torch.float64) if to_data else units.time(torch.zeros(1))
        times = units.time(asked)
        return torch.cat((times[times > end], end))
    # Its steps go by σ, which is rounded to float32; where it tells the network the same time, that one is exact.
    times = units.time_of_level(sigmas.double().unique_consecutive())
    if len(times) == len(asked) + 1:
        near = (units.timestep(times[:-1]) - asked).abs() < 1e-2
        times[:-1] = torch.where(near, units.time(asked), times[:-1])
    return times


def flow_levels(config: Mapping[str, Any], sigmas: Sequence[float], mu: float | None) -> Tensor:
    """σ of a flow as its Euler scheduler takes them: shifted and converted as the config says; the last is 0."""
    native: Any = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler
    settings = {key: value for key, value in config.items() if key in (defaults(native.__name__) or {})}
    settings.setdefault("shift", config.get("flow_shift", 1.0))
    own = native(**settings)
    own.set_timesteps(sigmas=list(sigmas), mu=mu)
    return own.sigmas.double()


def described(
    sampler: Sampler | str | None, grid: Tensor | str | None, guidance_scale: float | None
) -> dict[str, Any] | None:
    """What was chosen as plain JSON, or None for a sampler that has no such form."""
    found: dict[str, Any] = {} if grid is None else {"grid": grid if isinstance(grid, str) else grid.tolist()}
    if guidance_scale is not None:
        found["guidance_scale"] = guidance_scale
    if sampler is None:
        return found
    if isinstance(sampler, str):
        return {**found, "sampler": sampler}
    name = name_of("samplers", type(sampler))
    fields: tuple[Any, ...] = dataclasses.fields(sampler) if dataclasses.is_dataclass(sampler) else ()
    settings = {f.name: getattr(sampler, f.name) for f in fields if f.init}
    if name is None or not all(isinstance(v, (bool, int, float, str, type(None))) for v in settings.values()):
        return None
    return {**found, "sampler": name, "settings": settings}


def restored(kept: Any) -> tuple[Sampler | str | None, Any, float | None]:
    """Sampler, grid and guidance scale of what ``described`` wrote."""
    if kept is None:
        return None, None, None
    if not isinstance(kept, Mapping) or not isinstance(kept.get("sampler", ""), str):
        raise UserError(f"{OURS} must be a mapping with a sampler and a grid, got {shown(kept)}")
    sampler, settings = kept.get("sampler"), kept.get("settings")
    made = create_sampler(sampler, **settings) if sampler and settings else sampler
    return made, kept.get("grid"), kept.get("guidance_scale")


def remembered(
    config: dict[str, Any],
    sampler: Sampler | str | None,
    grid: Any,
    moments: Any,
    guidance_scale: float | None,
) -> tuple[Sampler | str | None, Any, float | None]:
    """What is named now, and for what is not what the config kept, which is taken out of it.

    Moments and a guidance scale are for the default solver: a kept sampler that takes none goes, and the grid that was
    chosen with it; a kept scale goes where another sampler is named. The grid ``"own"`` is the sampler's own, whatever
    was kept.
    """
    kept, times, scale = restored(config.pop(OURS, None))
    before = times
    if sampler is None and kept is not None and not (moments is None and guidance_scale is None):
        made = create_sampler(kept) if isinstance(kept, str) else kept
        kept, times = (kept, times) if isinstance(made, GaussianRemainder) else (None, None)
    if isinstance(sampler, LearnedSolver) and sampler.table is not None:
        times = None  # it has a grid of its own and takes no other
    if guidance_scale is None and sampler is None:
        guidance_scale = scale
    sampler, grid = kept if sampler is None else sampler, times if grid is None else grid
    grid = None if isinstance(grid, str) and grid == "own" else grid
    if before is not None and grid is None and config.get("_class_name") in FLOWS:
        config.pop("use_flow_sigmas", None)  # the scheduler said so of its grid, which it has no longer
    return sampler, grid, guidance_scale
