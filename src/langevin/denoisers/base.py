"""A denoiser is a belief about clean data: x_t and t in, a law of x_0 out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import Self, TypeVar

from .._errors import UserError, nearest, shown
from ..distributions import Distribution
from ..numerics.frame import DataMoments
from ..processes import Process
from .parameterization import Parameterization

P = TypeVar("P", bound=Process, default=Process, covariant=True)


class LearnedFor(Protocol):
    """A sampler that was learned for one model."""

    def fits(self, denoiser: Denoiser, guidance_scale: float) -> bool:
        """Whether it was learned for this process, this guidance scale and what is bound."""
        ...


class DataDescription(DataMoments):
    """What a denoiser may say of its data, beside their moments; None where it does not.

    Attributes:
        shape: the event.
        low, high: the range of the values.
        levels: how many values a coordinate takes between ``low`` and ``high``, equally far apart.
        conditions: the shape of what belongs to each example, by name.
    """

    if TYPE_CHECKING:  # read-only: a class may have them as fields or as properties

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def low(self) -> float | None: ...
        @property
        def high(self) -> float | None: ...
        @property
        def levels(self) -> int | None: ...
        @property
        def conditions(self) -> Mapping[str, tuple[int, ...]]: ...

    else:
        low = high = levels = None
        conditions = MappingProxyType({})


class EvaluationCounter:
    """Network evaluations, counted per sample: a call on two conditions at once is two."""

    def __init__(self) -> None:
        self.calls = 0

    def __repr__(self) -> str:
        return f"EvaluationCounter({self.calls})"


class Denoiser(ABC, Generic[P]):
    """``denoiser(x_t, t)`` is a ``Distribution`` over x_0; ``denoiser.process`` says what x_t is.

    Attributes:
        process: the forward noising the belief is about.
        shape: the event shape of the data.
        data: the description of the data that travels with the model; None if there is none.
        condition: what is bound, a tensor a name.
        class_label: the label, if one is bound for all samples.
        learned_variances: variances learned for this model, by name: functions from a denoiser to one with its mean.
        config: how the model was made, as plain JSON; empty for what was not made by training.
        counter: where evaluations of the network are counted; None where there is none, or several.
        parameterization: how a network's output is read as this belief; None for any other belief.
        condition_sizes: the conditions that a network takes, with their sizes.
    """

    if TYPE_CHECKING:  # read-only: a class may have them as fields or as properties

        @property
        def process(self) -> P: ...
        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def data(self) -> DataDescription | None: ...
        @property
        def condition(self) -> Mapping[str, Tensor]: ...
        @property
        def class_label(self) -> int | None: ...
        @property
        def learned_variances(self) -> Mapping[str, Callable[[Denoiser], Denoiser]]: ...
        @property
        def config(self) -> Mapping[str, Any]: ...
        @property
        def counter(self) -> EvaluationCounter | None: ...
        @property
        def parameterization(self) -> Parameterization | None: ...
        @property
        def condition_sizes(self) -> Mapping[str, int]: ...

    else:
        data = class_label = counter = parameterization = None
        condition = learned_variances = config = condition_sizes = MappingProxyType({})

    @property
    def children(self) -> tuple[Denoiser, ...]:
        """The denoisers this one is made of."""
        return ()

    @property
    def belief_of(self) -> Denoiser:
        """The denoiser whose belief this one's is, where it is another's and only read differently: itself."""
        return self

    @property
    def autoencoder(self) -> Any:
        """What makes states of data and data of states where states are codes; None where states are the data."""
        return None

    @property
    def stages(self) -> tuple[Denoiser, ...]:
        """The denoisers that are sampled one after the other, each told what the one before made: this one alone."""
        return (self,)

    def with_stages(self, stages: Sequence[Denoiser]) -> Denoiser:
        """The same with others in the place of its stages."""
        (alone,) = stages
        return alone

    @property
    def output(self) -> Any:
        """The description of what is read out of a state: of the data, unless these are codes of others."""
        return self.data

    @property
    def class_names(self) -> list[str]:
        """What the labels are called, none where it takes none; their numbers where the data give no names."""
        count = self.condition_sizes.get("label", 0)
        known = [] if self.output is None else list(self.output.classes)
        return known if len(known) == count else [str(k) for k in range(count)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The event shape of what is read out of a state."""
        return tuple(self.shape if self.output is None else self.output.shape)

    def read(self, x_t: Tensor) -> Tensor:
        """The data in a state at t = 0, as ``sample`` returns them."""
        return self.process.read(x_t)

    @property
    def trained(self) -> bool:
        """Whether the belief is a trained network's, and so has its errors; exact if not."""
        return any(child.trained for child in self.children)

    @property
    def extrapolation(self) -> float:
        """How far beyond its parts guidance takes the belief: Σ|w| of the weights they are summed with, 1 without.

        Guidance of scale w ≥ 1 has 2w − 1. What solvers integrate varies so much faster.
        """
        return max([1.0, *(child.extrapolation for child in self.children)])

    def learned_solvers(self, guidance_scale: float = 1.0) -> tuple[LearnedFor, ...]:
        """The samplers learned for this model that fit what is bound, used under this guidance scale."""
        return ()

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        """The belief about x_0 given states ``(B, *state)`` at times ``()`` or ``(B,)``."""

    def given(self, condition: Mapping[str, Any] | None = None, /, **named: Any) -> Denoiser:
        """The denoiser under a condition, bound once: ``given(label=3)`` or ``given({"label": labels})``.

        The process takes ``endpoint``; everything else must be declared by the denoiser.
        """
        if condition is not None and not isinstance(condition, Mapping):
            raise UserError(f"condition must be a mapping such as {{'label': 3}}, got {shown(condition)}")
        condition = {**(condition or {}), **named}
        endpoint = condition.pop("endpoint", None)
        known = self.conditions()
        for key in condition:
            if key not in known:
                accepted = ", ".join(sorted(known)) or "no condition"
                raise UserError(f"condition {key!r} is not one this model takes ({accepted}).{nearest(key, known)}")
        bound = self._bind(condition) if condition else self
        return bound if endpoint is None else bound.replaced(process=self.process.given(endpoint))

    def replaced(self, **fields: Any) -> Self:
        """The same with other fields."""
        assert is_dataclass(self)
        return replace(self, **fields)

    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions that can be given."""
        return ()

    def _bind(self, condition: dict[str, Any]) -> Denoiser:
        raise NotImplementedError  # only reached by a denoiser that declares conditions and does not bind them

    def rows(self, index: slice | Tensor) -> Denoiser[P]:
        """The denoiser for some of the samples: conditions bound a sample each are cut, all else stays."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype samples are returned in."""
        return torch.float64

    @property
    def device(self) -> torch.device:
        """Where states live."""
        return torch.device("cpu")


