"""Models that make data out of noise in one step: generators of a GAN, normalizing flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, check_instance
from ..distributions import Dirac, Distribution
from ..processes import RectifiedFlow, as_time
from .base import EvaluationCounter
from .conditioned import Conditioned


@dataclass(frozen=True, eq=False, repr=False)
class Generator(Conditioned):
    """x_0 = g(z), z ~ N(0, I) (arXiv:1406.2661), as a belief at t = 1, where the state is z and the belief a point.

    ``langevin.sample`` takes one step. At other times there is no belief.

    Args:
        network: called as ``network(z, time, condition)`` with times 1.
        data: the description of the data.
        config: how the model was made, as plain JSON.
        condition: what is bound, a tensor a name.
        counter: where evaluations are counted.
        class_label: the label, if one is bound for all samples.
    """

    network: nn.Module
    data: Any = field()
    config: Mapping[str, Any] = field(default_factory=dict)
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)
    class_label: int | None = None
    process: RectifiedFlow = field(default_factory=RectifiedFlow)
    kind = "generator"

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of the data, which is that of the noise."""
        return tuple(self.data.shape)

    @property
    def _first(self) -> Tensor:
        return next(self.network.parameters())

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        bound = f", given {', '.join(self.condition)}" if self.condition else ""
        name = type(self).__name__
        return f"{name}({type(self.network).__name__} {count / 1e6:.2f} M, shape={self.shape}{bound}) of {self.data}"

    def generate(self, z: Tensor) -> Tensor:
        """g(z) of noise ``(B, *shape)``."""
        self.counter.calls += 1
        x: Tensor = self.network(z, torch.ones(len(z), device=z.device), self._given(len(z)))
        return x

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        check_instance("x_t", x_t, Tensor, f"a tensor of shape (B, {', '.join(map(str, self.shape))})")
        if not bool((as_time(t) == 1).all()):
            raise UserError(
                f"t must be 1 for a model that makes data in one step, got {t}; leave out sampler, grid, process and "
                "guidance"
            )
        return Dirac(self.generate(x_t.to(self.dtype)).to(x_t.dtype))


@dataclass(frozen=True, eq=False, repr=False)
class NormalizingFlow(Generator):
    """A generator with an inverse, and so with a density: z = f(x), log p(x) = log N(z; 0, I) + log|det ∂f/∂x|.

    Args:
        network: has ``inverse(z, condition)`` and ``log_prob(x, condition)``, as ``nn.CouplingFlow``.
    """

    kind = "normalizing-flow"

    def generate(self, z: Tensor) -> Tensor:
        self.counter.calls += 1
        x: Tensor = self.network.inverse(z, self._given(len(z)))  # type: ignore[operator]
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of data ``(B, *shape)`` under what is bound, in nats, ``(B,)``."""
        check_instance("x", x, Tensor, f"a tensor of shape (B, {', '.join(map(str, self.shape))})")
        self.counter.calls += 1
        found: Tensor = self.network.log_prob(x.to(self.device), self._given(len(x)))  # type: ignore[operator]
        return found
