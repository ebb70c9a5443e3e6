"""The learning of a solver: its free parameters, the loss of a trajectory, L-BFGS, and the best on held-out noises."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..numerics.frame import GaussianFrame
from ..processes import ScalarGaussian
from ..samplers.learned.steps import LearnedSteps
from ..samplers.learned.table import SolverTensors
from .trajectories import Trajectories

FLOOR = 1e-6
"""Added to the squared error under the logarithm: a thousandth of the data's size is close enough."""

RIDGE = 1e-4
"""Weight of the squared coefficients: what the noises do not ask for stays as the untuned rule has it."""

STARTS = 3
"""Grids that are learned a little, before the best of them is learned to the end."""

ITERATIONS, ROUNDS, PATIENCE = 12, 14, 3
"""L-BFGS iterations between two looks at the held-out noises; looks at most; and without a gain before the end."""


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
    z = first = on.along(start, on.ends[0])
    values: list[Tensor] = []
    for i in range(len(on.rows)):
        values.append(on.ask(z, i, denoiser, shape)[0])
        z = on.move(first, values, i)
    return on.state(z, on.ends[-1], shape)


def loss(part: Trajectories, x: Tensor) -> Tensor:
    """½ log(e² + 1e-6), summed over samples: a sample that lands in another mode counts no more than its logarithm."""
    return 0.5 * torch.log(part.errors(x) ** 2 + FLOOR).sum()


@dataclass(frozen=True)
class TuningProgress:
    """The part of a tuning run that is done, in evaluations of the denoiser, and the part of its time that is spent.

    Args:
        show: called as ``show(done, 1000)``; None for nobody.
        begun, minutes: when it began, and how long it may take.
        prepared: evaluations of the reference trajectories.
        gradients, worth: how many there are at most, and the evaluations that one is worth.
    """

    show: Callable[[int, int], None] | None
    begun: float
    minutes: float | None
    prepared: int
    gradients: int
    worth: int

    @property
    def spent(self) -> float:
        """The share of the time that is gone; 0 without a limit."""
        return 0.0 if self.minutes is None else (time.monotonic() - self.begun) / (60 * self.minutes)

    def report(self, evaluations: int, gradients: int = 0) -> None:
        """Show how much is done; the last thousandth is the caller's."""
        if self.show is not None:
            share = (evaluations + gradients * self.worth) / (self.prepared + self.gradients * self.worth)
            self.show(min(999, round(1000 * max(share, self.spent))), 1000)


class _Over(Exception):
    """The time is spent."""


class SolverTrainer:
    """The learning: parameters in, those that did best on held-out noises out."""

    def __init__(
        self,
        train: Trajectories,
        validation: Trajectories,
        batch: int,
        bar: TuningProgress,
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
        """L-BFGS on some of the parameters, on the trajectories of a part."""
        descent = torch.optim.LBFGS(
            free, max_iter=iterations, history_size=iterations, line_search_fn="strong_wolfe", tolerance_change=0
        )

        def gradient() -> float:
            if self.bar.spent > 1:
                raise _Over
            self.calls += 1
            self.bar.report(self.bar.prepared, self.calls)
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
