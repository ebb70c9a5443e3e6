"""Tilted beliefs: what is believed about x_0 once p_t(x_t) is multiplied by a factor that depends on x_t."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import Denoiser, Transform
from ..distributions import Covariance, Dense, Dirac, Distribution, Noise, Normal
from ..processes import ScalarGaussian, as_time, expand, require


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Distribution):
    """A law of which the mean is known and the covariance is found when it is asked for; sampled as the normal law.

    Args:
        loc: ``(B, *event)``.
        covariance: makes it.
    """

    loc: Tensor
    covariance: Callable[[], Covariance]

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def cov(self) -> Covariance:
        return self.covariance()

    @property
    def normal(self) -> Normal:
        """The normal law with these moments."""
        return Normal(self.loc, self.cov)

    def sample(self, noise: Noise) -> Tensor:
        return self.normal.sample(noise)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.normal.log_prob(x)

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Distribution:
        return self.normal.affine(scale, shift, variance)


class Unasked(Distribution):
    """In place of a belief that a factor does not look at: it has no moments and no samples."""

    def sample(self, noise: Noise) -> Tensor:
        raise TypeError("the belief was not asked for: asks_belief is False")


@dataclass(frozen=True, eq=False)
class Tilted(Transform):
    r"""The belief of the density :math:`p_t(x_t)\, e^{g(x_t)}` on a scalar-Gaussian process, by Tweedie's formula:

    .. math::
        \hat x_0' = \hat x_0 + \frac{σ^2}{α} ∇ g(x_t), \qquad
        C' = C + \frac{σ^4}{α^2} ∇^2 g(x_t)

    With g = log p(y | x_t) it is the belief p(x_0 | x_t, y) up to its second moments (arXiv:2105.05233 §4; the
    covariance is the derivative of the mean). A point belief stays a point. The gradient goes through the belief that
    is handed to ``log_factor``, so one call of the network serves both.
    """

    base: Denoiser
    asks_belief: ClassVar[bool] = True
    """Whether ``log_factor`` looks at the belief; if not, its gradient takes no call of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base.process, ScalarGaussian, f"guidance by a gradient ({type(self).__name__})")

    @abstractmethod
    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        """g(x_t) in nats, ``(B,)``, differentiable in x_t and in the belief that was asked there."""

    def strength(self, t: Tensor) -> Tensor:
        """σ²/α of times, in float64."""
        process = require(self.base.process, ScalarGaussian, type(self).__name__)
        return process.sigma2(t) / process.alpha(t)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        # Where α = 0 a state says nothing and ∇g is 0, but σ²/α ∇g has a limit, taken at the last time with α > 0.
        t = as_time(t).clamp_max(self.base.process.t_max)
        outer = torch.is_grad_enabled() and x_t.requires_grad  # gradients through a whole sampler
        with torch.inference_mode(False), torch.enable_grad():
            own = x_t.clone() if x_t.is_inference() else x_t
            x = own if outer else own.detach().requires_grad_()
            belief = self._asked(x, t, outer)
            gradient = self._gradient(x, t, belief, keep=outer)
        mean = belief.mean if outer else belief.mean.detach()
        gradient = gradient if outer else gradient.detach()
        moved = mean + expand(self.strength(t), x_t) * gradient
        if isinstance(belief, Dirac):
            return Dirac(moved)
        return Moments(moved, lambda: self._covariance(x_t, t))

    def term(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(σ²/α)∇g alone, ``(B, *state)``: what the guidance adds to x̂_0, for operator splitting."""
        outer = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            x = x_t if outer else x_t.detach().requires_grad_()
            gradient = self._gradient(x, t, self.base(x, t) if self.asks_belief else Unasked(), keep=outer)
        return expand(self.strength(t), x_t) * (gradient if outer else gradient.detach())

    def _asked(self, x: Tensor, t: Tensor, outer: bool = False) -> Distribution:
        """The belief of the base, with what a gradient through it needs where there is to be one."""
        with torch.set_grad_enabled(outer or self.asks_belief):
            return self.base(x, t)

    def _gradient(self, x: Tensor, t: Tensor, belief: Distribution, *, keep: bool) -> Tensor:
        """∇g, checked to be one number a sample and finite."""
        factor = self.log_factor(x, t, belief)
        if factor.shape != x.shape[:1]:
            raise UserError(f"guidance must give one number a sample, ({len(x)},), got {tuple(factor.shape)}")
        gradient = None
        if factor.requires_grad:
            (gradient,) = torch.autograd.grad(factor.sum(), x, create_graph=keep, allow_unused=True)
        if gradient is None:
            raise UserError("guidance must depend on x_t or on the belief; its gradient is not there")
        if not bool(gradient.isfinite().all()):
            raise UserError(f"guidance gave a gradient that is not finite at t = {float(t.reshape(-1)[0]):.4g}")
        return gradient

    def _covariance(self, x_t: Tensor, t: Tensor) -> Covariance:
        """C + (σ²/α)² ∇²g, by a backward pass a coordinate."""
        with torch.inference_mode(False), torch.enable_grad():
            x = (x_t.clone() if x_t.is_inference() else x_t).detach().requires_grad_()
            belief = self._asked(x, t)
            gradient = self._gradient(x, t, belief, keep=True).flatten(1)
            columns = [torch.autograd.grad(g.sum(), x, retain_graph=True)[0].flatten(1) for g in gradient.unbind(1)]
        hessian = torch.stack(columns, 1).detach()
        own = belief.cov.dense(tuple(x_t.shape[1:])).detach()
        return Dense(own + expand(self.strength(t), hessian) ** 2 * (hessian + hessian.mT) / 2)
