"""One run of a sampler in a pipeline: what is asked when, and what is remembered between two outputs of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..._errors import UserError
from ...distributions import Distribution, Noise
from ...processes import ScalarGaussian
from ...samplers import GaussianRemainder, Sampler, State
from .questions import Answers, Question, evaluations

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Entry:
    """One line of ``timesteps``: evaluation ``call`` of step ``step``, at the time ``t``."""

    step: int
    call: int
    t: float


class Run:
    """A sampler on a grid, whose network is called by a pipeline.

    Args:
        sampler: the update rule.
        process: of the states.
        grid: float64 ``(n + 1,)``, falling. A first time of pure noise from which the sampler has no step is
            replaced by one a little below.
    """

    def __init__(self, sampler: Sampler, process: ScalarGaussian, grid: Tensor) -> None:
        self.sampler, self.process = sampler, process
        frame = sampler.frame if isinstance(sampler, GaussianRemainder) else None
        shape = (1,) if frame is None else (len(frame.mean),)
        try:
            found = evaluations(sampler, process, grid, shape)
        except UserError:
            if float(process.alpha(grid[0])) > 0:
                raise
            # The state there has the law of pure noise but for a thousandth.
            first = max(process.t_max, float(1 + grid[1]) / 2)
            grid = torch.cat((grid.new_tensor([first]), grid[1:]))
            found = evaluations(sampler, process, grid, shape)
        self.grid, self.noisy = grid, found.noisy
        self.entries = tuple(Entry(i, j, t) for i, times in enumerate(found.times) for j, t in enumerate(times))
        self.next: int | None = None
        self.forget()

    @property
    def order(self) -> int:
        """Evaluations of a step, where all but the last one have as many; 1 otherwise."""
        calls = [e.call + 1 for e, n in zip(self.entries, self.entries[1:]) if n.call == 0]
        return calls[0] if calls and len(set(calls)) == 1 else 1

    def forget(self) -> None:
        """Nothing is remembered of the outputs so far; noise gets a new key."""
        self._planned: Sampler | None = None
        self._noise: Noise | None = None
        self._start: State | None = None
        self._inner: Tensor | None = None
        self._answers: tuple[Distribution, ...] = ()
        self._reached: dict[int, State] = {}

    def end_at(self, t: Tensor) -> None:
        """End the last step at t instead."""
        self.grid, self._planned = torch.cat((self.grid[:-1], t.reshape(1))), None

    def show(self, index: int, sample: Tensor) -> Tensor:
        """Take the state for which the network was asked at a line; it is returned as it was before it was rounded."""
        entry = self.entries[index]
        if entry.call == 0:
            self._start, self._answers = self._state(index, sample), ()
            return self._start.x
        if index != self.next:
            raise UserError(
                f"step {entry.step} must begin at its first evaluation; index {index} is in the midst of it"
            )
        assert self._inner is not None
        return self._inner if _same(self._inner, sample) else _widened(sample)

    def answer(self, index: int, belief: Distribution, generator: Generators) -> Tensor:
        """Take the belief about that state; the state to ask about next."""
        start, i = self._start, self.entries[index].step
        assert start is not None
        self._answers, self.next = (*self._answers, belief), index + 1
        if self.noisy and self._noise is None:
            self._noise = keyed(generator, start.x)
        noise = self._noise or Noise(0, len(start.x)).to(start.x.device)
        denoiser = Answers(self.process, tuple(start.x.shape[1:]), start.x, self._answers)
        if self._planned is None:
            self._planned = self.sampler.for_model(denoiser).plan(self.process, self.grid)
        try:
            reached = self._planned.step(start, self.grid[i + 1], denoiser, noise.step(i + 1))
        except Question as question:
            self._inner = question.x
            return question.x
        self._reached = {i: start, i + 1: reached}
        return reached.x

    def _state(self, index: int, sample: Tensor) -> State:
        """The state at the begin of a step, with the memory of the steps that led there."""
        step, x = self.entries[index].step, _widened(sample)
        reached = self._reached.get(step)
        if reached is not None and _same(reached.x, sample):
            return reached
        if reached is not None and index == self.next:
            if reached.x.shape != x.shape:
                raise UserError(f"sample must be {tuple(reached.x.shape)} as in the steps before, got {tuple(x.shape)}")
            return replace(reached, x=x)
        self.forget()
        return State(x, self.grid[step])


def _widened(sample: Tensor) -> Tensor:
    return sample.to(torch.promote_types(sample.dtype, torch.float32))


def _same(x: Tensor, sample: Tensor) -> bool:
    """Whether a sample is the state x as a pipeline was given it, rounded to its dtype."""
    return x.shape == sample.shape and torch.equal(x.to(sample.dtype), sample)


def keyed(generator: Generators, x: Tensor) -> Noise:
    """The noise of a run for states x, by a key drawn from a generator, or one for each of several."""

    def draw(one: torch.Generator | None, high: int) -> int:
        return int(torch.randint(high, (), generator=one, device="cpu" if one is None else one.device))

    if isinstance(generator, Sequence):
        if len(generator) != len(x):
            raise UserError(f"generator must be one for each of the {len(x)} samples, got {len(generator)}")
        return Noise(0, torch.tensor([draw(one, 2**32) for one in generator])).to(x.device)
    return Noise(draw(generator, 2**62), len(x)).to(x.device)
