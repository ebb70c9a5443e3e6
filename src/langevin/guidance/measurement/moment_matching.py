"""Moment matching: the measurement's likelihood under the belief's own mean and covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..._errors import check_integer
from ..._registry import register
from ...denoisers import Denoiser, Transform
from ...distributions import Covariance, Dense, Diagonal, Dirac, Distribution, LowRank, Noise, Normal, Stream
from ...operators import Measurement, conjugate_gradients
from ...processes import ScalarGaussian, as_time, expand, require
from .base import check_measurement, check_rows


@dataclass(frozen=True, eq=False)
class MomentMatched(Transform):
    """The base, conditioned on y as if it were the normal law with its mean and covariance."""

    measurement: Measurement
    iterations: int

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, base=self.base.rows(index), measurement=self.measurement.rows(index))

    @cached_property
    def matrix(self) -> Tensor:
        """A as a matrix ``(M, D)``, for beliefs with a whole covariance."""
        return self.measurement.linear.matrix(tuple(self.shape))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        t, outer = as_time(t), torch.is_grad_enabled() and x_t.requires_grad
        x = x_t if outer else x_t.detach().requires_grad_()
        # A network's belief is a point, as a rule, and needs its graph; an exact one is whole, and its graph is costly.
        graph = outer or self.base.trained
        with torch.set_grad_enabled(graph):
            belief = self.base(x, t)
        if isinstance(belief, Dirac) and not graph:
            with torch.enable_grad():
                belief = self.base(x, t)
        mean = belief.mean
        check_rows(self.measurement, mean)
        if not isinstance(belief, Dirac):
            with torch.set_grad_enabled(outer):
                return self._whole(belief)
        strength = expand(self._strength(t), mean)

        def jacobian(v: Tensor) -> Tensor:
            (back,) = torch.autograd.grad(mean, x, v, retain_graph=True, create_graph=outer)
            return strength * back

        moved = mean + self._shift(mean, jacobian)
        return Dirac(moved if outer else moved.detach())

    def _strength(self, t: Tensor) -> Tensor:
        process = require(self.base.process, ScalarGaussian, "moment matching")
        return process.sigma2(t) / process.alpha(t)

    def _shift(self, mean: Tensor, covariance: Callable[[Tensor], Tensor]) -> Tensor:
        """C Aᵀ (s² I + A C Aᵀ)⁻¹ (y − A x̂_0) by conjugate gradients."""
        operator, std = self.measurement.linear, self.measurement.std
        residual = self.measurement.residual(mean.detach())
        spread = lambda u: operator(covariance(operator.adjoint(u))) + std**2 * u
        u = conjugate_gradients(spread, residual, iterations=self.iterations)
        return covariance(operator.adjoint(u))

    def _whole(self, belief: Distribution) -> Distribution:
        """The belief given y: by a dense gain where its covariance is dense."""
        cov, mean = belief.cov, belief.mean
        if not isinstance(cov, Dense):
            return Dirac(mean + self._shift(mean, _product(cov)))
        a = self.matrix.to(mean)
        cross = cov.dense(tuple(mean.shape[1:])) @ a.mT
        inner = a @ cross + self.measurement.std**2 * torch.eye(len(a), dtype=a.dtype, device=a.device)
        return Conditioned(belief, self.measurement, cross, inner)


@dataclass(frozen=True, eq=False, repr=False)
class Conditioned(Distribution):
    r"""The law of z + G (y + s ξ − A z) for z of a belief, ξ ~ N(0, I) and the gain G = C Aᵀ (A C Aᵀ + s² I)⁻¹.

    Its mean and covariance are those of the belief's normal law given y; for a normal belief it is that law.

    Args:
        belief: of covariance C.
        measurement: y, A and s.
        cross: C Aᵀ, ``(B, D, M)``.
        inner: A C Aᵀ + s² I, ``(B, M, M)``.
    """

    belief: Distribution
    measurement: Measurement
    cross: Tensor
    inner: Tensor

    @cached_property
    def _factor(self) -> Tensor | None:
        """The Cholesky factor of ``inner``; None where it is singular, as without noise it may be."""
        factor, info = torch.linalg.cholesky_ex(self.inner)
        return factor if self.measurement.std > 0 and not bool(info.any()) else None

    def _gained(self, v: Tensor) -> Tensor:
        """G v of ``(B, M, n)``."""
        if self._factor is not None:
            return self.cross @ torch.cholesky_solve(v, self._factor)
        return self.cross @ (torch.linalg.pinv(self.inner, rtol=1e-10, hermitian=True) @ v)

    @cached_property
    def mean(self) -> Tensor:
        mean = self.belief.mean
        return mean + self._gained(self.measurement.residual(mean).flatten(1)[..., None]).reshape(mean.shape)

    @property
    def cov(self) -> Dense:
        c = self.belief.cov.dense(tuple(self.belief.mean.shape[1:]))
        less = c - self._gained(self.cross.mT)
        return Dense((less + less.mT) / 2)

    def sample(self, noise: Noise) -> Tensor:
        z = self.belief.sample(noise.fold_in(Stream.UNMEASURED))
        residual = self.measurement.residual(z)
        xi = noise.fold_in(Stream.REMEASURED).normal(tuple(residual.shape[1:])).to(residual)
        apart = (residual + self.measurement.std * xi).flatten(1)
        return z + self._gained(apart[..., None]).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Of the normal law with these moments."""
        return Normal(self.mean, self.cov).log_prob(x)


