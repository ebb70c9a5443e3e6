"""Score matching beside the denoising kind: against the exact score, by the trace of its slope, by projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import worlds
from .._errors import UserError, unknown
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian, expand, require
from .denoising import DenoisingLoss

LARGEST = 256
"""Coordinates for which a trace is taken exactly: each is a backward pass of its own."""


@dataclass(frozen=True)
class _ByParts(DenoisingLoss):
    r"""A loss equal in expectation to that of denoising up to a constant, without the clean data (Hyvärinen 2005).

    In the weight w(t) on the error of x_0, with :math:`s = (α \hat x_0 - x_t)/σ^2` and :math:`E` over x_t,

    .. math:: E\,\tfrac1D |\hat x_0 - x_0|^2
              = \frac{σ^2}{α^2} \Big( \frac{σ^2}{D} E\big[ 2\,\mathrm{tr} ∇s + |s|^2 \big] + 1 \Big)

    and the loss is this without the 1. So the weights are those of denoising, and ``dsm`` means λ = σ² here as there.
    """

    weight: str = "dsm"

    def error(self, denoiser: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor, noise: Noise) -> Tensor:
        process: ScalarGaussian = require(denoiser.process, ScalarGaussian, f"objective {self.name!r}")
        learning = torch.is_grad_enabled()
        # The fused attention kernel has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            # float32 at least: the slope of a network in half precision is that of its rounding.
            x = x_t.detach().to(torch.promote_types(denoiser.dtype, torch.float32)).requires_grad_()
            alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
            mean = denoiser(x, t).mean
            # σ·s, which is −ε̂ and of order 1: its slope times σ, along v, is α vᵀ∇x̂_0 − v.
            scaled = (alpha * mean - x) / sigma
            value = self.estimate(scaled, x, lambda v: alpha * _slope(mean, x, v, learning) - v, noise)
        value = value if learning else value.detach()
        return value.to(torch.float64) * ((process.sigma(t) / process.alpha(t)) ** 2).to(value.device)

    def estimate(self, scaled: Tensor, x: Tensor, slope: Any, noise: Noise) -> Tensor:
        """The estimate of (2σ² tr ∇s + |σ s|²)/D, ``(B,)``."""
        raise NotImplementedError


def _slope(y: Tensor, x: Tensor, v: Tensor, learning: bool) -> Tensor:
    """vᵀ∂y/∂x."""
    return torch.autograd.grad(y, x, v, create_graph=learning, retain_graph=True)[0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩/D of every event."""
    return (a * b).flatten(1).mean(1)


@register(
    "objectives",
    "implicit",
    title="Score matching by the exact trace (Hyvärinen)",
    arxiv="1907.05600",
    proof="exact: tests/objectives/test_score_matching.py",
)
@dataclass(frozen=True)
class ImplicitScoreMatching(_ByParts):
    r""":math:`λ(t)\,\tfrac1D (2\,\mathrm{tr} ∇s + |s|^2)`, the trace by D backward passes (Hyvärinen 2005, eq. 4).

    With λ = σ² for the weight ``dsm``; twice the paper's, so that it is the loss of ``dsm`` less 1. At most 256
    coordinates.

    Args:
        weight: a row of ``WEIGHTS``, as on the error of x_0.
        times: the law of t.
        settings: of the weight.
    """

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        size = math.prod(denoiser.shape)
        if size > LARGEST:
            raise UserError(f"objective 'implicit' takes {LARGEST} coordinates at most, got {size}; use 'sliced-vr'")

    def estimate(self, scaled: Tensor, x: Tensor, slope: Any, noise: Noise) -> Tensor:
        total = _dot(scaled, scaled)
        for unit in torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).unbind():
            v = unit.reshape(x.shape[1:]).expand_as(x)
            total = total + 2 * _dot(v, slope(v))
        return total


