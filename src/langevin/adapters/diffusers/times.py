"""The times of a run, as a pipeline asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, check_numbers, shown
from ..._registry import lookup
from ...samplers import GaussianRemainder, Sampler, default_grid
from .learned import LearnedPipelineSolver
from .native import flow_levels, native_grid
from .scheduler_config import Conventions, shifted


def check_mu(units: Conventions, config: Mapping[str, Any], mu: float | None) -> float | None:
    """The shift that is taken; flows without ``use_dynamic_shifting`` leave it aside, other processes refuse it."""
    if mu is None:
        return None
    check_numbers(mu=mu)
    if units.kind != "flow":
        raise UserError(f"mu must be left out: it shifts flows, and this is {units.process}; got {mu}")
    return float(mu) if config.get("use_dynamic_shifting") else None


def of_timesteps(units: Conventions, timesteps: Any, steps: int | None) -> Tensor:
    """The grid through timesteps, to clean data."""
    values = _falling("timesteps", timesteps, steps)
    grid = units.time(values)
    _check_inside("timesteps", values, (grid > 0) & (grid <= 1))
    return torch.cat((grid, torch.zeros(1, dtype=torch.float64)))


def of_sigmas(
    units: Conventions, config: Mapping[str, Any], sigmas: Any, steps: int | None, mu: float | None
) -> Tensor:
    """The grid through levels: those of a flow are shifted as the config says and end at 0, others have the end."""
    if units.kind == "flow":
        values = _falling("sigmas", sigmas, steps)
        _check_inside("sigmas", values, (values > 0) & (values <= 1))
        return flow_levels(config, values.tolist(), mu)
    values = _falling("sigmas", sigmas, None if steps is None else steps + 1)
    if len(values) < 2:
        raise UserError(f"sigmas must have the end too, 0 for clean data, got {values.tolist()}")
    _check_inside("sigmas", values, (values >= 0) & (values <= units.largest() * (1 + 1e-6)))
    return units.time_of_level(values)


def of_steps(
    units: Conventions,
    config: Mapping[str, Any],
    sampler: Sampler,
    grid: Tensor | str | None,
    steps: int | None,
    mu: float | None,
) -> Tensor:
    """The grid of a number of steps: the one that was given, the config's own, one by name, or the sampler's."""
    if isinstance(grid, Tensor):
        if steps is not None and steps != len(grid) - 1:
            raise UserError(f"num_inference_steps must be {len(grid) - 1}, the steps of the grid given, got {steps}")
        return grid
    steps = check_integer("num_inference_steps", steps, 1)
    if grid == "config":
        return native_grid(config, units, steps, mu)
    own = (
        sampler.default_grid(units.process, steps) if grid is None else lookup("grids", grid).make(units.process, steps)
    )
    times = default_grid(units.process, steps) if own is None else own
    known = isinstance(sampler, LearnedPipelineSolver) or (
        isinstance(sampler, GaussianRemainder) and sampler.frame is not None
    )
    return times if units.kind != "flow" or known else shifted(times, config, mu)


def _falling(name: str, values: Any, count: int | None) -> Tensor:
    """Numbers that fall strictly, float64 ``(n,)``."""
    try:
        found = torch.as_tensor(values, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} must be a list of numbers, got {shown(values)}") from None
    if found.ndim != 1 or not len(found) or not bool(found.isfinite().all()):
        raise UserError(f"{name} must be a list of finite numbers, got {shown(values)}")
    if count is not None and len(found) != count:
        raise UserError(f"{name} must be {count} numbers for the steps asked for, got {len(found)}")
    rise = (found.diff() >= 0).nonzero()
    if rise.numel():
        i = int(rise[0]) + 1
        raise UserError(f"{name} must fall strictly; {name}[{i}] = {found[i]:g} follows {found[i - 1]:g}")
    return found


def _check_inside(name: str, values: Tensor, inside: Tensor) -> None:
    if not bool(inside.all()):
        raise UserError(f"{name} must lie in the range the network was trained in, got {values[0]:g} to {values[-1]:g}")


def number_of(timestep: Any) -> tuple[float, float]:
    """A timestep as a number, and how far its dtype may have moved it."""
    value = torch.as_tensor(timestep)
    if not value.numel() or bool((value != value.flatten()[0]).any()):
        raise UserError("timestep must be one for all samples, got several")
    number = float(value.flatten()[0])
    return number, 1.0 - 1e-9 if not value.is_floating_point() else max(1e-3, slack_of(value) * abs(number))


def slack_of(timesteps: Tensor) -> float:
    """The relative rounding of timesteps of this dtype."""
    return torch.finfo(timesteps.dtype).eps if timesteps.is_floating_point() else 0.0
