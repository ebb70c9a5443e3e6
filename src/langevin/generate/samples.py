"""Samples, with the record of how they were drawn."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import denoisers, processes, samplers
from .._errors import UserError
from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers.conditions import as_labels, asked_conditions
from ..distributions import Noise
from ..models.conditional import bind
from ..samplers import Plan
from ..samplers.sampling import check_memory
from .environment import versions


@dataclass(frozen=True)
class Recipe:
    """How samples are drawn: what can be named in words, so that a command can ask for it again.

    Args:
        sampler: registered name; if not given, one learned for the model, else the default sampler of the process.
        options: settings of the sampler.
        steps: steps of the grid; 10 if not given.
        grid: registered name of a grid; the sampler's or the process's own if not given.
        process: registered name of a process to sample in, at equal log-SNR; the model's own if not given.
        guidance_scale: w of classifier-free guidance; 1 is the plain conditional model.
        variance: of the belief, by name (see ``denoisers.with_variance``), read by ancestral sampling; the model's own
            if not given.
        seed: of the noise.
        batch: how many samples are carried at a time; it changes nothing but speed and memory.
    """

    sampler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    grid: str | None = None
    process: str | None = None
    guidance_scale: float = 1.0
    seed: int = 0
    batch: int = 256
    variance: str | None = None

    def words(self) -> list[str]:
        """The options of ``langevin sample`` that ask for this, without those at their default."""
        found: list[str] = []
        plain = Recipe()
        for option in ("sampler", "process", "steps", "grid", "guidance_scale", "variance", "seed"):
            value = getattr(self, option)
            if value != getattr(plain, option):
                found += [f"--{option.replace('_', '-')}", f"{value}"]
        if self.options:
            found.append("--sampler-options")
            for key, value in self.options.items():
                found += [key, value if isinstance(value, str) else json.dumps(value)]
        return found


@dataclass(frozen=True)
class Samples:
    """Samples.

    Args:
        x: float32 ``(n, *shape)`` on the CPU, clipped to the range of the data; int64 for tokens.
        label: int64 ``(n,)``, what was asked for; None if the model takes no label.
        evaluations: network evaluations a sample, counted by the denoiser; a guided step counts both its parts.
        seconds: on the clock.
        record: what was run, as plain JSON.
    """

    x: Tensor
    label: Tensor | None
    evaluations: int
    seconds: float
    record: dict[str, Any]


def within(
    model: NetworkDenoiser,
    recipe: Recipe,
    tolerance: float,
    n: int,
    *,
    given: Mapping[str, Any] | None = None,
    trying: Callable[[int], None] | None = None,
) -> tuple[Recipe, samplers.Chosen]:
    """The recipe with the fewest steps whose error of the path is estimated to be at most ``tolerance``, and why.

    It names its sampler, so that one learned for these steps, whose error is another, does not take its place.

    Args:
        model: as ``langevin.load`` gives it.
        recipe: without steps.
        tolerance: see ``samplers.choose_steps``.
        n: samples that are to be drawn, for conditions that are one each.
        given: conditions, as of ``generate``.
        trying: called with each number of steps before it is tried.

    Raises:
        UserError: for a recipe that has steps or draws noise on its way, and as ``samplers.choose_steps``.
    """
    if recipe.steps is not None:
        raise UserError(f"tolerance chooses the steps: give one of them, got {tolerance} and {recipe.steps} steps")
    if recipe.variance is not None or recipe.sampler == "learned":
        what = "a variance" if recipe.variance is not None else "a learned solver, which is made for its own steps"
        raise UserError(f"tolerance needs a sampler that draws no noise and takes any number of steps, got {what}")
    if recipe.sampler is None and recipe.options:
        raise UserError(f"sampler-options are settings of a named sampler, got {dict(recipe.options)} and no sampler")
    condition = asked_conditions(model.condition_sizes, n, given)
    denoiser = in_process(bind(model, condition, recipe.guidance_scale), recipe)
    named = None if recipe.sampler is None else samplers.create_sampler(recipe.sampler, **recipe.options)
    chosen = samplers.choose_steps(denoiser, tolerance, named, grid=recipe.grid, n=n, seed=recipe.seed, trying=trying)
    return replace(recipe, steps=chosen.steps, sampler=recipe.sampler or "remainder"), chosen


def generate(
    model: NetworkDenoiser,
    recipe: Recipe,
    n: int,
    *,
    given: Mapping[str, Any] | None = None,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
    guide: Callable[[NetworkDenoiser, Mapping[str, Any]], tuple[Denoiser, Plan]] | None = None,
) -> Samples:
    """Draw samples of a model.

    Sample i is a function of (model, recipe, label, i): to the bit where it stands in a full batch that begins at the
    same index, and to the rounding of the network in another (how a matrix product adds depends on its size).

    Args:
        model: as ``langevin.load`` gives it.
        recipe: how.
        n: how many, at least 1.
        given: conditions by name, for all samples or ``(n, …)`` one each; a model that takes labels and is given none
            and no text is asked for its labels 0…K−1 in turn, and all else that is not given is absent.
        first: index of the first of them, of its noise and, in turn, of its label.
        progress: called as ``progress(done, total)``.
        guide: what makes a denoiser and its plan of the model and the conditions of all samples, by name;
            classifier-free guidance of the recipe's scale, and ``plan`` of it, if not given.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UserError(f"n must be an integer of at least 1, got {n!r}")
    check_memory(n, model)
    model = model.counted()
    condition = asked_conditions(model.condition_sizes, n, given, first)
    if guide is None:
        denoiser = in_process(bind(model, condition, recipe.guidance_scale), recipe)
        how = plan(denoiser, recipe)
    else:
        denoiser, how = guide(model, condition)
    if recipe.variance is not None:
        denoiser = denoisers.with_variance(denoiser, recipe.variance)
    begun = time.perf_counter()
    x = samplers.sample(
        denoiser,
        how,
        noise=Noise(recipe.seed, torch.arange(first, first + n)),
        batch=recipe.batch,
        progress=progress,
    )
    seconds = time.perf_counter() - begun
    evaluations = model.counter.calls // math.ceil(n / recipe.batch)
    record = {
        "n": n,
        "label": _said(condition, given),
        **({"given": beside} if (beside := [name for name in condition if name != "label"]) else {}),
        "sampler": recipe.sampler or ("ancestral" if recipe.variance else "learned" if how.learned else "default"),
        "rule": repr(how.sampler),
        "process": repr(denoiser.process),
        "grid": recipe.grid or "default",
        "steps": how.steps,
        "evaluations": evaluations,
        # A guidance of one's own has scales of its own, which the caller records.
        **({"guidance_scale": recipe.guidance_scale} if guide is None else {}),
        "variance": recipe.variance,
        "seed": recipe.seed,
        "batch": recipe.batch,
        "seconds": round(seconds, 3),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
    }
    label = as_labels(condition["label"]).long().expand(n).contiguous() if "label" in condition else None
    return Samples(_clipped(model, x), label, evaluations, seconds, record)


