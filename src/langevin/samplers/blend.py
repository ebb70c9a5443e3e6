"""Blending: after each step a part of the state is that of a known image, noised to the level the step ended at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..processes import Process, ScalarGaussian, require
from .loop import Composite, Sampler, State


@dataclass(frozen=True, eq=False)
class Blended(Composite):
    r"""A sampler whose states outside a mask are noised data (Avrahami et al. 2021, arXiv:2111.14818 alg. 1).

    .. math:: x_s \leftarrow m \odot x_s + (1 - m) \odot y_s, \qquad y_s \sim q(y_s | y)

    with new noise each step. At s = 0 the known part is y itself.

    Args:
        sampler: the step.
        known: y, clean data ``(B, *shape)``.
        free: m, bool, broadcastable to ``(B, *shape)``: True where the sampler's own state stays.
    """

    sampler: Sampler
    known: Tensor
    free: Tensor
    needs = ScalarGaussian, "blending"

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.sampler,)

    def with_parts(self, *parts: Sampler) -> Blended:
        return replace(self, sampler=parts[0])

    def check(self, process: Process) -> None:
        Sampler.check(self, process)
        self.sampler.check(process)

    def at(self, process: ScalarGaussian, s: Tensor, noise: Noise) -> Tensor:
        """The known part at s, ``(B, *shape)``."""
        return process.marginal(self.known, s).sample(noise.fold_in(Stream.KNOWN)) if float(s) else self.known

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        moved = self.sampler.step(state, s, denoiser, noise)
        at = self.at(require(denoiser.process, ScalarGaussian, self.needs[1]), s, noise)
        return replace(moved, x=torch.where(self.free, moved.x, at.to(moved.x)))


@dataclass(frozen=True, eq=False)
class Replayed(Blended):
    """The same with the states of the image's own encoding for the known part (arXiv:2210.11427 §3.2, step 3).

    Args:
        states: by their times, those of ``encoded``.
    """

    states: Mapping[float, Tensor] = field(default_factory=dict)

    def at(self, process: ScalarGaussian, s: Tensor, noise: Noise) -> Tensor:
        return self.states[float(s)] if float(s) else self.known
