"""A scheduler of diffusers, driven as its pipelines drive it, around an exact network."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import truth
from .conventions import Level, SchedulerConventions, exploding, read
from .subject import Path, Run, Subject, start

FINER = 10
"""How many times as long the table of an order's measurement is."""

ONES = torch.ones((1, *truth.SHAPE), dtype=torch.float64)
"""A state of which ``scale_model_input`` shows its factor."""

STREAMS = itertools.count(10**6)
"""Seeds of torch's own stream, none twice."""


@dataclass(eq=False)
class Driven(Subject):
    """Schedulers that a function makes, each new.

    Args:
        name: as it was asked for.
        make: of options that override others.
    """

    name: str
    make: Callable[..., Any]
    kind: str = "scheduler"
    order: float | None = None
    conventions: SchedulerConventions = field(init=False)

    def __post_init__(self) -> None:
        with quiet():
            made = self.make()
            self.conventions = read(made)
            self.family = self.conventions.family
            self.takes = frozenset(inspect.signature(type(made).step).parameters)
            self.begins = hasattr(made, "set_begin_index")
            self.every = int(getattr(made, "order", 1) or 1)
            if "Singlestep" in type(made).__name__:  # whose states between are those of its stages
                self.every = int(setting(made, "solver_order") or 1)
            self.most = min(1000, int(setting(made, "num_train_timesteps") or 1000))
            self.order = declared_order(made)

    def fine(self) -> Any:
        """One whose table is ten times as long, of the same noise: β a tenth of what it was."""
        made = self.make()
        config = getattr(made, "config", None)
        if self.conventions.family not in ("table", "flow") or not isinstance(config, Mapping):
            return made
        if "num_train_timesteps" not in config:
            return made
        finer: dict[str, Any] = {"num_train_timesteps": FINER * config["num_train_timesteps"]}
        if "beta_start" in config and config.get("trained_betas") is None:
            finer |= {key: config[key] / FINER for key in ("beta_start", "beta_end")}
        return self.make(**finer)

    def run(self, how: Run) -> Path:
        with quiet():
            return self.drive(self.fine() if how.fine else self.make(), how)

    def drive(self, made: Any, how: Run) -> Path:
        """A run of a scheduler, new or used."""
        conventions = read(made) if how.fine else self.conventions
        made.set_timesteps(how.steps)
        times = list(made.timesteps)
        if how.begin and self.begins and how.told:
            made.set_begin_index(how.begin)
        times = times[how.begin :]
        if self.leads:
            made.add_noise(ONES, ONES, times[0].reshape(1))
        options: dict[str, Any] = {"generator": generator(how)} if "generator" in self.takes else {}
        # What draws without a generator draws from torch's own stream.
        torch.manual_seed(next(STREAMS) if how.private and options else seed(how))
        states: list[Tensor] = []
        levels: list[Level] = []
        asked, asked_levels = [], []
        x, scaled = torch.empty(0), False
        scale = getattr(made, "scale_model_input", None) or (lambda x, t: x)
        for i, t in enumerate(times):
            level = conventions.level(float(t))
            factor = float(scale(ONES, t).flatten()[0]) if self.scales else 1.0
            scaled = conventions.family == "edm" or abs(factor - 1) > 1e-9
            own = self.own_level(made, conventions, how.begin + i, level, factor)
            if not i:
                x = start(how, own).to(how.dtype)
            if how.rounded is not None:
                x = x.to(how.rounded).to(how.dtype)
            states.append(x)
            levels.append(own)
            asked.append(float(t))
            asked_levels.append(level)
            if how.stop is not None and i == how.stop:
                return Path(states, levels, asked, asked_levels)
            given = scale(x, t)
            out = conventions.network(given.to(torch.float64), float(t), how.belief)
            if how.nudge == i:
                out = out + 0.01
            out = out.to(how.dtype if how.rounded is None else how.rounded).to(how.dtype)
            if "prev_timestep" in self.takes:  # pipelines say where the step goes
                options["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
            x = first(made.step(out, t, x, **options))
        states.append(x)
        levels.append(self.last_level(made, conventions, scaled))
        return Path(states, levels, asked, asked_levels)

    @cached_property
    def scales(self) -> bool:
        """Whether ``scale_model_input`` multiplies by another number than 1, at a time of the middle."""
        return abs(self.factor(5) - 1) > 1e-9

    @cached_property
    def leads(self) -> bool:
        """Whether it moves pure noise to its first time itself, unless a state was entered by ``add_noise``."""
        return not self.scales and abs(self.factor(0) - 1) > 1e-9 and hasattr(self.make(), "add_noise")

    def factor(self, i: int) -> float:
        """What ``scale_model_input`` of a new one multiplies by at a time of ten steps; 1 if it does not."""
        made = self.make()
        if not hasattr(made, "scale_model_input"):
            return 1.0
        made.set_timesteps(10)
        t = made.timesteps[min(i, len(made.timesteps) - 1)]
        one, two = (made.scale_model_input(k * ONES, t) for k in (1.0, 2.0))
        multiplies = one.shape == ONES.shape and distance(two, 2 * one) < 1e-6 and float(one.max() - one.min()) < 1e-6
        return float(one.flatten()[0]) if multiplies else 1.0

    def own_level(self, made: Any, conventions: SchedulerConventions, index: int, level: Level, factor: float) -> Level:
        """The level of the state before an evaluation: of the scheduler's own σ where it has one, else of the time."""
        sigmas = getattr(made, "sigmas", None)
        scaled = conventions.family == "edm" or abs(factor - 1) > 1e-9
        if conventions.family != "angle" and sigmas is not None and len(sigmas) == len(made.timesteps) + 1:
            sigma = float(sigmas[index])
            return exploding(sigma) if scaled else conventions.own(sigma)
        if not scaled:
            return level
        if conventions.family == "table":  # x_0 + σ ε, divided by √(1 + σ²) on the way to the network
            return exploding(math.sqrt(max(0.0, 1 / factor**2 - 1)))
        wanted = conventions.input_scale(level)
        return level[0] * wanted / factor, level[1] * wanted / factor

    def last_level(self, made: Any, conventions: SchedulerConventions, scaled: bool) -> Level:
        """The level at which a run ends."""
        sigmas = getattr(made, "sigmas", None)
        if conventions.family != "angle" and sigmas is not None and len(sigmas) == len(made.timesteps) + 1:
            return exploding(float(sigmas[-1])) if scaled else conventions.own(float(sigmas[-1]))
        if (bar := getattr(made, "final_alpha_cumprod", None)) is not None:
            return math.sqrt(float(bar)), math.sqrt(max(0.0, 1 - float(bar)))
        return 1.0, 0.0

    def again(self) -> tuple[float, str] | None:
        """Runs after another, after a longer one, and after one that was broken off, on one object."""
        how = Run(10, 4)
        with quiet():
            new = self.run(how).x
            worst, where = 0.0, "runs again, after 7 steps, and after a run broken off are those of a new one"
            for used, before in (
                ("after a run of the same", how),
                ("after a run of 7 steps", replace(how, steps=7)),
                ("after a run broken off", replace(how, stop=5)),
            ):
                made = self.make()
                self.drive(made, before)
                gap = distance(self.drive(made, how).x, new)
                if gap > worst:
                    worst, where = gap, used
        return worst, where

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """Its configuration, if it has one that another can be made from."""
        made = self.make()
        return getattr(made, "config", None) if hasattr(type(made), "from_config") else None

    def reloaded(self, how: Run) -> Path:
        """A run of one made from the configuration, by way of JSON."""
        with quiet():
            made = self.make()
            text = made.to_json_string() if hasattr(made, "to_json_string") else json.dumps(dict(made.config))
            return self.drive(type(made).from_config(json.loads(text)), how)

    def about(self) -> dict[str, Any]:
        return {"family": self.conventions.family, "prediction": self.conventions.prediction, **super().about()}


def setting(made: Any, key: str) -> Any:
    """A setting of a configuration, a mapping or an object; None if it has none."""
    config = getattr(made, "config", {})
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def declared_order(made: Any) -> float:
    """The order that a scheduler declares: its setting or attribute, else the evaluations of a step of its class."""
    for key in ("solver_order", "predictor_order"):
        if setting(made, key) is not None:
            return float(setting(made, key))
    per_step = inspect.signature(type(made).step).parameters.get("order")
    if per_step is not None and isinstance(per_step.default, int):
        return float(per_step.default)
    return float(getattr(made, "pndm_order", None) or getattr(made, "order", None) or 1)


def first(out: Any) -> Tensor:
    """The state of what a step returned."""
    found: Tensor = out.prev_sample if hasattr(out, "prev_sample") else out[0]
    return found


def seed(how: Run) -> int:
    """Of the noise of the steps."""
    return 1 + (how.seed if how.draws is None else how.draws)


def generator(how: Run) -> torch.Generator | list[torch.Generator]:
    """Of the noise of the steps; one a sample if that is asked for."""
    if not how.each:
        return torch.Generator().manual_seed(seed(how))
    return [torch.Generator().manual_seed(1000 * seed(how) + i) for i in range(*(how.rows or (0, how.n)))]


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference of two sets of states; infinite where one alone is no number, or of another shape."""
    if a.shape != b.shape:
        return math.inf
    if torch.equal(a.isnan(), b.isnan()) and bool(a.isnan().any()):
        a, b = a.nan_to_num(0.0), b.nan_to_num(0.0)
    gap = float((a.to(torch.float64) - b.to(torch.float64)).abs().max())
    return gap if math.isfinite(gap) else math.inf


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of others, and without disturbing torch's own stream of noise."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