def _said(condition: Mapping[str, Any], given: Mapping[str, Any] | None) -> int | str | None:
    """What a record says of the labels."""
    if "label" not in condition:
        return None
    label = (given or {}).get("label")
    return "in turn" if label is None else label if isinstance(label, int) else "given"


def plan(denoiser: Denoiser, recipe: Recipe) -> Plan:
    """The sampler and the times that a recipe names, with the defaults of this denoiser.

    Raises:
        UserError: for names and settings that do not go together, or a learned solver that there is not.
    """
    name = recipe.sampler
    if name is None and recipe.options:
        raise UserError(f"sampler-options are settings of a named sampler, got {dict(recipe.options)} and no sampler")
    named = None if name in (None, "learned") else samplers.create_sampler(str(name), **recipe.options)
    if recipe.variance is not None:
        named = samplers.Ancestral() if name is None else named
        if not isinstance(named, samplers.Ancestral) or named.belief is not denoisers.identity:
            raise UserError(f"variance is read by the sampler 'ancestral' (DDIM's steps by its eta), not by {name!r}")
    if name == "learned" and recipe.grid is not None:
        raise UserError(f"sampler 'learned' has a grid of its own, got {recipe.grid!r}")
    found = samplers.resolve(denoiser, named, steps=recipe.steps, grid=recipe.grid)
    if name == "learned" and not found.learned:
        what = f"{found.steps} steps, this guidance and label"
        raise UserError(
            f"sampler 'learned' needs a solver learned for this model, {what}, and there is none; `langevin tune` "
            "learns one"
        )
    return found


def in_process(denoiser: Denoiser, recipe: Recipe) -> Denoiser:
    """The same belief, on the process that a recipe samples in."""
    if recipe.process is None:
        return denoiser
    process = processes.create_process(recipe.process)
    if not isinstance(process, processes.Observable):
        raise UserError(f"process must be x_t = αx_0 + σε or phase space to be sampled at equal log-SNR, got {process}")
    return denoisers.convert(denoiser, process)


def _clipped(model: NetworkDenoiser, x: Tensor) -> Tensor:
    """The range of the data is known, that of a solver's last step is not."""
    if not x.is_floating_point():  # tokens
        return x.cpu()
    x = x.float().cpu()
    data = model.output
    return x if data is None or data.low is None else x.clamp(data.low, data.high)
