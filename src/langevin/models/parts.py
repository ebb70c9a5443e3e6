"""Models of parts: a denoiser of codes with the codec they are of, and stages of which each goes on from the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import Denoiser, EvaluationCounter, LearnedFor, NetworkDenoiser, Transform
from ..distributions import Distribution
from .codec import Autoencoder


@dataclass(frozen=True, eq=False)
class Latent(Transform):
    """A denoiser of codes (arXiv:2112.10752): it is sampled as any other, and what is read out of a state is decoded.

    Args:
        base: the denoiser; its data are the codes.
        codec: gives codes of data and data of codes.
    """

    base: NetworkDenoiser
    codec: Autoencoder
    kind = "latent"

    def __repr__(self) -> str:
        return f"Latent({self.base!r}, {self.codec!r})"

    def __post_init__(self) -> None:
        super().__post_init__()
        if tuple(self.base.shape) != self.codec.latent:
            raise UserError(f"the codes of the codec have shape {self.codec.latent}, the denoiser's {self.base.shape}")

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return self.base(x_t, t)

    @property
    def belief_of(self) -> Denoiser:
        return self.base

    @property
    def autoencoder(self) -> Autoencoder:
        return self.codec

    @property
    def output(self) -> Any:
        return self.codec.data

    @torch.no_grad()
    def read(self, x_t: Tensor) -> Tensor:
        codes = self.base.read(x_t)
        made = self.codec.decode(codes.to(self.codec.device, self.codec.dtype)).mean
        low, high = self.codec.data.low, self.codec.data.high
        return made if low is None else made.clamp(low, high)

    def learned_solvers(self, guidance_scale: float = 1.0) -> tuple[LearnedFor, ...]:
        return self.base.learned_solvers(guidance_scale)

    @property
    def config(self) -> Mapping[str, Any]:
        """How the denoiser was made."""
        return self.base.config

    @property
    def counter(self) -> EvaluationCounter:
        """Where its evaluations are counted."""
        return self.base.counter

    @property
    def network(self) -> Any:
        """The denoiser's network."""
        return self.base.network

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """The conditions it takes, with their sizes."""
        return self.base.condition_sizes

    def counted(self) -> Latent:
        """The same with a counter of its own."""
        return replace(self, base=self.base.counted())

    @property
    def parts(self) -> Mapping[str, Any]:
        """What is kept of it, by the name of its directory."""
        return {"denoiser": self.base, "codec": self.codec}

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> Latent:
        """The inverse of ``parts``."""
        if set(parts) != {"denoiser", "codec"} or not isinstance(parts["denoiser"], NetworkDenoiser):
            raise UserError(f"a latent has the parts denoiser and codec, got {sorted(parts)}")
        if not isinstance(parts["codec"], Autoencoder):
            raise UserError(f"the part codec of a latent must be a codec, got a {type(parts['codec']).__name__}")
        return cls(parts["denoiser"], parts["codec"])


def with_denoiser(model: Any, denoiser: NetworkDenoiser) -> Any:
    """A model with another denoiser in the place of its own: of a latent one, the denoiser of its codes."""
    return replace(model, base=denoiser) if isinstance(model, Latent) else denoiser


@dataclass(frozen=True, eq=False)
class Cascade(Denoiser):
    """Denoisers of which each is told, as the condition ``image``, what the one before it made (arXiv:2106.15282).

    ``langevin.sample`` runs them one after the other, each with noise of its own. It has no belief as a whole, so that
    guidance is of each of them: ``guidance.classifier_free`` leads every stage that takes the condition.

    Args:
        models: at least two, networks or what is made of them; all but the first take the condition ``image``. A
            model directory holds cascades of networks.
    """

    models: tuple[Any, ...]
    kind = "cascade"

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        fits = lambda stage: isinstance(stage, Denoiser) and stage.trained and stage.autoencoder is None
        if len(self.models) < 2 or not all(fits(stage) and len(stage.stages) == 1 for stage in self.models):
            kinds = ", ".join(type(stage).__name__ for stage in self.models)
            raise UserError(f"models must be two denoisers of networks or more, got {len(self.models)} ({kinds})")
        for i, stage in enumerate(self.stages[1:], 1):
            if "image" not in stage.conditions():
                raise UserError(f"stages[{i}] must take the condition image, got {stage.conditions()}")

    @property
    def stages(self) -> tuple[Any, ...]:
        return self.models

    @cached_property
    def last(self) -> Any:
        """The stage whose samples are the cascade's."""
        return self.stages[-1]

    @property
    def process(self) -> Any:
        return self.last.process

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.last.shape
        return shape

    @property
    def data(self) -> Any:
        return self.last.data

    @property
    def output(self) -> Any:
        return self.last.output

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.last.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.last.device
        return device

    @property
    def children(self) -> tuple[Denoiser, ...]:
        return self.stages

    @property
    def config(self) -> Mapping[str, Any]:
        """How the last stage was made."""
        config: Mapping[str, Any] = self.last.config
        return config

    @property
    def counter(self) -> EvaluationCounter:
        """Where evaluations of all stages are counted."""
        counter: EvaluationCounter = self.last.counter
        return counter

    def counted(self) -> Cascade:
        """The same with one counter of its own for all stages."""
        counter = EvaluationCounter()
        return replace(self, models=tuple(replace(stage, counter=counter) for stage in self.stages))

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """The conditions that any stage takes, but the image that one makes for the next."""
        later = {name: n for stage in self.stages[1:] for name, n in stage.condition_sizes.items() if name != "image"}
        return {**later, **self.stages[0].condition_sizes}

    def conditions(self) -> tuple[str, ...]:
        return tuple(self.condition_sizes)

    def with_stages(self, stages: Sequence[Denoiser]) -> Cascade:
        return replace(self, models=tuple(stages))

    def _bind(self, condition: dict[str, Any]) -> Cascade:
        def told(i: int, stage: Any) -> Any:
            names = {name for name in stage.conditions() if i == 0 or name != "image"}
            mine = {name: value for name, value in condition.items() if name in names}
            return stage.given(mine) if mine else stage

        return replace(self, models=tuple(told(i, stage) for i, stage in enumerate(self.stages)))

    def rows(self, index: slice | Tensor) -> Cascade:
        return replace(self, models=tuple(stage.rows(index) for stage in self.stages))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Any:
        raise UserError("a cascade has no belief as a whole, so it cannot be guided; ask one of its models alone")

    @property
    def parts(self) -> Mapping[str, Any]:
        """What is kept of it, by the name of its directory."""
        return {f"stage-{i}": stage for i, stage in enumerate(self.stages)}

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> Cascade:
        """The inverse of ``parts``."""
        names = [f"stage-{i}" for i in range(len(parts))]
        if set(parts) != set(names):
            raise UserError(f"a cascade has the parts {', '.join(names)}, got {sorted(parts)}")
        return cls(tuple(parts[name] for name in names))


PARTED: dict[str, Any] = {"latent": Latent, "cascade": Cascade}
"""Kinds of models of parts, by the name that stands in ``config.json``."""
