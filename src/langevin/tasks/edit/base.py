"""What an editing method is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import ScalarGaussian, require
from ...samplers import Ancestral, Sampler, trajectory


@dataclass(frozen=True, eq=False)
class Request:
    """An edit of a batch, with everything in the space of the states: images, or codes of a latent model.

    Args:
        denoiser: the belief under the condition asked for, guided if that is asked for.
        source: the belief under the condition that the image has now; without one if none is given.
        plain: the belief without a condition.
        image: clean, ``(B, *shape)``.
        guide: what the edit starts from, such as the image with strokes on it, ``(B, *shape)``.
        free: bool ``(1 or B, *shape)``, True where the image may change; None for all of it.
        times: from the level of the edit down to 0.
        sampler: the rule; None for the method's own.
        noise: of these samples.
        told: called once a step.
        guidance_scale: of the classifier-free guidance in ``denoiser``.
    """

    denoiser: Denoiser
    source: Denoiser
    plain: Denoiser
    image: Tensor
    guide: Tensor
    free: Tensor | None
    times: Tensor
    sampler: Sampler | None
    noise: Noise
    told: Callable[[], None]
    guidance_scale: float = 1.0

    @property
    def process(self) -> ScalarGaussian:
        """The process of the belief."""
        return require(self.denoiser.process, ScalarGaussian, "editing")

    def raised(self, x: Tensor, number: int = 0) -> Tensor:
        """q(x_t | x) at the level of the edit, drawn for the pass of a number."""
        return self.process.marginal(x, self.times[0]).sample(self.noise.fold_in(Stream.RAISED + number))

    def down(self, sampler: Sampler, start: Tensor, number: int = 0) -> Tensor:
        """From a state at the level of the edit down to clean data."""
        noise = self.noise.fold_in(Stream.PASS + number)
        states = trajectory(self.denoiser, sampler, grid=self.times, start=start, noise=noise)
        state = next(states)
        for state in states:  # noqa: B007 (the last one is the result)
            self.told()
        return state.x


class EditMethod(ABC):
    """How an image is edited: a frozen dataclass of settings, registered as ``edit/NAME``."""

    needs_mask: ClassVar[bool] = False
    """Whether a mask must be given."""
    compares: ClassVar[bool] = False
    """Whether it asks for the condition that the image has now, ``source``."""

    @property
    def passes(self) -> int:
        """How many times the grid is walked."""
        return 1

    def sampler(self) -> Sampler:
        """The rule that is taken where none is named."""
        return Ancestral()

    @abstractmethod
    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        """The edited states ``(B, *shape)`` at t = 0, and where they may differ from the image: None for all of it."""


def composite(free: Tensor | None, x: Tensor, image: Tensor) -> Tensor:
    """x where the image may change, and elsewhere the image itself, bit for bit."""
    return x if free is None else torch.where(free, x, image.to(x))
