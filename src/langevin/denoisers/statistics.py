"""What a sampler takes of a belief: all of it, its mean, or its mean with another covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import Categorical, Diagonal, Dirac, Distribution, FiniteSet, Normal
from ..processes import Chain, Observable, Process, ScalarGaussian, as_time, expand, require
from .base import Denoiser, Transform, check_is_denoiser

_EXACT = "exact: tests/denoisers/test_statistics.py"
_EXACT_TOKENS = "exact: tests/laws/test_token_laws.py::test_the_published_reverse_counts_the_evidence_twice"


def identity(denoiser: Denoiser) -> Denoiser:
    """The belief as it is."""
    return denoiser


@dataclass(frozen=True, eq=False)
class _Dirac(Transform):
    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        return Dirac(self.base(x_t, t).mean)


@register("denoisers", "dirac", title="Mean only: DDPM's β̃, DDIM", arxiv="2010.02502", proof=_EXACT)
def dirac(denoiser: Denoiser) -> Denoiser:
    """Only the mean of the belief: ``reverse`` then has the variance β̃ of DDPM, and DDIM's steps by η."""
    return _Dirac(denoiser)


@dataclass(frozen=True, eq=False)
class _Gaussian(Transform):
    def __call__(self, x_t: Tensor, t: Tensor | float) -> Normal:
        belief = self.base(x_t, t)
        return Normal(belief.mean, belief.cov)


@register("denoisers", "gaussian", title="Mean and covariance", arxiv="2201.06503", proof=_EXACT)
def gaussian(denoiser: Denoiser) -> Denoiser:
    """The normal law with the belief's mean and covariance: the optimal-variance reverse step."""
    return _Gaussian(denoiser)


def around(mean: Tensor, variance: Tensor) -> Normal:
    """N(mean, variance·I), the variance one a sample, ``()`` or ``(B,)``."""
    return Normal(mean, Diagonal(expand(variance, mean).reshape(-1, *[1] * (mean.ndim - 1))))


@dataclass(frozen=True, eq=False)
class _Isotropic(Transform):
    std: float

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Normal:
        process, t = self.process, as_time(t)
        assert isinstance(process, ScalarGaussian)
        alpha2, sigma2 = process.alpha(t) ** 2, process.sigma(t) ** 2
        return around(self.base(x_t, t).mean, self.std**2 * sigma2 / (self.std**2 * alpha2 + sigma2))


@register("denoisers", "unit", title="DDPM's β as a belief variance", arxiv="2006.11239", proof=_EXACT)
def unit(denoiser: Denoiser) -> Denoiser:
    r"""Belief variance :math:`σ^2 / (α^2 + σ^2)`, the posterior of unit-variance data: ``reverse`` has DDPM's β."""
    check_is_denoiser(denoiser)
    require(denoiser.process, ScalarGaussian, "variance β")
    return _Isotropic(denoiser, 1.0)


@register("denoisers", "isotropic", title="The variance of isotropic normal data", arxiv="2109.13821", proof=_EXACT)
def isotropic(denoiser: Denoiser, std: float) -> Denoiser:
    r"""Belief variance :math:`δ^2 σ^2 / (δ^2 α^2 + σ^2)`, the posterior of data with standard deviation δ.

    ``reverse`` then has the optimal variance for such data at any step, between β̃ (δ = 0) and, for unit data, β.

    Args:
        denoiser: on a scalar-Gaussian process.
        std: δ ≥ 0, in units of the data.
    """
    check_is_denoiser(denoiser)
    require(denoiser.process, ScalarGaussian, "variance 'isotropic'")
    check_numbers(std=std)
    if not 0 <= std < math.inf:
        raise UserError(f"std must be a finite number >= 0, got {std}")
    return _Isotropic(denoiser, float(std))


@dataclass(frozen=True, eq=False)
class _Independent(Transform):
    classes: int

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        belief = self.base(x_t, t)
        return belief.marginals(self.classes) if isinstance(belief, FiniteSet) else belief


