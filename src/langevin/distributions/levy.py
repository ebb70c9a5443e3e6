"""Laws of noise with independent increments: an increment, and the bridge, of Gamma noise and of noise with jumps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .._registry import register
from ..numerics.streams import Stream
from .covariance import Diagonal
from .laws import Distribution, _choose
from .noise import Noise


@register("distributions", "gamma", title="Shifted Gamma law", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class ShiftedGamma(Distribution):
    """loc + scale·(G − k) with G ~ Gamma(k, 1): the mean loc ``(B, *event)``, scale > 0 and k broadcastable to it.

    About its mean it keeps its digits at a large k, where G itself has none left for its spread √k in float32.
    """

    loc: Tensor
    scale: Tensor
    concentration: Tensor

    def sample(self, noise: Noise) -> Tensor:
        log_g = noise.log_gamma(self.concentration, tuple(self.loc.shape[1:]))
        return self.loc + self.scale * (log_g.exp() - self.concentration).to(self.loc)

    def log_prob(self, x: Tensor) -> Tensor:
        k = self.concentration.expand_as(x)
        g = (x - self.loc) / self.scale + k
        # x is known to a rounding, and at small k most of the mass is nearer to the edge than that: there it is the
        # mean density of the cell, edge^(k−1)/Γ(k+1), which k = 0 has too.
        eps, tiny = torch.finfo(g.dtype).eps, torch.finfo(g.dtype).tiny
        edge = (4 * eps * torch.maximum(torch.maximum(x.abs(), self.loc.abs()) / self.scale, k)).clamp_min(tiny)
        rest = torch.where(g > edge, g + torch.lgamma(k), torch.lgamma(k + 1))
        density = (k - 1) * torch.log(torch.maximum(g, edge)) - rest - torch.log(self.scale)
        return torch.where(g >= -edge, density, -torch.inf).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def cov(self) -> Diagonal:
        return Diagonal((self.scale**2 * self.concentration).expand_as(self.loc))


@register("distributions", "beta", title="Scaled Beta law", proof="exact: tests/distributions/test_events.py")
@dataclass(frozen=True, eq=False, repr=False)
class ScaledBeta(Distribution):
    """loc + scale·(Y − E[Y]) with Y ~ Beta(a, b), a, b ≥ 0 (0 is the limit): mean loc and scale ``(B, *event)``."""

    loc: Tensor
    scale: Tensor
    a: Tensor
    b: Tensor

    def sample(self, noise: Noise) -> Tensor:
        shape = tuple(self.loc.shape[1:])
        log_a = noise.fold_in(Stream.BETA_A).log_gamma(self.a, shape)
        log_b = noise.fold_in(Stream.BETA_B).log_gamma(self.b, shape)
        y = torch.sigmoid(log_a - log_b)
        y = torch.where(self.a.expand_as(y) == 0, 0.0, torch.where(self.b.expand_as(y) == 0, 1.0, y))
        return self.loc + self.scale * (y - self._share()).to(self.loc)

    def _share(self) -> Tensor:
        """E[Y]."""
        a, b = self.a.to(torch.float64), self.b.to(torch.float64)
        return torch.where(a == 0, 0.0, a / (a + b))

    def log_prob(self, x: Tensor) -> Tensor:
        y = (x - self.loc) / self.scale + self._share().to(x)
        inside = (y > 0) & (y < 1)
        safe = torch.where(inside, y, 0.5)
        norm = torch.lgamma(self.a) + torch.lgamma(self.b) - torch.lgamma(self.a + self.b)
        density = (self.a - 1) * torch.log(safe) + (self.b - 1) * torch.log1p(-safe) - norm - torch.log(self.scale)
        return torch.where(inside, density, -torch.inf).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def cov(self) -> Diagonal:
        total = self.a + self.b
        return Diagonal(self.scale**2 * self.a * self.b / (total**2 * (total + 1)))


TAIL = 2.0**-53
"""Probability of the counts that are left out: of a draw, and of a bridge on average over the states it starts from."""


@cache
def counts(rate: float) -> int:
    """How many counts 0, 1, … there are up to a tail of probability ``TAIL`` at most, for this mean and those below."""
    most = 60 + int(2 * rate)  # P(N ≥ λ + x) ≤ exp(−x²/(2(λ + x/3))), Bernstein, is below TAIL there
    n = torch.arange(1, most + 1, dtype=torch.float64)
    return 1 + int((torch.special.gammainc(n, torch.full_like(n, rate)) > TAIL).sum())


def _log_poisson(rate: Tensor, terms: int) -> Tensor:
    """log P(N = n) of n = 0…terms − 1 for N ~ Poisson(rate), normalised over these, on a new last axis."""
    n = torch.arange(terms, dtype=torch.float64, device=rate.device)
    rate = rate.to(torch.float64)[..., None]
    return torch.log_softmax(torch.xlogy(n, rate) - torch.lgamma(n + 1), -1)


def _log_normal(x: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (x**2 / variance + torch.log(2 * torch.pi * variance))


def _cell(edges: Tensor, x: Tensor) -> Tensor:
    """How many of the sorted edges ``(K,)``, or of each sample's ``(B, K)``, are ≤ x ``(B, *event)``."""
    if edges.ndim == 1:
        return torch.searchsorted(edges, x.contiguous(), right=True)
    return torch.searchsorted(edges, x.flatten(1).contiguous(), right=True).reshape(x.shape)


