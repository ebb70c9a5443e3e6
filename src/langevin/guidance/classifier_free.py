"""Two poolings of beliefs, under two names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, Derived, LearnedFor, NetworkDenoiser, batched, check_is_denoiser
from ..distributions import Categorical, Dirac, Distribution

LARGEST = 100.0
"""Guidance scales at most, either way: samples of published models fall apart from about 20 on."""


def linear(beliefs: Sequence[Distribution], weights: Sequence[float]) -> Distribution:
    r"""The published pooling: :math:`\sum_i w_i \hat x_{0,i}` of the means, or :math:`\sum_i w_i \log p_i` of tokens.

    Linear in the means is linear in ε, v or score too, since they are affine in x̂_0 with one set of coefficients.
    """
    if not isinstance(beliefs, Sequence) or not all(isinstance(b, Distribution) for b in beliefs):
        raise UserError(f"beliefs must be a list of laws, as denoiser(x_t, t) returns them, got {shown(beliefs)}")
    if len(beliefs) != len(weights) or not beliefs:
        raise UserError(f"weights must be one a belief, got {len(weights)} for {len(beliefs)} beliefs")
    if all(isinstance(b, Categorical) for b in beliefs):
        logits = sum(w * torch.log(b.mean.clamp_min(1e-30)) for w, b in zip(weights, beliefs))
        return Categorical(torch.softmax(logits, -1))  # type: ignore[arg-type]
    mean = sum(w * b.mean for w, b in zip(weights, beliefs))
    return Dirac(mean)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class LinearPooling(Derived):
    """Σ w_i · denoiser_i, linear in the means; parts that share a network are asked in one call.

    ``base`` is the part with the largest weight, ``parts`` and ``weights`` are kept for samplers that need the term.
    """

    parts: tuple[Denoiser, ...]
    weights: tuple[float, ...]

    @cached_property
    def base(self) -> Denoiser:  # type: ignore[override]
        """The part with the largest weight, which says what data these are: under guidance, those of the condition."""
        return self.parts[max(range(len(self.parts)), key=lambda i: self.weights[i])]

    @property
    def children(self) -> tuple[Denoiser, ...]:
        return self.parts

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

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return linear(batched(self.parts, x_t, t), self.weights)

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, parts=tuple(p.rows(index) for p in self.parts))


@register(
    "guidance",
    "classifier-free",
    title="Classifier-free guidance",
    arxiv="2207.12598",
    proof="exact: tests/guidance/test_classifier_free.py",
)
def classifier_free(
    denoiser: Denoiser, condition: Mapping[str, Any] | None = None, /, *, guidance_scale: float = 1.0, **named: Any
) -> Denoiser:
    r"""uncond + w·(cond − uncond) with w the guidance scale (arXiv:2207.12598; the paper's w is ours − 1).

    Args:
        denoiser: one that can be asked without the condition.
        condition: what to bind, e.g. ``{"label": 3}``; or by keyword.
        guidance_scale: w; 1 is the plain conditional model, 0 the unconditional, > 1 strengthens the condition.
    """
    check_is_denoiser(denoiser)
    check_numbers(guidance_scale=guidance_scale)
    scale = float(guidance_scale)
    if not -LARGEST <= scale <= LARGEST:
        raise UserError(f"guidance_scale must lie in [-{LARGEST:g}, {LARGEST:g}], got {guidance_scale}")
    if not condition and not named:
        raise UserError(
            "condition must be given, such as label=3: guidance is between a model with and without it, got none"
        )
    conditional = denoiser.given(condition, **named)
    if scale in (0.0, 1.0):
        return conditional if scale else denoiser
    return LinearPooling((denoiser, conditional), (1 - scale, scale))