@register("denoisers", "independent", title="Positions on their own", arxiv="2107.03006", proof=_EXACT)
def independent(denoiser: Denoiser) -> Denoiser:
    """Of a joint belief about tokens, the law of each position alone: what one softmax a position can say."""
    check_is_denoiser(denoiser)
    if not isinstance(denoiser.process, Chain):
        raise UserError(f"independent needs a chain on tokens, got {type(denoiser.process).__name__}")
    return _Independent(denoiser, denoiser.process.classes)


@dataclass(frozen=True, eq=False)
class _Reweighted(Transform):
    def __call__(self, x_t: Tensor, t: Tensor | float) -> Categorical:
        belief, chain = self.base(x_t, t), self.process
        assert isinstance(chain, Chain)
        if not isinstance(belief, Categorical):
            raise UserError(f"reweighted needs a belief about each position, got {type(belief).__name__}")
        joint = belief.probs * chain.likelihood(x_t, t)
        total = joint.sum(-1, keepdim=True)
        return Categorical(torch.where(total > 0, joint / total, belief.probs))


@register("denoisers", "reweighted", title="D3PM's own reverse of a belief", arxiv="2107.03006", proof=_EXACT_TOKENS)
def reweighted(denoiser: Denoiser) -> Denoiser:
    r"""The belief :math:`\propto b_k\, q(x_t | x_0 = k)`, whose reverse is the published parameterisation of b.

    D3PM takes :math:`p(x_s | x_t) \propto \sum_k q(x_s, x_t | x_0 = k)\, b_k` (arXiv:2107.03006 eq. 4), which is
    :math:`\sum_k q(x_s | x_t, k)` weighted by :math:`q(x_t | k)\, b_k`: right if b is what the rest says about a token,
    and twice the evidence of x_t if b is the posterior. A network read as ``evidence`` has this factor in its belief.
    """
    require(denoiser.process, Chain, "reweighted")
    return _Reweighted(denoiser)


@dataclass(frozen=True, eq=False)
class _Clamp(Transform):
    low: float
    high: float

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return Dirac(self.base(x_t, t).mean.clamp(self.low, self.high))


@register("denoisers", "clamp", title="Clipped x̂_0", arxiv="2006.11239", proof=_EXACT)
def clamp(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The mean clipped to the range of the data, as in the code of DDPM (``clip_denoised``)."""
    check_numbers(low=low, high=high)
    if not low < high:
        raise UserError(f"low must be below high, got {low} and {high}")
    return _Clamp(denoiser, low, high)


@dataclass(frozen=True, eq=False)
class _Converted(Transform):
    target: Process

    @property
    def process(self) -> Process:
        return self.target

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        source = self.base.process
        assert isinstance(source, ScalarGaussian)
        assert isinstance(self.target, Observable)
        seen = self.target.observe(x_t, as_time(t))
        u = source.time(2 * (torch.log(seen.a) - torch.log(seen.r)))
        # y/a and y/r agree at equal log-SNR; divide by the larger of the two, which is never 0.
        ratio = (seen.a > seen.r) * source.alpha(u) / seen.a.clamp_min(1e-300)
        ratio = ratio + (seen.a <= seen.r) * source.sigma(u) / seen.r.clamp_min(1e-300)
        return self.base(expand(ratio, seen.y) * seen.y, u)


@register("denoisers", "convert", title="Another process at equal log-SNR", arxiv="2107.00630", proof=_EXACT)
def convert(denoiser: Denoiser, process: Process) -> Denoiser:
    r"""The belief of a scalar-Gaussian process read in another process: what a state says of x_0 is y = a x_0 + rε.

    The look y (x_t itself with a = α_t, r = σ_t for a scalar-Gaussian process, a combination of position and velocity
    in phase space) is scaled to the denoiser's own process at the time u of equal log-SNR, :math:`x_u = y α_u / a`.
    Outside the range of log-SNR that the denoiser's process covers, its end is asked.
    """
    check_is_denoiser(denoiser)
    require(denoiser.process, ScalarGaussian, "convert")
    require(process, Observable, "convert")
    return denoiser if process == denoiser.process else _Converted(denoiser, process)
