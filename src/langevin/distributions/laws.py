"""Laws of a batch of events: what a belief, a prior, a marginal and a bridge are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._registry import register
from ..numerics.streams import Stream
from .covariance import Covariance, Dense, Diagonal, _like
from .noise import Noise


def _choose(probs: Tensor, u: Tensor) -> Tensor:
    """The index, ``(B, *event)``, in whose share of the probabilities ``(B or 1, *event, K)`` the uniform u falls.

    In float64 whatever the dtype: in float32 the last u rounds to 1, and draws a last state of probability 0.
    """
    cumulative = torch.cumsum(probs.to(torch.float64), -1).expand(*u.shape, -1)
    target = u * cumulative[..., -1]
    index = torch.searchsorted(cumulative.contiguous(), target[..., None].contiguous(), right=True)[..., 0]
    return index.clamp_max(probs.shape[-1] - 1)


def _rows(parameter: Tensor, index: Tensor) -> Tensor:
    """Rows of a parameter ``(B, …)``, or the one row ``(1, …)`` that is every sample's."""
    return parameter if parameter.shape[0] == 1 else parameter[index]


class Distribution(ABC):
    """A law of one event a sample: parameters broadcast against ``(B, *event)``.

    Every law can be sampled. A law has ``mean``, ``cov`` and ``log_prob`` where they are meaningful and known, and
    otherwise fails with a sentence that names what it lacks.
    """

    @abstractmethod
    def sample(self, noise: Noise) -> Tensor:
        """One event a sample of the noise, ``(B, *event)``: the same for any batch the sample stands in."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density (or log probability) of each event, in nats, ``(B,)``."""
        raise TypeError(f"{type(self).__name__} has no known density; it can only be sampled")

    @property
    def mean(self) -> Tensor:
        """E[x], broadcastable to ``(B, *event)``."""
        raise TypeError(f"{type(self).__name__} has no known mean; it can only be sampled")

    @property
    def cov(self) -> Covariance:
        """Cov[x]."""
        raise TypeError(f"{type(self).__name__} has no known covariance")

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Distribution:
        """The law of scale·x + shift + N(0, variance·I); scale and variance are per sample, ``()`` or ``(B, 1, …)``."""
        return Compound(self, lambda x: Normal(scale * x + shift, variance))

    def rows(self, index: Tensor) -> Distribution:
        """The law of some of the samples, which may be repeated: indices int64 ``(B',)`` into the batch."""
        raise TypeError(f"{type(self).__name__} cannot be taken apart by samples")

    def __repr__(self) -> str:
        parts = (f"{k}={tuple(v.shape)}" for k, v in self.__dict__.items() if isinstance(v, Tensor))
        return f"{type(self).__name__}({', '.join(parts)})"