@register(
    "objectives",
    "sliced",
    title="Sliced score matching",
    arxiv="1905.07088",
    proof="exact: tests/objectives/test_score_matching.py",
)
@dataclass(frozen=True)
class SlicedScoreMatching(_ByParts):
    r""":math:`λ(t)\,\tfrac1D E_v[2 v^T ∇s\, v + (v^T s)^2]` (Song et al. 2019, arXiv:1905.07088 eq. 7–8).

    v has E[vvᵀ] = I and is drawn for each sample by its own noise. λ as in ``ImplicitScoreMatching``.

    Args:
        weight: a row of ``WEIGHTS``, as on the error of x_0.
        times: the law of t.
        settings: of the weight.
        projections: M ≥ 1 vectors a sample, a backward pass each.
        probe: their law, ``rademacher`` or ``gaussian``.
    """

    projections: int = 1
    probe: str = "rademacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.projections, bool) or not isinstance(self.projections, int) or self.projections < 1:
            raise UserError(f"projections must be an integer of at least 1, got {self.projections!r}")
        if self.probe not in PROBES:
            raise unknown("probe", str(self.probe), PROBES)

    def estimate(self, scaled: Tensor, x: Tensor, slope: Any, noise: Noise) -> Tensor:
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for i in range(self.projections):
            v = PROBES[self.probe](noise.fold_in(Stream.PROJECTION + i), tuple(x.shape[1:])).to(x)
            total = total + 2 * _dot(v, slope(v)) + self.square(scaled, v)
        return total / self.projections

    def square(self, scaled: Tensor, v: Tensor) -> Tensor:
        """(vᵀσs)²/D."""
        return _dot(scaled, v) ** 2 * scaled[0].numel()


@register(
    "objectives",
    "sliced-vr",
    title="Sliced score matching, variance reduced",
    arxiv="1905.07088",
    proof="exact: tests/objectives/test_score_matching.py",
)
@dataclass(frozen=True)
class SlicedVR(SlicedScoreMatching):
    r""":math:`λ(t)\,\tfrac1D (2 E_v[v^T ∇s\, v] + |s|^2)`: of the square E_v is exact (1905.07088 §3.2, eq. 8)."""

    def square(self, scaled: Tensor, v: Tensor) -> Tensor:
        return _dot(scaled, scaled)


PROBES = {
    "rademacher": lambda noise, shape: 1.0 - 2.0 * (noise.uniform(shape) < 0.5).to(torch.float64),
    "gaussian": lambda noise, shape: noise.normal(shape),
}
"""Laws of a projection with E[vvᵀ] = I."""


TRUTHS: dict[str, Callable[..., worlds.World]] = {"ring": worlds.ring, "random": worlds.random_mixture}
"""Worlds whose score ``explicit`` may be told by name."""


@register(
    "objectives",
    "explicit",
    title="Explicit score matching",
    arxiv="1905.07088",
    proof="exact: tests/objectives/test_score_matching.py",
)
@dataclass(frozen=True)
class ExplicitScoreMatching(DenoisingLoss):
    r""":math:`λ(t)\,\tfrac1D |s - ∇\log p_t(x_t)|^2`, the score being known: the least noisy target there is.

    As an error of x̂_0, :math:`|\hat x_0 - E[x_0|x_t]|^2`, with any row of ``WEIGHTS``; ``dsm`` is λ = σ². Its least
    value is 0.

    Args:
        weight: a row of ``WEIGHTS``.
        times: the law of t.
        settings: of the weight.
        world: whose score it is: ``{"name": "ring", "radius": 1.4}`` and the like (see ``TRUTHS``), or a ``World``.
    """

    weight: str = "dsm"
    world: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.world, worlds.World):
            return
        if not isinstance(self.world, Mapping):
            raise UserError(f"world must say whose score it is, e.g. {{'name': 'ring'}}, got {self.world!r}")
        options = dict(self.world)
        name = str(options.pop("name", None))
        if name not in TRUTHS:
            raise unknown("world", name, TRUTHS)
        try:
            object.__setattr__(self, "_truth", TRUTHS[name](**options))
        except TypeError as error:
            raise UserError(f"world {name!r}: {error}") from None

    @property
    def truth(self) -> worlds.World:
        """The world itself."""
        known: worlds.World = self.__dict__.get("_truth", self.world)
        return known

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if self.truth.shape != tuple(denoiser.shape):
            raise UserError(f"world must be of shape {tuple(denoiser.shape)}, got {self.truth.shape}")

    def error(self, denoiser: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor, noise: Noise) -> Tensor:
        with torch.no_grad():
            target = self.truth.denoiser(denoiser.process)(x_t.to(torch.float64), t).mean
        mean = denoiser(x_t, t).mean
        return (mean - target.to(mean)).square().flatten(1).mean(1)

    def to_dict(self) -> dict[str, Any]:
        if not isinstance(self.world, Mapping):
            raise UserError("a World given as an object cannot be written; give world as a mapping")
        return {**super().to_dict(), "world": dict(self.world)}
