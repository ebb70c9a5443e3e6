"""Learn a solver for one model and one number of evaluations, from the model's own trajectories."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import Denoiser, NetworkDenoiser, gaussian_frame
from ..denoisers.conditions import asked_conditions
from ..distributions import Noise, Stream
from ..models.conditional import bind
from ..models.solvers import name_of
from ..numerics.frame import GaussianFrame
from ..processes import ScalarGaussian, require
from ..samplers import LearnedSolver, Multistep, grids, sample, solver_to_dict, trajectory
from ..samplers.gaussian.noise_grid import remainder_times
from ..samplers.learned.sampler import NARROWEST, SolverUse
from ..samplers.learned.steps import LearnedSteps
from ..samplers.learned.table import LARGEST, SolverTensors
from ..samplers.sampling import check_memory
from ..storage import files

FLOOR = 1e-6
"""Added to the squared error under the logarithm: a thousandth of the data's size is close enough."""

REFERENCE = 100
"""Evaluations of the reference: Adams–Bashforth of order 4 with them is closer than what so few noises can teach."""

RIDGE = 1e-4
"""Weight of the squared coefficients: what the noises do not ask for stays as the untuned rule has it."""

STARTS = 3
"""Grids that are learned a little, before the best of them is learned to the end."""

ITERATIONS, ROUNDS, PATIENCE = 12, 14, 3
"""L-BFGS iterations between two looks at the held-out noises; looks at most; and without a gain before the end."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Starts and ends of trajectories.

    Args:
        denoiser: with conditions for these samples.
        start: states at the largest time, float64 ``(n, *shape)``.
        target: where an accurate solver takes them.
        size: RMS of the data, in which errors are counted.
    """

    denoiser: Denoiser
    start: Tensor
    target: Tensor
    size: float

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, first: int, last: int) -> Trajectories:
        """Some of them."""
        part = slice(first, last)
        return Trajectories(self.denoiser.rows(part), self.start[part], self.target[part], self.size)

    def errors(self, x: Tensor) -> Tensor:
        """The RMS error of each sample relative to the data's RMS, ``(n,)``."""
        return torch.sqrt(((x - self.target) ** 2).flatten(1).mean(1)) / self.size


