"""One run of a sampler in a pipeline: what is asked when, and what is remembered between two outputs of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..._errors import UserError
from ...distributions import Dirac, Distribution, Noise
from ...numerics.frame import GaussianFrame
from ...processes import ScalarGaussian
from ...samplers import GaussianRemainder, Sampler, State
from .choice import check_shape
from .learned import LearnedPipelineSolver
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
        own: whether the grid is the sampler's own. A first step that asks nothing is then no line of ``timesteps``, and
            the pipeline asks its network first at the end of that step; on another grid it asks as the grid says, and
            the output is not used.
        moments: the shape of the data whose moments were given.
    """

    def __init__(
        self,
        sampler: Sampler,
        process: ScalarGaussian,
        grid: Tensor,
        own: bool,
        moments: tuple[int, ...] | None = None,
    ) -> None:
        self.sampler, self.process, self.moments = sampler, process, moments
        frame = sampler.frame if isinstance(sampler, (GaussianRemainder, LearnedPipelineSolver)) else None
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
        self.leads = own and not found.times[0]
        unused = () if own or found.times[0] else (float(grid[0]),)
        asked = (found.times[0] or unused, *found.times[1:])
        self.entries = tuple(Entry(i, j, t) for i, times in enumerate(asked) for j, t in enumerate(times))
        self.entered = False  # whether the states it begins with are of data that were noised to its first line
        self.forget()

    @property
    def steps(self) -> int:
        """Steps that ask the network."""
        return sum(entry.call == 0 for entry in self.entries)

    @property
    def order(self) -> int:
        """Evaluations of a step, where all but the last one have as many; 1 otherwise."""
        calls = [e.call + 1 for e, n in zip(self.entries, self.entries[1:]) if n.call == 0]
        return calls[0] if calls and len(set(calls)) == 1 else 1

    def forget(self) -> None:
        """Nothing is remembered of the outputs so far; noise gets a new key."""
        self.next: int | None = None
        self._planned: Sampler | None = None
        self._noise: Noise | None = None
        self._start: State | None = None
        self._inner: Tensor | None = None
        self._answers: tuple[Distribution, ...] = ()
        self._reached: dict[int, State] = {}
        self._led = False
        self._noise_led: Tensor | None = None
        self._unseen: Tensor | None = None

    def begin(self) -> None:
        """Forget a run that was made before on the same grid, if there was one."""
        if self.next is not None:
            self.forget()

    def end_at(self, t: Tensor) -> None:
        """End the last step at t instead."""
        self.grid, self._planned = torch.cat((self.grid[:-1], t.reshape(1))), None

    def show(self, index: int, sample: Tensor) -> Tensor:
        """Take the state for which the network was asked at a line; it is returned as it was before it was rounded."""
        entry = self.entries[index]
        if entry.call == 0:
            self._start, self._answers = self._state(index, sample), ()
            led = self._is_led(index, sample)
            self._noise_led = sample if led else None
            self._unseen = self._start.x - _widened(sample) if led and not self._led else None
            return self._start.x if self._unseen is None else _widened(sample)
        if index != self.next:
            raise UserError(
                f"step {entry.step} must begin at its first evaluation; index {index} is in the midst of it"
            )
        assert self._inner is not None
        return self._inner if _same(self._inner, sample) else _widened(sample)

    def led(self, sample: Tensor) -> Tensor:
        """What the network is shown first: pure noise after the first step, which asks nothing."""
        self._led = True
        return self._after_lead(sample).x.to(sample.dtype)

    def _is_led(self, index: int, sample: Tensor) -> bool:
        """Whether a sample is pure noise, from which the first step leads to this line."""
        again = self._noise_led is not None and _same(self._noise_led, sample)
        return self.leads and index == 0 and not self.entered and (self.next is None or again)

    def _after_lead(self, sample: Tensor) -> State:
        start = State(_widened(sample), self.grid[0])
        return self._on_grid(start.x).step(start, self.grid[1], self._denoiser(start.x), Noise(0, len(sample)))

    def _moved(self, belief: Distribution, by: Tensor) -> Distribution:
        """A belief about pure noise as one about the state that the first step makes of it: a Gaussian's moves by

        V diag(αλ/(α²λ + σ²)) Vᵀ of what the state does, a sixty-fourth at most so far above the data's spread.
        """
        frame = getattr(self._planned, "frame", None)
        assert isinstance(frame, GaussianFrame)
        alpha, sigma = float(self.process.alpha(self.grid[1])), float(self.process.sigma(self.grid[1]))
        gain = alpha * frame.variances / (alpha**2 * frame.variances + sigma**2)
        move = frame.basis.back(gain * frame.basis.to(by.flatten(1).double()))
        return Dirac(belief.mean + move.to(belief.mean).reshape(by.shape))

    def _denoiser(self, x: Tensor) -> Answers:
        return Answers(self.process, tuple(x.shape[1:]), x, self._answers)

    def _on_grid(self, x: Tensor) -> Sampler:
        """The sampler, planned for states like x."""
        if self._planned is None:
            check_shape(self.moments, tuple(x.shape[1:]))
            self._planned = self.sampler.for_model(self._denoiser(x)).plan(self.process, self.grid)
        return self._planned

    def answer(self, index: int, belief: Distribution, generator: Generators) -> Tensor:
        """Take the belief about that state; the state to ask about next."""
        start, i = self._start, self.entries[index].step
        assert start is not None
        if self._unseen is not None:
            belief, self._unseen = self._moved(belief, self._unseen), None
        self._answers, self.next = (*self._answers, belief), index + 1
        if self.noisy and self._noise is None:
            self._noise = keyed(generator, start.x)
        noise = self._noise or Noise(0, len(start.x)).to(start.x.device)
        try:
            planned = self._on_grid(start.x)
            reached = planned.step(start, self.grid[i + 1], self._denoiser(start.x), noise.step(i + 1))
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
        led = self._is_led(index, sample)
        self._planned, self._noise, self._reached = None, None, {}
        return self._after_lead(sample) if led else State(x, self.grid[step])


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
