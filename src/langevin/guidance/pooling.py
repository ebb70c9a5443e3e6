"""Pooling: one belief made of several about the same states, linear in their means."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, Derived, LearnedFor, NetworkDenoiser, batched, check_is_denoiser, convert
from ..distributions import Categorical, Dirac, Distribution, FiniteSet
from ..processes import as_time

LARGEST = 100.0
"""Guidance scales at most, either way: samples of published models fall apart from about 20 on."""


@dataclass(frozen=True, eq=False)
class Pooled(Derived):
    """Several beliefs about the same states, made one; parts that share a network are asked in one call.

    Attributes:
        parts: the denoisers.
        names: conditions that can still be given, to every part.
    """

    parts: tuple[Denoiser, ...]
    names: tuple[str, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        """One belief, of those of the parts."""

    @cached_property
    def base(self) -> Denoiser:
        """The part that says what data these are: the last, which is the one with the condition."""
        return self.parts[-1]

    @property
    def children(self) -> tuple[Denoiser, ...]:
        return self.parts

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return self.pool(batched(self.parts, x_t, t), x_t, as_time(t))

    def conditions(self) -> tuple[str, ...]:
        return self.names

    def _bind(self, condition: dict[str, Any]) -> Denoiser:
        return replace(self, parts=tuple(p.given(condition) for p in self.parts))

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, parts=tuple(p.rows(index) for p in self.parts))


@dataclass(frozen=True, eq=False)
class LinearPooling(Pooled):
    """Σ w_i · denoiser_i, linear in the means (in the logits of tokens).

    ``parts`` and ``weights`` are kept for samplers that need the term.
    """

    weights: tuple[float, ...]

    @cached_property
    def base(self) -> Denoiser:
        """The part with the largest weight, which says what data these are: under guidance, those of the condition."""
        return self.parts[max(range(len(self.parts)), key=lambda i: self.weights[i])]

    @property
    def extrapolation(self) -> float:
        return max(1.0, sum(map(abs, self.weights))) * super().extrapolation

    def learned_solvers(self, guidance_scale: float = 1.0) -> tuple[LearnedFor, ...]:
        # A solver is learned for a network under guidance against that network without a label.
        if len(self.parts) != 2 or not math.isclose(sum(self.weights), 1.0):
            return ()
        plain, conditional = self.parts
        if not (isinstance(plain, NetworkDenoiser) and isinstance(conditional, NetworkDenoiser)):
            return ()
        if plain.network is not conditional.network or "label" in plain.condition:
            return ()
        return conditional.learned_solvers(guidance_scale * self.weights[1])

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        return linear_law(beliefs, self.weights)


@overload
def linear(members: Sequence[Distribution], weights: Sequence[float]) -> Distribution: ...
@overload
def linear(members: Sequence[Denoiser], weights: Sequence[float]) -> Denoiser: ...
@register(
    "guidance",
    "linear",
    title="Several models, linear in the means",
    arxiv="2206.05039",
    proof="exact: tests/guidance/test_composition.py",
)
def linear(members: Sequence[Distribution] | Sequence[Denoiser], weights: Sequence[float]) -> Distribution | Denoiser:
    r"""The published pooling: :math:`\sum_i w_i \hat x_{0,i}` of the means, or :math:`\sum_i w_i \log p_i` of tokens.

    Linear in the means is linear in ε, v or score too, since they are affine in x̂_0 with one set of coefficients if
    Σ w_i = 1. Of beliefs it is a belief; of denoisers a denoiser. Several models of different conditions are pooled so
    (multimodal priors, Nair et al. 2022, arXiv:2206.05039: w_i is the reliability of a model); a model on another
    scalar-Gaussian process is asked at equal log-SNR (``denoisers.convert``), on the process of the first.

    Args:
        members: beliefs about the same states, or denoisers of data of one shape.
        weights: w_i, one each.
    """
    if isinstance(members, Sequence) and members and all(isinstance(m, Denoiser) for m in members):
        parts = on_one_process(members)
        return LinearPooling(parts, check_weights(weights, len(parts)), names=shared_names(parts))
    return linear_law(members, weights)


def linear_law(beliefs: Sequence[object], weights: Sequence[float]) -> Distribution:
    """``linear`` of beliefs."""
    laws = [b for b in beliefs if isinstance(b, Distribution)] if isinstance(beliefs, Sequence) else None
    if laws is None or len(laws) != len(beliefs):
        raise UserError(f"beliefs must be a list of laws, as denoiser(x_t, t) returns them, got {shown(beliefs)}")
    if len(laws) != len(weights) or not laws:
        raise UserError(f"weights must be one a belief, got {len(weights)} for {len(laws)} beliefs")
    if all(isinstance(b, Categorical) for b in laws):
        logits = torch.as_tensor(sum(w * torch.log(b.mean.clamp_min(1e-30)) for w, b in zip(weights, laws)))
        return Categorical(torch.softmax(logits, -1))
    first = laws[0]
    if isinstance(first, FiniteSet) and not first.points.is_floating_point():
        sets = [b for b in laws if isinstance(b, FiniteSet) and torch.equal(b.points, first.points)]
        if len(sets) != len(laws):
            raise UserError("beliefs about tokens must all be laws of a position, or all of the same sequences")
        # A sequence that no belief allows stays impossible, as a token does above.
        joint = torch.as_tensor(sum(w * b.log_weights.clamp_min(math.log(1e-30)) for w, b in zip(weights, sets)))
        return FiniteSet(first.points, torch.log_softmax(joint, -1))
    return Dirac(torch.as_tensor(sum(w * b.mean for w, b in zip(weights, laws))))


def check_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Weights of members, as numbers: finite, one each."""
    if not isinstance(weights, Sequence) or isinstance(weights, str) or len(weights) != count:
        got = len(weights) if isinstance(weights, Sequence) else shown(weights)
        raise UserError(f"weights must be {count} numbers, one a member, got {got}")
    for weight in weights:
        check_numbers(weights=weight)
    return tuple(float(weight) for weight in weights)


def check_scale(**values: Any) -> float:
    """A guidance scale, by the name of its argument: a number within ±``LARGEST``."""
    ((name, value),) = values.items()
    check_numbers(**values)
    if not -LARGEST <= float(value) <= LARGEST:
        raise UserError(f"{name} must lie in [-{LARGEST:g}, {LARGEST:g}], got {value}")
    return float(value)


def on_one_process(members: Sequence[object]) -> tuple[Denoiser, ...]:
    """Denoisers of data of one shape, those on another process than the first converted to it."""
    parts = [check_is_denoiser(member, f"member {i}") for i, member in enumerate(members)]
    first = parts[0]
    for i, member in enumerate(parts):
        if tuple(member.shape) != tuple(first.shape):
            raise UserError(
                f"members must be of data of one shape; member {i} is of {tuple(member.shape)}, the first of "
                f"{tuple(first.shape)}"
            )
    return tuple(m if m.process == first.process else convert(m, first.process) for m in parts)


def shared_names(parts: Sequence[Denoiser]) -> tuple[str, ...]:
    """The conditions that every part takes."""
    return tuple(name for name in parts[0].conditions() if all(name in part.conditions() for part in parts))