def _cumulative(log_probs: Tensor) -> Tensor:
    """Sums of probabilities up to each count, the last 1."""
    total = torch.cumsum(log_probs.exp(), -1)
    return total / total[..., -1:]


def _one_each(rate: Tensor) -> Tensor:
    """A number a sample, ``(B, 1, …)`` or one for all, as ``(B,)`` or ``()``."""
    return rate.reshape(-1) if rate.numel() > 1 else rate.reshape(())


@register(
    "distributions",
    "poisson-mixture",
    title="Poisson mixture of normals",
    proof="exact: tests/processes/test_mixture_noise.py, tests/distributions/test_events.py",
)
@dataclass(frozen=True, eq=False, repr=False)
class PoissonMixture(Distribution):
    """loc + N(0, variance + N·jump) with N ~ Poisson(rate) in each coordinate: a normal and a sum of normal jumps.

    Args:
        loc: the mean, ``(B, *event)``.
        variance: of the part without jumps, broadcastable to loc, as the next two.
        jump: variance of one jump.
        rate: mean number of jumps, ≥ 0, ``()`` or one a sample, ``(B, 1, …)``.
        terms: counts 0…terms − 1 are told apart, and there are no others: see ``counts``.
    """

    loc: Tensor
    variance: Tensor
    jump: Tensor
    rate: Tensor
    terms: int

    def sample(self, noise: Noise) -> Tensor:
        event = tuple(self.loc.shape[1:])
        n = _cell(_cumulative(_log_poisson(_one_each(self.rate), self.terms)), noise.uniform(event))
        return self.loc + torch.sqrt(self.variance + self.jump * n) * noise.normal(event).to(self.loc)

    def log_prob(self, x: Tensor) -> Tensor:
        n = torch.arange(self.terms, device=x.device)
        each = _log_normal((x - self.loc)[..., None], self.variance[..., None] + n * self.jump[..., None])
        return torch.logsumexp(_log_poisson(self.rate, self.terms) + each, -1).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def cov(self) -> Diagonal:
        return Diagonal((self.variance + self.jump * self.rate).expand_as(self.loc))