def _product(cov: Covariance) -> Callable[[Tensor], Tensor]:
    """v ↦ C v of a covariance."""
    if isinstance(cov, Diagonal):
        return lambda v: cov.variance * v
    if isinstance(cov, LowRank):

        def low_rank(v: Tensor) -> Tensor:
            along = (cov.factor * v[:, None]).flatten(2).sum(-1)
            return cov.variance * v + (cov.factor * along.reshape(*along.shape, *[1] * (v.ndim - 1))).sum(1)

        return low_rank
    return lambda v: (cov.dense(tuple(v.shape[1:])) @ v.flatten(1)[..., None])[..., 0].reshape(v.shape)


@register(
    "guidance",
    "moment-matching",
    title="Moment-matching posterior sampling",
    arxiv="2405.13712",
    proof="exact: tests/guidance/test_measurement_guidance.py",
)
def moment_matching(denoiser: Denoiser, measurement: Measurement, *, iterations: int = 5) -> Denoiser:
    r"""The belief's own covariance C in the likelihood (Rozet et al. 2024, arXiv:2405.13712 eq. 11, 16–17):

    .. math::
        p(y | x_t) ≈ N(y;\, A \hat x_0,\; A C A^T + s^2 I), \qquad
        C = \frac{σ^2}{α} \frac{∂ \hat x_0}{∂ x_t}

    .. math::
        \hat x_0' = \hat x_0 + C A^T (A C A^T + s^2 I)^{-1} (y - A \hat x_0), \qquad
        C' = C - C A^T (A C A^T + s^2 I)^{-1} A C

    Where the belief is whole (an exact world's, a network's with learned variances), C is the belief's own, and the
    answer has C' where C is dense. Of a point belief, C is the Jacobian, taken by reverse-mode products in conjugate
    gradients: ``iterations`` + 1 backward passes a call. Exact for normal data; where the belief is not normal it is
    the normal law with the same moments that is conditioned.

    Args:
        denoiser: the belief, on a scalar-Gaussian process.
        measurement: by a linear operator, with Gaussian noise.
        iterations: of conjugate gradients, ≥ 1. As many as measured numbers for the exact solution.

    Raises:
        UserError: for an operator that is not linear, noise that is not Gaussian.
    """
    check_measurement(denoiser, measurement)
    _ = measurement.linear, measurement.std
    require(denoiser.process, ScalarGaussian, "moment matching")
    return MomentMatched(denoiser, measurement, check_integer("iterations", iterations, 1))