@register("distributions", "dirac", title="Point mass", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class Dirac(Distribution):
    """All mass at one point ``(B, *event)``."""

    point: Tensor

    def sample(self, noise: Noise) -> Tensor:
        return self.point.expand(len(noise), *self.point.shape[1:])

    def rows(self, index: Tensor) -> Dirac:
        return Dirac(_rows(self.point, index))

    @property
    def mean(self) -> Tensor:
        return self.point

    @property
    def cov(self) -> Covariance:
        return Diagonal(torch.zeros([1] * self.point.ndim, dtype=self.point.dtype, device=self.point.device))

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Normal:
        return Normal(scale * self.point + shift, variance)


@register("distributions", "normal", title="Normal law", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class Normal(Distribution):
    """N(mean, cov): ``cov`` is a Covariance, or a variance broadcastable to the mean ``(B, *event)``."""

    loc: Tensor
    covariance: Covariance

    def __init__(self, mean: Tensor, cov: Covariance | Tensor | float) -> None:
        if not isinstance(cov, Covariance):
            variance = torch.as_tensor(cov, dtype=mean.dtype, device=mean.device)
            # With all axes there, the first is the batch: (D,) must not be taken for one variance a sample.
            cov = Diagonal(variance.reshape([1] * (mean.ndim - variance.ndim) + list(variance.shape)))
        object.__setattr__(self, "loc", mean)
        object.__setattr__(self, "covariance", cov)

    def sample(self, noise: Noise) -> Tensor:
        return self.loc + self.covariance.sample(noise, tuple(self.loc.shape[1:]))

    def rows(self, index: Tensor) -> Normal:
        return Normal(_rows(self.loc, index), self.covariance.rows(index))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.covariance.log_prob(x - self.loc)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def cov(self) -> Covariance:
        return self.covariance

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Normal:
        return Normal(scale * self.loc + shift, self.covariance.scale(scale).add(variance))


@register("distributions", "mixture", title="Gaussian mixture", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture(Distribution):
    """Σ_k w_k N(m_k, V_k diag(v_k) V_kᵀ) on events ``(D,)``: closed under affine maps with isotropic noise.

    Args:
        log_weights: ``(B, K)``, log w_k, normalised.
        means: ``(B, K, D)``.
        basis: eigenvectors V_k as columns, ``(K, D, D)``.
        variances: eigenvalues v_k ≥ 0, ``(B, K, D)``.
    """

    log_weights: Tensor
    means: Tensor
    basis: Tensor
    variances: Tensor

    def sample(self, noise: Noise) -> Tensor:
        batch = torch.arange(len(noise), device=self.means.device)
        k = _choose(self.log_weights.exp(), noise.uniform(()))
        row = batch if self.means.shape[0] > 1 else torch.zeros_like(batch)
        z = torch.sqrt(self.variances[row, k]) * noise.normal((self.means.shape[-1],)).to(self.means)
        return self.means[row, k] + (self.basis[k] @ z[..., None])[..., 0]

    def rows(self, index: Tensor) -> GaussianMixture:
        log_weights, means, variances = (_rows(v, index) for v in (self.log_weights, self.means, self.variances))
        return GaussianMixture(log_weights, means, self.basis, variances)

    def log_prob(self, x: Tensor) -> Tensor:
        along = torch.einsum("kij,bki->bkj", self.basis, x[:, None] - self.means)
        log_density = -0.5 * (along**2 / self.variances + torch.log(2 * torch.pi * self.variances)).sum(-1)
        return torch.logsumexp(self.log_weights + log_density, -1)

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.exp()[..., None] * self.means).sum(-2)

    @property
    def cov(self) -> Dense:
        w = self.log_weights.exp()
        apart = self.means - self.mean[:, None]
        between = (w[..., None] * apart).mT @ apart
        each = w[..., None] * self.variances
        batch, k, d = each.shape
        if d < batch:  # the projectors of all directions, once for the batch: one matrix product
            projectors = torch.einsum("kij,klj->kjil", self.basis, self.basis).reshape(k * d, d * d)
            return Dense((each.flatten(1) @ projectors).reshape(batch, d, d) + between)
        return Dense(torch.einsum("kij,bkj,klj->bil", self.basis, each, self.basis) + between)

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> GaussianMixture:
        a, v = _like(scale, 3), _like(variance, 3)
        means = a * self.means + shift[:, None]
        variances = (a**2 * self.variances + v).expand(means.shape[0], *self.variances.shape[1:])
        log_weights = self.log_weights.expand(means.shape[0], -1)
        return GaussianMixture(log_weights, means, self.basis, variances)


@register("distributions", "finite", title="Finite set of points", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class FiniteSet(Distribution):
    """Σ_n w_n δ(x − x_n) over points ``(N, *event)`` with log weights ``(B, N)``, normalised."""

    points: Tensor
    log_weights: Tensor

    def sample(self, noise: Noise) -> Tensor:
        return self.points[_choose(self.log_weights.exp(), noise.uniform(()))]

    def rows(self, index: Tensor) -> FiniteSet:
        return FiniteSet(self.points, _rows(self.log_weights, index))

    def log_prob(self, x: Tensor) -> Tensor:
        same = (x[:, None] == self.points).flatten(2).all(-1)
        return torch.logsumexp(torch.where(same, self.log_weights, -torch.inf), -1)

    @property
    def mean(self) -> Tensor:
        w = self.log_weights.exp()
        return (w @ self.points.flatten(1).to(w)).reshape(w.shape[0], *self.points.shape[1:])

    @property
    def cov(self) -> Dense:
        w = self.log_weights.exp()
        apart = self.points.flatten(1).to(w) - self.mean.flatten(1)[:, None]
        return Dense(torch.einsum("bn,bni,bnj->bij", w, apart, apart))

    def marginals(self, classes: int) -> Categorical:
        """For points of tokens: the law of each position alone, as probabilities ``(B, *event, classes)``."""
        w = self.log_weights.exp()
        hot = torch.nn.functional.one_hot(self.points, classes).to(w)
        return Categorical(torch.einsum("bn,n...->b...", w, hot))


@register("distributions", "categorical", title="Categorical law", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class Categorical(Distribution):
    """Independent tokens: probabilities ``(B, *event, K)`` ≥ 0 that sum to 1 over the last axis."""

    probs: Tensor

    def sample(self, noise: Noise) -> Tensor:
        return _choose(self.probs, noise.uniform(tuple(self.probs.shape[1:-1])))

    def rows(self, index: Tensor) -> Categorical:
        return Categorical(_rows(self.probs, index))

    def log_prob(self, x: Tensor) -> Tensor:
        probs = self.probs.expand(x.shape[0], *self.probs.shape[1:])
        return torch.log(probs.gather(-1, x[..., None])[..., 0]).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        """The mean of the one-hot code: the probabilities."""
        return self.probs


@register(
    "distributions", "levels", title="Levels, each with normal noise", proof="exact: tests/distributions/test_levels.py"
)
@dataclass(frozen=True, eq=False, repr=False)
class Levels(Distribution):
    """Independent coordinates scale·v_k + shift + N(0, variance), each on level k as often as its probability.

    Without noise a law of levels, whose ``log_prob`` is a probability; with noise (a step of a diffusion from there)
    a normal mixture a coordinate.

    Args:
        values: v_k, ``(K,)``.
        log_probs: log p_k, normalised, ``(B, *event, K)``.
        scale, shift, variance: broadcastable to ``(B, *event)``.
    """

    values: Tensor
    log_probs: Tensor
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    variance: Tensor | float = 0.0

    @property
    def places(self) -> Tensor:
        """scale·v_k + shift, ``(B or 1, *event, K)``."""
        scale, shift = (torch.as_tensor(v, dtype=self.values.dtype)[..., None] for v in (self.scale, self.shift))
        return scale.to(self.values.device) * self.values + shift.to(self.values.device)

    def sample(self, noise: Noise) -> Tensor:
        event = tuple(self.log_probs.shape[1:-1])
        k = _choose(self.log_probs.exp(), noise.fold_in(Stream.CHOICE).uniform(event))
        x = self.places.expand(len(noise), *event, -1).gather(-1, k[..., None])[..., 0]
        root = torch.sqrt(torch.as_tensor(self.variance, dtype=x.dtype, device=x.device))
        return x if not root.any() else x + root * noise.normal(event).to(x)

    def log_prob(self, x: Tensor) -> Tensor:
        apart, variance = x[..., None] - self.places, torch.as_tensor(self.variance, dtype=x.dtype, device=x.device)
        if variance.any():
            v = variance[..., None]
            each = -0.5 * (apart**2 / v + torch.log(2 * torch.pi * v))
        else:  # on a level, but for the rounding of x
            spacing = (self.places[..., 1:] - self.places[..., :-1]).abs().amin(-1, keepdim=True)
            each = torch.where(apart.abs() < 1e-3 * spacing, 0.0, -torch.inf)
        return torch.logsumexp(self.log_probs + each, -1).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        return self.scale * (self.log_probs.exp() @ self.values) + self.shift

    @property
    def cov(self) -> Diagonal:
        probs = self.log_probs.exp()
        centre = (probs @ self.values)[..., None]
        inner = (probs * (self.values - centre) ** 2).sum(-1)
        return Diagonal(torch.as_tensor(self.scale).to(inner) ** 2 * inner + self.variance)

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Levels:
        inner = scale * self.scale, scale * self.shift + shift, scale**2 * self.variance + variance
        return Levels(self.values, self.log_probs, *inner)


@register("distributions", "compound", title="Compound law", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class Compound(Distribution):
    """∫ kernel(x)(·) belief(dx): draw x from the belief, then from kernel(x). For beliefs that can only be sampled.

    Of a finite set it has a density, a sum over the points.
    """

    belief: Distribution
    kernel: Callable[[Tensor], Distribution]

    def sample(self, noise: Noise) -> Tensor:
        return self.kernel(self.belief.sample(noise.fold_in(Stream.INNER))).sample(noise)

    def log_prob(self, x: Tensor) -> Tensor:
        if not isinstance(self.belief, FiniteSet):
            return super().log_prob(x)
        points = (point.expand(x.shape[0], *point.shape) for point in self.belief.points)
        each = torch.stack([self.kernel(point).log_prob(x) for point in points], -1)
        return torch.logsumexp(self.belief.log_weights + each, -1)
