"""What an objective answers, and those that weigh the error of x̂_0."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError, nearest, unknown
from .._registry import name_of
from ..denoisers import Denoiser, NetworkDenoiser
from ..distributions import Noise
from .players import Player
from .times import TimestepDistribution, Uniform
from .weights import WEIGHTS

Condition = Mapping[str, Any]


class Objective(ABC):
    """How a denoiser is learned: ``objective(denoiser, x0, condition, noise)`` is one loss a sample.

    Attributes:
        reads: conditions that it reads itself, beside those that the network takes.
        whole_batch: whether the loss of a sample depends on the others of its batch, which then is not divided.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    whole_batch: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        """Losses ``(B,)``, float64, whose mean is to be made small.

        Args:
            denoiser: what is learned; gradients reach its network.
            x0: clean data ``(B, *shape)``.
            condition: what to bind for these samples, or None.
            noise: of these samples: it decides times and noise, and nothing else is random.
        """

    def accuracy(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor | None:
        """What share of each sample's decisions is right, ``(B,)``, for validation; None where nothing is decided."""
        return None

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027 (an objective may take any denoiser)
        """Refuse a denoiser the objective is not defined for, before any work."""

    def prepare(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The denoiser as it is while it learns: itself, unless more than its network learns."""
        return denoiser

    def players(self, model: Any) -> dict[str, Player]:
        """Who learns in a prepared model, in the order of their turns: its network, by this objective."""
        return {"model": Player(model.network, self)}

    def finish(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The inverse of ``prepare``: what is sampled from and saved."""
        return denoiser

    @property
    def learns(self) -> bool:
        """Whether the objective depends on the losses it has been shown by ``observe``."""
        return False

    def observe(self, loss: Tensor, noise: Noise) -> None:  # noqa: B027 (most objectives learn nothing)
        """Take in the losses ``(B,)`` of a step: those of every process, in the order of the samples of ``noise``."""

    def for_validation(self) -> Objective:
        """An objective of the same expectation that never changes: for validation."""
        return self

    def state(self) -> dict[str, Any]:
        """What ``observe`` has gathered, as plain JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """The inverse of ``state``."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The objective as plain JSON, for ``create_objective``."""


class Timed(Objective):
    """An objective at times drawn from a law: what the law learns is what the objective learns."""

    times: TimestepDistribution

    @property
    def learns(self) -> bool:
        return self.times.learns

    def observe(self, loss: Tensor, noise: Noise) -> None:
        u = self.times.uniform(noise)
        self.times.observe(u, loss)

    def for_validation(self) -> Objective:
        assert is_dataclass(self)
        return replace(self, times=self.times.for_validation())

    def state(self) -> dict[str, Any]:
        return self.times.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.times.restore(state)


BASE = ("weight", "times", "settings")
"""The fields of ``DenoisingLoss`` itself."""


@dataclass(frozen=True)
class DenoisingLoss(Timed):
    r"""A weight on the error of x̂_0, at times drawn from a law:

    .. math:: w(t)\, \frac{1}{D} |\hat x_0(x_t, t) - x_0|^2, \quad t \sim \text{times}, \quad x_t \sim q(x_t | x_0)

    Only the mean of the belief is read. Over all functions of (x_t, t) the minimum is E[x_0 | x_t], for every weight
    and law.

    Args:
        weight: a row of ``WEIGHTS``.
        times: the law of t.
        settings: of the weight (``gamma`` of min-snr, ``sigma_data`` of edm).
    """

    weight: str = "simple"
    times: TimestepDistribution = Uniform()  # noqa: RUF009 (frozen)
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise unknown("objective", self.weight, WEIGHTS)
        parameters = inspect.signature(WEIGHTS[self.weight]).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        own = [f.name for f in fields(self) if f.init and f.name not in BASE]
        for key, value in self.settings.items():
            if key not in known:
                accepted = ", ".join([*own, *known]) or "no setting"
                close = nearest(key, [*own, *known])
                raise UserError(f"objective {self.name!r} takes {accepted}, got {key!r}.{close}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UserError(f"{key} must be a number > 0, got {value!r}")

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        u = self.times.uniform(noise)
        t = self.times.quantile(denoiser.process, u)
        bound = denoiser.given(condition) if condition else denoiser
        x_t = self.noised(bound, x0, t, noise)
        error = self.error(bound, x0, x_t, t, noise)
        # A number a sample: in float64 a weight of 1e12 near t = 0 does not overflow.
        return self.times.ratio(denoiser.process, u) * self._weight(denoiser, t) * error.to(torch.float64)

    def noised(self, denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The states x_t that the denoiser is asked about, ``(B, *state)``."""
        return denoiser.process.marginal(x0, t).sample(noise)

    def error(self, denoiser: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The mean squared error of x̂_0, ``(B,)``."""
        return (denoiser(x_t, t).mean - x0).square().flatten(1).mean(1)

    def _weight(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        return WEIGHTS[self.weight](denoiser, t, **self.settings)

    def check(self, denoiser: Denoiser) -> None:
        self.times.check(denoiser.process)
        t = self.times.quantile(denoiser.process, torch.tensor([1e-9, 0.5, 1 - 1e-9], dtype=torch.float64))
        weight = self._weight(denoiser, t)
        if not torch.isfinite(weight).all():
            raise UserError(f"objective {self.weight!r} is {weight.tolist()} at t = {t.tolist()} of {denoiser.process}")

    @property
    def name(self) -> str:
        """As in the registry: of the class, or of the weight for ``DenoisingLoss`` itself."""
        return name_of("objectives", type(self)) or self.weight

    def to_dict(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name not in BASE}
        weight = {} if type(self) is DenoisingLoss else {"weight": self.weight}
        return {"name": self.name, **weight, "times": self.times.to_dict(), **own, **self.settings}