@register(
    "distributions",
    "poisson-bridge",
    title="Bridge of a Brownian motion with jumps",
    proof="exact: tests/processes/test_mixture_noise.py, tests/distributions/test_events.py",
)
@dataclass(frozen=True, eq=False, repr=False)
class PoissonBridge(Distribution):
    r"""loc + G_s given G_t, for G = a Brownian motion and a sum of normal jumps at the times of a Poisson process.

    .. math::
        p(n_t | G_t) \propto \mathrm{Poisson}(n_t; λ_t)\, N(G_t; 0, V_t), \quad
        n_s | n_t \sim \mathrm{Binomial}(n_t, λ_s / λ_t), \quad
        G_s \sim N\left(\frac{V_s}{V_t} G_t, \frac{V_s (V_t - V_s)}{V_t}\right)

    with V = variance + n·jump at either time.

    Args:
        loc: ``(B, *event)``.
        end: G_t, ``(B, *event)``.
        variance_s, variance_t: of the Brownian part, broadcastable to loc, as the next three.
        jump: variance of one jump.
        rate_s, rate_t: λ_s and λ_t, ``()`` or ``(B, 1, …)``.
        terms: counts 0…terms − 1 are told apart.
    """

    loc: Tensor
    end: Tensor
    variance_s: Tensor
    variance_t: Tensor
    jump: Tensor
    rate_s: Tensor
    rate_t: Tensor
    terms: int

    def _late(self) -> tuple[Tensor, Tensor]:
        """V_t and log p(n_t | G_t), ``(B, *event, terms)``."""
        n = torch.arange(self.terms, device=self.loc.device)
        # At t = 0 there is no noise: V_t = G_t = 0, and n_t = 0 whatever stands for log N(0; 0, 0).
        v = (self.variance_t[..., None] + n * self.jump[..., None]).clamp_min(torch.finfo(self.loc.dtype).tiny)
        unseen = _log_poisson(self.rate_t, self.terms) - 0.5 * torch.log(v)
        return v, torch.log_softmax(unseen - (0.5 / v) * self.end[..., None].to(torch.float64) ** 2, -1)

    def _share(self) -> Tensor:
        """λ_s/λ_t."""
        early, late = self.rate_s.to(torch.float64), self.rate_t.to(torch.float64)
        return torch.where(late > 0, early / late, 0.0)

    def _early(self, share: Tensor) -> Tensor:
        """log p(n_s | n_t) for λ_s/λ_t, ``(…, n_t, n_s)``."""
        n = torch.arange(self.terms, dtype=torch.float64, device=self.loc.device)
        late, share = n[:, None], share[..., None, None]
        rest = late - n
        ways = torch.lgamma(late + 1) - torch.lgamma(n + 1) - torch.lgamma(rest.clamp_min(0) + 1)
        each = ways + torch.xlogy(n, share) + torch.xlogy(rest.clamp_min(0), 1 - share)
        return torch.where(rest >= 0, each, -torch.inf)

    def sample(self, noise: Noise) -> Tensor:
        event = tuple(self.loc.shape[1:])
        n_t = _choose(self._late()[1].exp(), noise.uniform(event))
        # The rows of a table one after another, each between its number and the next: one search for (n_t, n_s).
        rows = _cumulative(self._early(_one_each(self._share())))
        edges = (torch.arange(self.terms, device=rows.device)[:, None] + rows).flatten(-2)
        n_s = _cell(edges, n_t + noise.fold_in(Stream.CHOICE).uniform(event)) - n_t * self.terms
        v_s = self.variance_s + n_s.clamp(max=n_t) * self.jump
        v_t = (self.variance_t + n_t * self.jump).clamp_min(torch.finfo(self.loc.dtype).tiny)
        spread = torch.sqrt((v_s * (1 - v_s / v_t)).clamp_min(0))
        return self.loc + v_s / v_t * self.end + spread * noise.normal(event).to(self.loc)

    def log_prob(self, x: Tensor) -> Tensor:
        (v_t, late), n = self._late(), torch.arange(self.terms, device=x.device)
        v_t, v_s = v_t[..., None], (self.variance_s[..., None] + n * self.jump[..., None])[..., None, :]
        apart = (x - self.loc)[..., None, None] - v_s / v_t * self.end[..., None, None]
        early = self._early(self._share())
        each = torch.where(early > -torch.inf, _log_normal(apart, v_s * (1 - v_s / v_t)), 0.0)
        return torch.logsumexp(late[..., None] + early + each, (-2, -1)).flatten(1).sum(1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E[G_s | G_t] and E[G_s² | G_t]."""
        (v_t, late), n = self._late(), torch.arange(self.terms, device=self.loc.device)
        share, jump, p = self._share()[..., None], self.jump[..., None], late.exp()
        mean = self.variance_s[..., None] + n * share * jump
        square = mean**2 + n * share * (1 - share) * jump**2
        inner = mean - square / v_t + square * (self.end[..., None] / v_t) ** 2
        return self.end * (p * mean / v_t).sum(-1), (p * inner).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self.loc + self._moments()[0].to(self.loc)

    @property
    def cov(self) -> Diagonal:
        mean, square = self._moments()
        return Diagonal((square - mean**2).to(self.loc))
