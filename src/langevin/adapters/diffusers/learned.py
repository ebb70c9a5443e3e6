"""A learned solver in a pipeline: its states stand where the network is asked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ...numerics.frame import GaussianFrame
from ...processes import Process, ScalarGaussian, require
from ...samplers import LearnedSolver
from ...samplers.learned.sampler import LearnedStep
from ...samplers.learned.steps import LearnedSteps, Place


@dataclass(frozen=True, repr=False)
class LearnedPipelineSolver(LearnedSolver):
    """A learned solver on the times at which it asks, for pipelines, which ask about the state that they carry.

    Its variable z stands still along the flow of the data's Gaussian, so the same z may be shown as the state of any
    time: here of those at which the network is asked, and last of the end. A first step to the first of them asks
    nothing, where the noise is drawn above it.
    """

    @classmethod
    def of(cls, solver: LearnedSolver) -> LearnedPipelineSolver:
        """A learned solver as one whose state is what the network is shown."""
        return cls(**{f.name: getattr(solver, f.name) for f in fields(solver)})

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        own = super().default_grid(process, steps)
        if own is None or self.table is None:
            return own
        gaussian: ScalarGaussian = require(process, ScalarGaussian, "a learned solver")
        known = LearnedSteps.of(self.table.tensors(), gaussian, self.frame or GaussianFrame.unknown(1))
        times = torch.cat((torch.stack([place.t for place in known.asked]), own[-1:]))
        if bool((times.diff() >= 0).any()):
            raise UserError(f"sampler must ask at falling times in a pipeline, and {self} does not; tune again")
        return torch.cat((own[:1], times)) if float(own[0]) > float(times[0]) + 1e-9 else times

    def tabulate(self, process: ScalarGaussian, grid: tuple[float, ...]) -> Mapping[tuple[Any, ...], LearnedStep]:
        assert self.table is not None
        assert self.frame is not None
        steps = LearnedSteps.of(self.table.tensors(), process, self.frame)
        places: list[Place] = [*steps.asked, steps.ends[-1]]
        first = 0
        if len(grid) > len(places):
            places, first = [steps.ends[0], *places], -1
        table = {}
        for i, ((t, s), (here, there)) in enumerate(
            zip(itertools.pairwise(grid), itertools.pairwise(places)), start=first
        ):
            table[t, max(i, 0), s] = LearnedStep(steps, i, here, there, as_given=True)
        return table
