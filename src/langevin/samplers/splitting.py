"""Operator splitting for stiff guidance: the flow of the base and that of the guidance, each in steps of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Literal

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register
from ..denoisers import Denoiser, batched
from ..distributions import Noise
from ..guidance import LinearPooling, Tilted, linear
from ..processes import Process, ScalarGaussian, expand, require
from .linear.multistep import PLMS
from .loop import Composite, Sampler, State, check_sampler

Term = Callable[[Tensor, Tensor], Tensor]
"""What a guidance adds to the predicted clean data, ``(B, *state)``, at (x_t, t)."""


@singledispatch
def guidance_term(denoiser: Denoiser) -> tuple[Denoiser, Term]:
    """A guided denoiser, taken apart: its base, and what the guidance adds to the base's x̂_0.

    Another kind of guidance is told of by ``@guidance_term.register``.
    """
    raise UserError(
        "denoiser must be a guided one for operator splitting, as guidance.classifier, energy and classifier_free "
        f"return, got {type(denoiser).__name__}, which has no term to split off; take the inner sampler itself"
    )


@guidance_term.register
def _(denoiser: Tilted) -> tuple[Denoiser, Term]:
    return denoiser.base, denoiser.term


@guidance_term.register
def _(denoiser: LinearPooling) -> tuple[Denoiser, Term]:
    own = denoiser.parts.index(denoiser.base)

    def term(x_t: Tensor, t: Tensor) -> Tensor:
        beliefs = batched(denoiser.parts, x_t, t)
        return linear(beliefs, denoiser.weights).mean - beliefs[own].mean

    return denoiser.base, term


@register(
    "samplers",
    "splitting",
    title="Operator splitting of guidance: LTSP, STSP",
    arxiv="2301.11558",
    proof="exact: tests/samplers/test_splitting.py",
)
@dataclass(frozen=True)
class Splitting(Composite):
    r"""The guided flow in two parts (Wizadwongsa and Suwajanakorn 2023, arXiv:2301.11558, alg. 2 and 3).

    In :math:`\bar x = x / α` and :math:`\bar σ = σ / α` it is a sum of two, with Δ what the guidance adds to x̂_0:

    .. math::
        \frac{d \bar x}{d \bar σ} = \hat ε(\bar x) - \frac{Δ(\bar x)}{\bar σ}, \qquad
        \frac{Δ}{\bar σ} = \bar σ\,∇_{\bar x}\, g \quad\text{for a guidance by the gradient of } g

    A large scale makes the second part stiff, on which a multistep method of high order is unstable; apart, the first
    is taken by such a method and the second by one that is not. ``lie`` (LTSP) takes the base's step, then the
    guidance's; ``strang`` (STSP) half of the guidance's, the base's, the other half.

    The order is 1 for ``lie``, and 2 for ``strang`` with ``guidance_order=2`` and a single-step inner sampler of order
    2 or more. A multistep inner sampler extrapolates along the guided path, of which its own flow is only a part, and
    the published Euler step of the guidance is of order 1: both leave an error of order 1, which is small.

    Args:
        inner: for the base, deterministic; the paper takes PLMS.
        kind: ``"strang"`` or ``"lie"``.
        guidance_steps: steps of the guidance in each part, uniform in σ̄; no call of the network but where the guidance
            looks at the belief.
        guidance_order: 1, Euler's step as published, or 2, the explicit midpoint rule.
    """

    inner: Sampler = field(default_factory=PLMS)
    kind: Literal["strang", "lie"] = "strang"
    guidance_steps: int = 1
    guidance_order: int = 1

    def __post_init__(self) -> None:
        check_sampler(self.inner)
        if self.kind not in ("strang", "lie"):
            raise UserError(f"kind must be 'strang' or 'lie', got {self.kind!r}")
        check_integer("guidance_steps", self.guidance_steps, 1)
        check_integer("guidance_order", self.guidance_order, 1, 2)
        if getattr(self.inner, "eta", 0) != 0:
            raise UserError(f"inner must be a deterministic sampler, whose flow is split, got {self.inner}")

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.inner,)

    def with_parts(self, *parts: Sampler) -> Splitting:
        return replace(self, inner=parts[0])

    def check(self, process: Process) -> None:
        require(process, ScalarGaussian, "operator splitting")
        super().check(process)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        base, _ = guidance_term(denoiser)
        return self.with_parts(self.inner.for_model(base))

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        base, term = guidance_term(denoiser)
        process = require(denoiser.process, ScalarGaussian, "operator splitting")
        t = state.t
        if not bool((process.alpha(t) > 0).all()):
            raise UserError(f"grid must start where alpha > 0 for operator splitting, got t = {float(t.max()):g}")
        if self.kind == "lie":
            done = self.inner.step(state, s, base, noise)
            return replace(done, x=self._guide(process, term, done.x, s, t, s))
        middle = _time(process, (_ratio(process, t) + _ratio(process, s)) / 2)
        half = replace(state, x=self._guide(process, term, state.x, t, t, middle))
        done = self.inner.step(half, s, base, noise)
        return replace(done, x=self._guide(process, term, done.x, s, middle, s))

    def _guide(self, process: ScalarGaussian, term: Term, x: Tensor, at: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The flow of the guidance from t to s, of a state that stands at another time: only x̄ counts."""
        scale = expand(process.alpha(at), x)
        bar, now = x / scale, _ratio(process, t)
        step = (_ratio(process, s) - now) / self.guidance_steps

        def rate(bar: Tensor, ratio: Tensor, time: Tensor) -> Tensor:
            return -term(expand(process.alpha(time), bar) * bar, time) / expand(ratio, bar)

        for i in range(self.guidance_steps):
            ratio = now + i * step
            slope = rate(bar, ratio, t if i == 0 else _time(process, ratio))
            if self.guidance_order == 2:
                ratio = ratio + step / 2
                slope = rate(bar + expand(step / 2, bar) * slope, ratio, _time(process, ratio))
            bar = bar + expand(step, bar) * slope
        return scale * bar


def _ratio(process: ScalarGaussian, t: Tensor) -> Tensor:
    """σ̄ = σ/α."""
    return process.sigma(t) / process.alpha(t)


def _time(process: ScalarGaussian, ratio: Tensor) -> Tensor:
    """The time of a σ̄ > 0."""
    return process.time(-2 * torch.log(ratio))
