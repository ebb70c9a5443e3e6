"""Every sampler with every budget from the same noises, beside the model's own converged paths."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import metrics, samplers
from ..._errors import UserError, check_integer, check_numbers, shown
from ...adapters import loading
from ...data import Dataset
from ...denoisers import Denoiser, Generator, check_is_denoiser
from ...denoisers.conditions import asked_conditions
from ...distributions import Noise
from ...generate.environment import machine, versions
from ...metrics.comparison import Comparison as Laws
from ...metrics.evaluate import check_counts, check_real, few
from ...models.conditional import bind
from ...processes import ScalarGaussian
from ...samplers import Plan, Sampler
from ...samplers.sampling import check_memory
from ...samplers.tolerance import Counted, distances, is_deterministic, std_of
from .results import Cell, Comparison, Side

SAMPLERS = ("default", "dpmpp-2m", "unipc", "deis", "heun", "ddim")
BUDGETS = (5, 8, 12, 20)
PATHS, REFERENCE, SHOWN = 64, 128, 12
"""Paths whose distance is measured, steps of the converged paths, pictures that are kept of a cell."""

WIDEST = 1024
"""Coordinates beyond which laws are compared by their 64 principal directions."""

Progress = Callable[[int, int], None]


def compare(
    models: Any,
    samplers: Sequence[str | Sampler] = SAMPLERS,
    steps: Sequence[int] = BUDGETS,
    *,
    guidance_scale: Sequence[float] = (1.0,),
    given: Mapping[str, Any] | None = None,
    n: int = 128,
    seed: int = 0,
    batch: int = 256,
    data: Mapping[str, Dataset] | Dataset | None = None,
    tolerance: float = 0.05,
    progress: Progress | None = None,
) -> Comparison:
    r"""Samplers side by side, from the same noises.

    The distance of a path is :math:`\|x_N - x_\infty\| / (σ_{data} \sqrt D)`, where x_∞ is the end of the default
    solver's path from the same noise in 128 steps: how far a sampler is from what the model itself says. A sampler that
    draws noise on its way is not to follow that path, and has none. The law of the samples is compared with held-out
    data where there are data.

    Args:
        models: a model or the path of one, several, or a mapping of names to either; of diffusers too.
        samplers: registered names, ``default``, ``learned`` (what ``langevin tune`` learned), or samplers.
        steps: budgets: evaluations (NFE, calls of the network per sample), ≥ 1 each, where ``sample`` counts steps. A
            sampler with two evaluations per step makes half as many steps; the two calls of a guided one count as one.
        guidance_scale: scales w of classifier-free guidance.
        given: conditions by name, as of ``generate``; labels in turn where none are given.
        n: samples per sampler and budget, at least 8; the distance is of the first 64.
        seed: of the noises: sample i has the same start everywhere.
        batch: samples at a time.
        data: what laws are measured against: data whose held-out split is taken, for all models or by their names.
        tolerance: the largest median distance that is good enough, in standard deviations of the data, in (0, ∞).
        progress: called as ``progress(done, total)``, in evaluations.

    Returns:
        Figures, pictures and a recommendation; ``print`` shows them as a table.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    named = _named(models)
    rules = _rules(samplers)
    budgets = tuple(dict.fromkeys(check_integer("steps", b, 1, 10_000) for b in _several("steps", steps)))
    scales = tuple(dict.fromkeys(_several("guidance_scale", guidance_scale)))
    check_numbers(**{f"guidance_scale[{i}]": scale for i, scale in enumerate(scales)}, tolerance=tolerance)
    if not tolerance > 0:
        raise UserError(f"tolerance must be a number > 0, got {tolerance}")
    check_integer("n", n, 8)
    check_integer("batch", batch, 1)
    tasks = []
    for name, model in named.items():
        of = data.get(name) if isinstance(data, Mapping) else data
        for scale in scales:
            tasks.append(_Task(name, model, scale, rules, budgets, given, n, seed, batch, of))
    for task in tasks:
        task.check()
    total, done = sum(task.cost for task in tasks), 0

    def told(evaluations: int) -> None:
        nonlocal done
        done = min(done + evaluations, total)
        if progress is not None:
            progress(done, total)

    with torch.no_grad():
        sides = tuple(task.run(told) for task in tasks)
    if not any(side.cells for side in sides):
        raise UserError(f"no sampler keeps any of the budgets: {next(iter(sides[0].left_out.values()))}")
    protocol = {
        "samplers": list(rules),
        "evaluations": list(budgets),
        "guidance_scale": list(scales),
        "n": n,
        "paths": min(n, PATHS),
        "seed": seed,
        "batch": batch,
        "tolerance": tolerance,
        "reference": f"the default solver in {REFERENCE} steps from the same noise",
        "distance": "RMS over coordinates, in standard deviations of the data",
        "versions": versions(),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    return Comparison(sides, tolerance, protocol)


def _several(name: str, value: Any) -> list[Any]:
    """A list of one or more, from one or more."""
    found = list(value) if isinstance(value, (list, tuple, range)) else [value]
    if not found:
        raise UserError(f"{name} must hold at least one, got none")
    return found


def _named(models: Any) -> dict[str, Any]:
    """Models by name; those that are paths are loaded."""
    if not isinstance(models, Mapping):
        several = list(models) if isinstance(models, (list, tuple)) else [models]
        title = lambda i, m: os.fspath(m) if isinstance(m, (str, os.PathLike)) else f"model {i}"
        titles = [title(i, m) for i, m in enumerate(several, 1)]
        if len(several) == 1 and isinstance(several[0], Denoiser):
            titles = ["model"]
        if len(set(titles)) < len(titles):
            raise UserError(f"models must differ, got {', '.join(titles)}")
        models = dict(zip(titles, several))
    if not models:
        raise UserError("models must hold at least one, got none")
    load = lambda m: loading.load_denoiser(m, own=False) if isinstance(m, (str, os.PathLike)) else m
    found = {str(name): load(model) for name, model in models.items()}
    for model in found.values():
        check_is_denoiser(model, "models")
    return found


def _rules(asked: Any) -> dict[str, str | Sampler]:
    """Samplers by the name that tables give them."""
    found: dict[str, str | Sampler] = {}
    for one in _several("samplers", asked):
        if not isinstance(one, (str, Sampler)):
            raise UserError(f"samplers must be names or samplers, got {shown(one)}")
        if isinstance(one, str) and one not in ("default", "learned"):
            samplers.create_sampler(one)
        name = one if isinstance(one, str) else repr(one)
        if name in found:
            raise UserError(f"samplers must differ, got {name} twice")
        found[name] = one
    return found


@dataclass(frozen=True, eq=False)
class _Task:
    """One side: a model under one guidance scale."""

    name: str
    model: Any
    scale: float
    rules: Mapping[str, str | Sampler]
    budgets: tuple[int, ...]
    given: Mapping[str, Any] | None
    n: int
    seed: int
    batch: int
    data: Dataset | None

    def _bound(self) -> Denoiser:
        sizes = self.model.condition_sizes
        if not sizes:
            if self.scale != 1:
                raise UserError(f"guidance_scale {self.scale:g} needs a trained model with conditions, got {self.name}")
            return self.model.given(self.given) if self.given else self.model
        return bind(self.model, asked_conditions(sizes, self.n, self.given), self.scale)

    def check(self) -> None:
        """Refuse what cannot be, before any work."""
        check_memory(self.n, self.model)
        belief = self._bound()
        if len(belief.stages) > 1:
            raise UserError(f"{self.name} draws in {len(belief.stages)} stages; compare samplers on one of its models")
        for rule in self.rules.values():
            self.resolved(belief, rule, 10 if rule == "learned" else self.budgets[0], learned=False)
        if self.data is not None:
            check_real(self.data.info)
            check_counts(self.data)
            if tuple(self.data.info.shape) != tuple(belief.output_shape):
                shape = tuple(self.data.info.shape)
                raise UserError(f"data must have the shape {tuple(belief.output_shape)} of {self.name}, got {shape}")

    @property
    def flows(self) -> bool:
        """Whether the process has a probability flow whose converged paths can be had."""
        return isinstance(self.model.process, ScalarGaussian) and not isinstance(self.model, Generator)

    @property
    def paths(self) -> int:
        return min(self.n, PATHS)

    @property
    def cost(self) -> int:
        """Evaluations, all samples together, as far as they are known beforehand."""
        own = len(self.rules) * sum(self.budgets) * self.n
        return own + (self.paths * REFERENCE * 3 // 2 if self.flows else 0)

    def resolved(self, belief: Denoiser, rule: str | Sampler, steps: int, learned: bool = True) -> Plan:
        """The sampler and its grid for so many steps."""
        if rule == "default":
            return samplers.resolve(belief, samplers.default_sampler(belief), steps=steps)
        if rule != "learned":
            made = samplers.create_sampler(rule) if isinstance(rule, str) else rule
            made.check(belief.process)
            own = samplers.has_own_steps(made, belief.process, steps)
            return samplers.resolve(belief, made, steps=None if own else steps)
        found = samplers.resolve(belief, steps=steps)
        if learned and not found.learned:
            raise UserError(f"no solver was learned for {steps} steps, this guidance and condition (langevin tune)")
        return found

    def drawn(self, belief: Denoiser, plan: Plan, count: int) -> Tensor:
        """The first so many samples."""
        return samplers.sample(belief, plan, noise=Noise(self.seed, count), batch=self.batch)

    def calls(self, belief: Denoiser, plan: Plan) -> int:
        """Evaluations that a sample takes."""
        counted = Counted(belief.rows(slice(0, 1)))
        samplers.sample(counted, plan, noise=Noise(self.seed, 1))
        return counted.calls

    def fitted(self, belief: Denoiser, rule: str | Sampler, budget: int) -> tuple[Plan, int, int]:
        """The most steps that keep a budget: the sampler on its grid, the steps, and the evaluations they take."""
        steps, before = budget, None
        while steps >= 1:
            plan = self.resolved(belief, rule, steps)
            if before is not None and torch.equal(plan.grid, before):
                break  # it makes its own number of steps
            before = plan.grid
            calls = self.calls(belief, plan)
            if calls <= budget:
                return plan, steps, calls
            if rule == "learned":
                break
            steps = min(steps - 1, max(1, math.ceil(steps * (budget + 1) / (calls + 1))))
        raise UserError(f"it takes {calls} evaluations at least")

    def noisy(self, belief: Denoiser, plan: Plan) -> bool:
        """Whether the sampler draws noise on its way."""
        two, noise = belief.rows(slice(0, 2)), Noise(self.seed, 2)
        start = two.process.prior(two.shape).sample(noise.step(0)).to(two.device)
        end = lambda k: samplers.sample(two, plan, start=start, noise=noise.fold_in(k) if k else noise)
        return not is_deterministic(end)

    def run(self, told: Callable[[int], None]) -> Side:
        """All cells, and what they are measured against."""
        if hasattr(self.model, "counted"):
            object.__setattr__(self, "model", self.model.counted())
        belief, notes = self._bound(), []
        reference, unresolved = None, None
        if self.flows:
            default = samplers.default_sampler(belief)
            fine, half = (
                self.drawn(belief.rows(slice(0, self.paths)), samplers.resolve(belief, default, steps=k), self.paths)
                for k in (REFERENCE, REFERENCE // 2)
            )
            told(self.paths * REFERENCE * 3 // 2)
            reference, unit = fine, std_of(belief.output, fine)
            unresolved = float(distances(half, fine).median()) / unit
        else:
            notes.append("There is no probability flow of x_t = αx_0 + σε here, so paths have no distance.")
        cells: list[Cell] = []
        left_out: dict[tuple[str, int], str] = {}
        random: list[str] = []
        for (name, rule), budget in itertools.product(self.rules.items(), self.budgets):
            try:
                plan, steps, calls = self.fitted(belief, rule, budget)
            except UserError as error:
                left_out[name, budget] = str(error)
                told(self.n * budget)
                continue
            noisy = reference is not None and self.noisy(belief, plan)
            random += [name] * (noisy and name not in random)
            asked = self._asked()
            begun = time.perf_counter()
            try:
                x = self.drawn(belief, plan, self.n)
            except UserError as error:  # it diverged
                left_out[name, budget] = str(error)
                told(self.n * budget)
                continue
            seconds = (time.perf_counter() - begun) / self.n
            network = (self._asked() - asked) // math.ceil(self.n / self.batch) or calls
            away = None
            if reference is not None and not noisy:
                away = (distances(x[: self.paths], reference) / unit).cpu()
            x = self._clipped(x)
            cells.append(
                Cell(name, repr(plan.sampler), budget, steps, calls, network, seconds, away, self._laws(x), x[:SHOWN])
            )
            told(self.n * budget)
        if random:
            which = ", ".join(random)
            where = "the distances of laws" if self.data is not None else "no data to compare their law with"
            notes.append(f"These draw noise on their way, follow no path and have no distance: {which}; {where}.")
        if self.data is None:
            notes.append("Laws are not compared: no held-out data are known.")
        elif (rough := few(self.data)) is not None:
            notes.append(rough)
        info = belief.output
        low, high = (None, None) if info is None else (info.low, info.high)
        return Side(
            self.name,
            float(self.scale),
            tuple(cells),
            None if reference is None else self._clipped(reference[:SHOWN]),
            unresolved,
            left_out,
            tuple(notes),
            None if self.data is None else self.data.info.name,
            -1.0 if low is None else low,
            1.0 if high is None else high,
        )

    def _asked(self) -> int:
        counter = self.model.counter
        return 0 if counter is None else counter.calls

    def _clipped(self, x: Tensor) -> Tensor:
        """As ``langevin sample`` writes them."""
        info, x = self.model.output, x.cpu()
        if not x.is_floating_point() or info is None or info.low is None:
            return x
        return x.float().clamp(info.low, info.high)

    def _laws(self, x: Tensor) -> dict[str, Any]:
        """The law of samples against held-out data: Fréchet, precision and recall, sliced Wasserstein."""
        if self.data is None:
            return {}
        laws = Laws(metrics.Parts.of(x.float(), None), set(), self.data, self.seed, "unknown")
        wide = self.data.info.dim > WIDEST
        found = dict(laws.in_features(f"pca:{min(len(self.data.train), 64)}" if wide else "pixels"))
        return {**found, **dict(laws.sliced())}
