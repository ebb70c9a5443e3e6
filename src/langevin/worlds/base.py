"""A world is data whose law is known exactly, before and after noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer, shown
from ..denoisers import DataDescription, Denoiser
from ..denoisers.conditions import as_labels, check_label
from ..distributions import Distribution, Noise, Stream
from ..operators import Measurement, MeasurementNoise, Operator
from ..processes import Process, Score, as_time, check_process, require


class World(DataDescription, ABC):
    r"""A law p_0 = Σ_k π_k p_0(· | k) of components that stay tractable under noise.

    Subclasses say how the noised component explains a state, and what it then believes about x_0; density, score,
    belief and classifier follow:

    .. math:: p_t(x) = \sum_k π_k\, q_t(x | k), \quad p(k | x_t) \propto π_k\, q_t(x_t | k)

    Attributes:
        shape: event shape of the data.
        log_weights: log π_k, float64 ``(K,)``.
        labels: the label of each component, int64 ``(K,)``.
    """

    shape: tuple[int, ...]
    log_weights: Tensor
    labels: Tensor

    @abstractmethod
    def evidence(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        """log q_t(x_t | k), float64 ``(B, K)``."""

    @abstractmethod
    def belief(self, x_t: Tensor, t: Tensor, process: Process, log_weights: Tensor) -> Distribution:
        """p(x_0 | x_t) where component k has the posterior log weight ``(B, K)``."""

    @abstractmethod
    def clean(self, noise: Noise, component: Tensor) -> Tensor:
        """x_0 of given components ``(B,)``."""

    @abstractmethod
    def log_prob_clean(self, x: Tensor) -> Tensor:
        """log p_0(x | k), ``(B, K)``."""

    @property
    def classes(self) -> int:
        """The number of labels."""
        return int(self.labels.max()) + 1

    def sample(
        self,
        noise: Noise | int,
        seed: int = 0,
        *,
        process: Process | None = None,
        t: Tensor | float = 0.0,
        with_labels: bool = False,
    ) -> Any:
        """Draws of x_0, or of x_t if a process is given; a number n stands for ``Noise(seed, n)``.

        Returns:
            ``(B, *shape)``, or with ``with_labels`` a pair with the labels, int64 ``(B,)``.
        """
        noise = noise if isinstance(noise, Noise) else Noise(seed, check_integer("noise", noise, 0, 2**32))
        cumulative = torch.cumsum(self.log_weights.exp(), 0)
        u = noise.fold_in(Stream.COMPONENT).uniform(()) * cumulative[-1]
        k = torch.searchsorted(cumulative, u, right=True).clamp_max(len(cumulative) - 1)
        # Folded: a process's prior draws from the plain noise of the same seed.
        x = self.clean(noise.fold_in(Stream.CLEAN), k)
        if process is not None:
            check_process(process)
            x = process.marginal(x, t).sample(noise.fold_in(Stream.NOISED))
        return (x, self.labels[k]) if with_labels else x

    def log_prob(self, x: Tensor, process: Process | None = None, t: Tensor | float | None = None) -> Tensor:
        """log p_t(x) in nats, ``(B,)``; of the data themselves if no process is given."""
        if process is None:
            return torch.logsumexp(self.log_weights + self.log_prob_clean(self._check(x)), -1)
        if t is None:
            raise UserError("t must be given with a process: log p_t(x) of which time?")
        return torch.logsumexp(self._log_joint(x, as_time(t), process), -1)

    def _log_joint(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        """log π_k q_t(x_t | k), float64 ``(B, K)``."""
        self._check(process.read(x_t) if isinstance(x_t, Tensor) else x_t)
        return self.log_weights + self.evidence(x_t, t, process)

    def score(self, x: Tensor, process: Process, t: Tensor | float) -> Tensor:
        """∇ log p_t(x), shaped like x."""
        result: Tensor = require(process, Score, "score").score(x, self.denoiser(process)(x, t), t)
        return result

    def part(self, label: int) -> World:
        """The world of one label, or the world itself where it does not come apart (and for −1)."""
        return self

    def denoiser(self, process: Process) -> WorldDenoiser:
        """The exact belief p(x_0 | x_t); ``.given(label=…)`` conditions it."""
        check_process(process)
        return WorldDenoiser(self, process)

    def classifier(self, process: Process) -> Classifier:
        """The exact noisy classifier: ``classifier(x_t, t)`` is log p(label | x_t), ``(B, classes)``."""
        check_process(process)
        return Classifier(self, process)

    def posterior(self, operator: Operator, y: Tensor, std: float | MeasurementNoise) -> World:
        """The law p(x_0 | y) of data of which y = A(x_0) + n was measured, as a world.

        Of Gaussian mixtures for linear operators with Gaussian noise, of finite sets for every operator and noise.

        Args:
            operator: A, for data of this world's shape.
            y: one measurement, ``(*measured)`` or ``(1, *measured)``.
            std: standard deviation of the noise, or its law.

        Raises:
            UserError: where this world has no closed form for it.
        """
        measurement = one_measurement(operator, y, std, self.shape)
        return self._posterior(measurement)

    def _posterior(self, measurement: Measurement) -> World:
        raise UserError(f"posterior needs a Gaussian mixture or a finite set of points, got {self!r}")

    def _check(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise UserError(f"x must be a tensor of shape (B, {', '.join(map(str, self.shape))}), got {shown(x)}")
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, components={len(self.log_weights)})"


def one_measurement(
    operator: Operator, y: Tensor, std: float | MeasurementNoise, shape: tuple[int, ...]
) -> Measurement:
    """The one measurement y of data of a shape, with or without its axis of samples."""
    if isinstance(y, Tensor) and isinstance(operator, Operator) and tuple(y.shape) == operator.measured(shape):
        y = y[None]
    measurement = Measurement(operator, y, std)
    operator.check(shape, y)
    if len(y) != 1:
        raise UserError(f"y must be one measurement, got {len(y)}")
    return measurement


@dataclass(frozen=True, eq=False)
class WorldDenoiser(Denoiser):
    """p(x_0 | x_t) of a world, in closed form; with a label, of its components alone."""

    world: World
    process: Process
    label: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.world.shape

    @property
    def data(self) -> World:
        """The law the belief is about: the world, or with one label its part; for its ``mean`` and ``cov``."""
        return self.world if self.label is None or len(self.label) > 1 else self.world.part(int(self.label))

    def conditions(self) -> tuple[str, ...]:
        return ("label",)

    def _bind(self, condition: dict[str, Any]) -> WorldDenoiser:
        if condition["label"] is None:
            return replace(self, label=None)
        label = as_labels(condition["label"]).reshape(-1)
        check_label(label, self.world.classes, absent=True)
        possible = self.world.labels[self.world.log_weights > -torch.inf]
        if not (torch.isin(label, possible) | (label == -1)).all():
            raise UserError(f"label must be that of a component with weight > 0, got {condition['label']}")
        return replace(self, label=label)

    def rows(self, index: slice | Tensor) -> WorldDenoiser:
        if self.label is None or self.label.shape[0] == 1:
            return self
        return replace(self, label=self.label[index])

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        t = as_time(t)
        log_weights = torch.log_softmax(self._log_joint(x_t, t), -1)
        return self.world.belief(x_t, t, self.process, log_weights)

    def log_density(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x_t) in nats, ``(B,)``; with a label, up to a constant, that of its components alone."""
        return torch.logsumexp(self._log_joint(x_t, as_time(t)), -1)

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log π_k q_t(x_t | k) of the components with the label, ``(B, K)``."""
        log_weights = self.world._log_joint(x_t, t, self.process)
        if self.label is not None:
            if self.label.shape[0] not in (1, x_t.shape[0]):
                raise UserError(f"label was given for {self.label.shape[0]} samples, but the batch has {x_t.shape[0]}")
            label = self.label[:, None]
            log_weights = torch.where((label == self.world.labels) | (label == -1), log_weights, -torch.inf)
        return log_weights


@dataclass(frozen=True, eq=False)
class Classifier:
    """log p(label | x_t) of a world, in closed form and differentiable in x_t."""

    world: World
    process: Process

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        posterior = torch.log_softmax(self.world._log_joint(x_t, as_time(t), self.process), -1)
        same = self.world.labels[:, None] == torch.arange(self.world.classes)
        return torch.logsumexp(torch.where(same, posterior[..., None], -torch.inf), 1)