def trajectories(
    denoiser: Denoiser,
    n: int,
    *,
    seed: int = 0,
    clean: bool = True,
    evaluations: int = REFERENCE,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Trajectories of a model by Adams–Bashforth of order 4 in log σ, with float64 coefficients.

    Args:
        denoiser: the model; conditions are one for all, or one for each of the n samples.
        n: how many.
        seed: of the noises.
        clean: whether they end at clean data, by the belief at the smallest time, or at that time.
        evaluations: of each, ≥ 4.
        batch: carried at a time.
        progress: called as ``progress(done, total)``, in sample-steps.
    """
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "tuning")
    noise = Noise(seed, n).fold_in(Stream.TUNING)
    ends = -0.5 * process.log_snr(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    u = torch.linspace(float(ends[0]), float(ends[1]), evaluations, dtype=torch.float64)
    times = process.time(-2 * u)
    times[0], times[-1] = process.t_max, process.t_min
    solver = Multistep("eps", "log-snr", 4, start="corrected")
    starts, targets, done = [], [], 0
    with torch.no_grad():
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            part, some = noise.rows(rows), denoiser.rows(rows)
            x = process.prior(denoiser.shape).sample(part.step(0)).to(denoiser.device, torch.float64)
            starts.append(x)
            for state in trajectory(some, solver, grid=times, start=x, noise=part):  # noqa: B007 (the last is the end)
                done += len(x)
                if progress is not None:
                    progress(done, n * evaluations)
            ended = some(state.x, times[-1]).mean.to(torch.float64) if clean else state.x
            targets.append(ended)
    start, target = torch.cat(starts), torch.cat(targets)
    if not bool(target.isfinite().all()):
        raise UserError("the model's own trajectories are not finite; nothing can be learned from them")
    return Trajectories(denoiser, start, target, math.sqrt(float((target**2).mean())))


@dataclass(frozen=True, eq=False)
class Learner:
    """Everything free, in coordinates that keep a grid a grid: steps of u are shares of the whole by a softmax."""

    process: ScalarGaussian
    frame: GaussianFrame
    start: float
    bottom: float
    clean: bool
    shares: Tensor
    shifts: Tensor
    own: Tensor
    before: Tensor

    @classmethod
    def at(cls, process: ScalarGaussian, frame: GaussianFrame, nodes: Tensor, clean: bool) -> Learner:
        """From a grid, u of each evaluation, with the coefficients of the untuned rule."""
        top, bottom = (float(-0.5 * process.log_snr(t)) for t in (process.t_max, process.t_min))
        n = len(nodes)
        edges = torch.cat((nodes.new_tensor([top]), nodes, nodes.new_tensor([bottom])))
        steps = (edges[:-1] - edges[1:]).clamp_min(1e-2 * (top - bottom) / n)
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
        shares = torch.log(steps).requires_grad_()
        return cls(process, frame, top, bottom, clean, shares, zeros(n), zeros(n, n), zeros(n, n))

    @property
    def free(self) -> list[Tensor]:
        """The parameters, the grid's first."""
        return [self.shares, self.shifts, self.own, self.before]

    def tensors(self) -> SolverTensors:
        """The table they stand for."""
        nodes = self.start + (self.bottom - self.start) * torch.cumsum(torch.softmax(self.shares, 0), 0)[:-1]
        rows = lambda m: [m[i, : i + 1] for i in range(len(nodes))]
        end = None if self.clean else self.bottom
        return SolverTensors(self.start, nodes, end, self.shifts, rows(self.own), rows(self.before))

    def steps(self) -> LearnedSteps:
        """The coefficients they stand for."""
        return LearnedSteps.of(self.tensors(), self.process, self.frame)

    def run(self, part: Trajectories) -> Tensor:
        """Where the solver takes the starts; differentiable in the parameters."""
        return follow(self.steps(), part.denoiser, part.start)


def follow(on: LearnedSteps, denoiser: Denoiser, start: Tensor) -> Tensor:
    """All steps of a learned solver, ``(B, *shape)`` to ``(B, *shape)``."""
    shape = start.shape[1:]
    z = first = on.along(start, 0)
    values: list[Tensor] = []
    for i in range(len(on.rows)):
        values.append(on.ask(z, i, denoiser, shape)[0])
        z = on.move(first, values, i)
    return on.state(z, len(on.rows), shape)


def loss(part: Trajectories, x: Tensor) -> Tensor:
    """½ log(e² + 1e-6), summed over samples: a sample that lands in another mode counts no more than its logarithm."""
    return 0.5 * torch.log(part.errors(x) ** 2 + FLOOR).sum()


def tune(
    denoiser: Denoiser,
    steps: int,
    *,
    n: int = 256,
    held_out: int = 128,
    seed: int = 0,
    clean: bool = True,
    guidance_scale: float = 1.0,
    label: int | str | None = None,
    minutes: float | None = None,
    rounds: int = ROUNDS,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
    reference: Trajectories | None = None,
) -> LearnedSolver:
    """Learn grid, then coefficients and shifts, of a solver with ``steps`` evaluations of this denoiser.

    L-BFGS through the unrolled loop, on the errors against the model's own accurate trajectories; what counts is the
    loss on held-out noises, and the best that they saw is kept. Moments of the data are taken where the model carries
    them, else one mean and one variance of its own samples.

    Args:
        denoiser: on a scalar-Gaussian process and differentiable in x_t; conditions are one for all samples, or one for
            each of the ``n + held_out``.
        steps: evaluations of the denoiser, 1 to 64; a guided one asks its network twice.
        n: noises to learn from.
        held_out: noises to validate with.
        seed: of the noises.
        clean: whether samples end at clean data, or at the process's smallest time.
        guidance_scale, label: under which the sampler is picked later (see ``SolverUse``).
        minutes: at most, trajectories included; as many as it takes if not given.
        rounds: looks at the held-out noises at most, twelve L-BFGS iterations apart.
        batch: samples of a gradient at a time.
        progress: called as ``progress(done, total)``.
        reference: trajectories of ``n + held_out`` samples, if they are there already.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= LARGEST:
        raise UserError(f"steps must be an integer in 1…{LARGEST}, got {steps!r}")
    for name, number in (("n", n), ("held_out", held_out), ("batch", batch), ("rounds", rounds)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {number!r}")
    if minutes is not None and not minutes > 0:
        raise UserError(f"minutes must be a number > 0, got {minutes}")
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "tuning")
    begun = time.monotonic()
    most = 25 * STARTS + round(1.25 * ITERATIONS * rounds)
    # The bar counts evaluations, of which a gradient is worth two.
    prepared = 0 if reference is not None else REFERENCE * (n + held_out)
    bar = Share(progress, begun, minutes, prepared, most, round(1.8 * n * steps))
    if reference is None:
        reference = trajectories(denoiser, n + held_out, seed=seed, clean=clean, batch=batch, progress=bar.prepare)
    if len(reference) != n + held_out:
        raise UserError(f"reference must hold n + held_out = {n + held_out} trajectories, got {len(reference)}")
    train, validation = reference.rows(0, n), reference.rows(n, n + held_out)
    frame = known = gaussian_frame(denoiser)
    assumed = None
    if frame is None:
        mean = float(train.target.mean())
        assumed = (mean, max(float(((train.target - mean) ** 2).mean()), 1e-12))
        size = math.prod(denoiser.shape)
        flat, variance = (torch.full((size,), v, dtype=torch.float64) for v in assumed)
        frame = GaussianFrame(flat, variance, spectral=False)
    frame = frame.floor_variances(NARROWEST).on(denoiser.device)
    trainer = SolverTrainer(train, validation, batch, bar, rounds)
    starts = [Learner.at(process, frame, u, clean) for u in _grids(process, steps, frame)]
    table = trainer.learn(trainer.choose(starts)).table()
    before = None
    if clean:
        with torch.no_grad():
            plain = sample(validation.denoiser, steps=steps, start=validation.start, seed=seed, batch=batch)
        before = float(validation.errors(plain.to(validation.target)).median())
    learned = LearnedSteps.of(table.tensors(), process, frame)
    with torch.no_grad():
        after = float(validation.errors(follow(learned, validation.denoiser, validation.start)).median())
    bar.end()
    made = {
        "n": n,
        "held_out": held_out,
        "seed": seed,
        "gradients": trainer.calls,
        "loss": trainer.best,
        "seconds": round(time.monotonic() - begun, 1),
    }
    pair = None if known is None else (known.std, known.largest)
    errors = None if before is None else (before, after)
    return LearnedSolver(table, SolverUse(process, guidance_scale, label, pair, assumed, errors, made))


def _grids(process: ScalarGaussian, steps: int, frame: GaussianFrame) -> list[Tensor]:
    """u of the evaluations of grids to begin from."""
    own = remainder_times(process, steps, frame)[:-1][-steps:]
    found = [own, grids.log_snr(process, steps)[:-1], grids.karras(process, steps)[:-1]]
    at = [-0.5 * process.log_snr(times) for times in found]
    middle = at[0].mean()
    return [*at, *(middle + factor * (at[0] - middle) for factor in (0.85, 1.15))]


class Share:
    """How much is done, for a progress bar, and whether the time is spent."""

    def __init__(
        self,
        progress: Callable[[int, int], None] | None,
        begun: float,
        minutes: float | None,
        prepared: int,
        calls: int,
        call: int,
    ) -> None:
        self.progress, self.begun, self.minutes, self.prepared, self.call = progress, begun, minutes, prepared, call
        self.total = prepared + calls * call

    def _tell(self, done: int) -> None:
        if self.progress is None:
            return
        share = done / self.total
        if self.minutes is not None:
            share = max(share, (time.monotonic() - self.begun) / (60 * self.minutes))
        self.progress(min(999, round(1000 * share)), 1000)

    def prepare(self, done: int, total: int) -> None:
        """So many evaluations of the trajectories are done."""
        self._tell(done)

    def called(self, calls: int) -> None:
        """So many gradients."""
        self._tell(self.prepared + calls * self.call)

    def end(self) -> None:
        """Everything is."""
        if self.progress is not None:
            self.progress(1000, 1000)

    def along_path(self) -> bool:
        """Whether the time is spent."""
        return self.minutes is not None and time.monotonic() - self.begun > 60 * self.minutes


class _Over(Exception):
    """The time is spent."""


class SolverTrainer:
    """The learning: parameters in, those that did best on held-out noises out."""

    def __init__(
        self,
        train: Trajectories,
        validation: Trajectories,
        batch: int,
        bar: Share,
        rounds: int,
    ) -> None:
        self.train, self.validation, self.batch, self.bar, self.rounds = train, validation, batch, bar, rounds
        self.calls, self.best = 0, math.inf

    def choose(self, learners: Sequence[Learner]) -> Learner:
        """Of those whose untuned rule does best the one that is best with its grid learned, on a quarter of the noises.

        The loss has many valleys, and how low one begins says less of its floor than what twenty iterations make of it.
        """
        part, few = self.train.rows(0, min(64, len(self.train))), self.train.rows(0, max(1, len(self.train) // 4))
        with torch.no_grad():
            told = [float(loss(part, learner.run(part)).nan_to_num(math.inf)) for learner in learners]
        reached = []
        for _, learner in sorted(zip(told, learners), key=lambda pair: pair[0])[:STARTS]:
            kept = self._judge(learner, None)
            with contextlib.suppress(_Over):
                self._descend(learner, learner.free[:1], few, 20)
            self._restore(learner, self._judge(learner, kept))
            reached.append((self.best, learner))
        return min(reached, key=lambda pair: pair[0])[1]

    def learn(self, learner: Learner) -> SolverTensors:
        """Everything on half of the noises, then on all of them."""
        n, kept = len(self.train), self._judge(learner, None)
        try:
            failed = 0
            for k in range(self.rounds):
                part = self.train.rows(0, max(1, n // 2)) if k < self.rounds // 3 else self.train
                self._descend(learner, learner.free, part, ITERATIONS)
                before, kept = self.best, self._judge(learner, kept)
                failed = 0 if self.best < before - 1e-3 else failed + 1
                if failed >= PATIENCE and part is self.train:
                    break
        except _Over:
            kept = self._judge(learner, kept)
        self._restore(learner, kept)
        with torch.no_grad():
            return learner.tensors()

    def _restore(self, learner: Learner, kept: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(learner.free, kept):
                parameter.copy_(value)

    def _judge(self, learner: Learner, kept: list[Tensor] | None) -> list[Tensor]:
        """The better of the parameters and those kept, by the loss on held-out noises."""
        with torch.no_grad():
            total = 0.0
            for first in range(0, len(self.validation), self.batch):
                part = self.validation.rows(first, min(first + self.batch, len(self.validation)))
                total += float(loss(part, learner.run(part)))
        found = total / len(self.validation)
        if kept is not None and not found < self.best:
            return kept
        self.best = found if math.isfinite(found) else math.inf
        return [p.detach().clone() for p in learner.free]

    def _descend(self, learner: Learner, free: list[Tensor], part: Trajectories, iterations: int) -> None:
        """So many iterations of L-BFGS."""
        descent = torch.optim.LBFGS(
            free, max_iter=iterations, history_size=iterations, line_search_fn="strong_wolfe", tolerance_change=0
        )

        def gradient() -> float:
            if self.bar.along_path():
                raise _Over
            self.calls += 1
            self.bar.called(self.calls)
            total = 0.0
            for parameter in free:
                parameter.grad = torch.zeros_like(parameter)
            on = learner.steps()
            for first in range(0, len(part), self.batch):
                last = min(first + self.batch, len(part))
                some = part.rows(first, last)
                value = loss(some, follow(on, some.denoiser, some.start)) / len(part)
                # Of the parameters alone: what a network's weights would get is not computed.
                slopes = torch.autograd.grad(value, free, allow_unused=True, retain_graph=last < len(part))
                for parameter, slope in zip(free, slopes):
                    if slope is not None and parameter.grad is not None:
                        parameter.grad += slope.to(parameter.grad)
                total += float(value.detach())
            for parameter in (learner.own, learner.before):
                total += RIDGE * float((parameter.detach() ** 2).sum())
                if parameter.grad is not None and any(parameter is p for p in free):
                    parameter.grad += 2 * RIDGE * parameter.detach()
            return total if math.isfinite(total) else 1e9

        descent.step(gradient)


def bound(model: NetworkDenoiser, count: int, guidance_scale: float, label: int | None) -> tuple[Denoiser, Any]:
    """The denoiser to tune, for ``count`` samples, and how its labels are called.

    As samples are drawn: labels 0…K−1 in turn where the model takes labels and none is named.
    """
    if not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
    check_memory(count, model)
    condition = asked_conditions(model.condition_sizes, count, {"label": label})
    called = None if not condition else "in turn" if label is None else label
    return bind(model, condition, guidance_scale), called


def tune_model(
    model: NetworkDenoiser,
    steps: int,
    folder: str | os.PathLike[str],
    *,
    guidance_scale: float = 1.0,
    label: int | None = None,
    n: int = 256,
    held_out: int = 128,
    seed: int = 0,
    minutes: float | None = None,
    batch: int = 128,
    made: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LearnedSolver, Path]:
    """Tune a model as ``langevin.load`` gives it, and write ``solver-N.json`` into a directory, whole or not at all.

    A model directory is loaded with the files of this kind that it holds, and ``langevin.sample`` picks the one that
    fits what is asked.

    Args:
        model: what it is for; solvers it carries already are not looked at.
        steps: each one evaluation of the guided model.
        folder: a model directory.
        guidance_scale: w.
        label: the one class it is for; if not given, all in turn.
        n, held_out, seed, minutes, batch, progress: see ``tune``.
        made: kept in the file beside what ``tune`` says of itself.

    Returns:
        The sampler and the file.
    """
    denoiser, called = bound(replace(model, solvers=()), n + held_out, float(guidance_scale), label)
    with files.lock(Path(folder)):
        sampler = tune(
            denoiser,
            steps,
            n=n,
            held_out=held_out,
            seed=seed,
            guidance_scale=float(guidance_scale),
            label=called,
            minutes=minutes,
            batch=batch,
            progress=progress,
        )
        assert sampler.use is not None
        record = {**sampler.use.made, "trained_steps": model.config.get("steps"), **(made or {})}
        sampler = replace(sampler, use=replace(sampler.use, made=record))
        file = Path(folder) / name_of(steps, float(guidance_scale), label)
        files.replace(file, files.as_json(solver_to_dict(sampler)))
        return sampler, file
