"""Accurate trajectories of a model: what a solver for it is taught with, and what its errors are counted against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian, require
from ..samplers import Multistep, trajectory

REFERENCE = 100
"""Evaluations of the reference: Adams–Bashforth of order 4 with them is closer than what so few noises can teach."""


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
        """Trajectories ``first`` to ``last``, which is left out, with the conditions of their samples."""
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