def check_is_denoiser(value: object, name: str = "denoiser") -> Denoiser:
    """The denoiser; what is none is refused, and how to make one of it said where that is known.

    Raises:
        UserError: with the argument, what came and what is accepted.
    """
    if isinstance(value, Denoiser):
        return value
    hint = ""
    if isinstance(value, (str, os.PathLike)):
        hint = f"; load the model first: langevin.load({str(value)!r:.80})"
    elif not isinstance(value, type) and callable(getattr(value, "denoiser", None)):
        hint = "; take its denoiser on a process: world.denoiser(langevin.processes.VP())"
    elif callable(value) and not isinstance(value, type):
        hint = "; wrap a network with langevin.denoiser(network, process=…, prediction=…, shape=…)"
    got = type(value).__name__ if isinstance(value, nn.Module) else shown(value)
    raise UserError(f"{name} must be a denoiser, got {got}{hint}")


@runtime_checkable
class Density(Protocol):
    """A denoiser that knows the density of its noised law; with ``comparable = False`` up to a constant at each t."""

    def log_density(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x_t) in nats, ``(B,)``."""
        ...


class Derived(Denoiser):
    """A denoiser made from others, one of which, its ``base``, says what the data and the process are."""

    if TYPE_CHECKING:

        @property
        def base(self) -> Denoiser: ...

    @property
    def output(self) -> Any:
        return self.base.output

    def read(self, x_t: Tensor) -> Tensor:
        return self.base.read(x_t)

    @property
    def autoencoder(self) -> Any:
        return self.base.autoencoder

    @property
    def process(self) -> Process:
        return self.base.process

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def data(self) -> DataDescription | None:
        return self.base.data

    @property
    def condition(self) -> Mapping[str, Tensor]:
        return self.base.condition

    @property
    def class_label(self) -> int | None:
        return self.base.class_label

    @property
    def learned_variances(self) -> Mapping[str, Callable[[Denoiser], Denoiser]]:
        return self.base.learned_variances

    @property
    def children(self) -> tuple[Denoiser, ...]:
        return (self.base,)

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device


@dataclass(frozen=True, eq=False)
class Transform(Derived):
    """A denoiser made from another: conditions, shape and process pass through."""

    base: Denoiser

    def __post_init__(self) -> None:
        check_is_denoiser(self.base)

    def conditions(self) -> tuple[str, ...]:
        return self.base.conditions()

    def _bind(self, condition: dict[str, Any]) -> Denoiser:
        return replace(self, base=self.base.given(condition))

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, base=self.base.rows(index))
