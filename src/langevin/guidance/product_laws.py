"""Products of laws in closed form: normals, Gaussian mixtures, finite sets, tokens, levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .._errors import UserError
from ..distributions import Categorical, Dense, Diagonal, Distribution, FiniteSet, GaussianMixture, Levels, Normal
from ..processes import Chain, Observable, Process, expand, require
from .tilt import Moments

L = TypeVar("L", bound=Distribution)

MOST = 1024
"""Components of a product of mixtures at most."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """q(x_t | x_0)^power as a function of x_0, by which a product of beliefs is multiplied."""

    process: Process
    x_t: Tensor
    t: Tensor
    power: float

    def look(self) -> tuple[Tensor, Tensor, Tensor]:
        """y, a, r of the look y = a x_0 + r ε at the data that a state is; a and r shaped to multiply y."""
        seen = require(self.process, Observable, "a product of laws of real data").observe(self.x_t, self.t)
        y = seen.y.to(torch.float64)
        return y, expand(seen.a, y), expand(seen.r, y)

    def normal(self) -> tuple[Tensor, Tensor]:
        """(p, h) of exp(−½ p|x_0|² + h·x_0): the precision, shaped to multiply x_0, and the pull ``(B, *event)``."""
        y, a, r = self.look()
        return self.power * a**2 / r**2, self.power * a / r**2 * y

    def points(self, points: Tensor) -> Tensor:
        """log q(x_t | x_n) of points ``(N, *event)``, ``(B, N)``."""
        batch, n = len(self.x_t), len(points)
        t = self.t.repeat_interleave(n) if self.t.ndim and len(self.t) > 1 else self.t
        clean = points.repeat(batch, *[1] * (points.ndim - 1))
        return self.process.marginal(clean, t).log_prob(self.x_t.repeat_interleave(n, 0)).reshape(batch, n)

    def tokens(self) -> Tensor:
        """log q(x_t | x_0 = k) at every position, ``(B, *event, K)``."""
        chain: Chain = require(self.process, Chain, "a product of laws of tokens")
        return torch.log(chain.likelihood(self.x_t, self.t))

    def levels(self, values: Tensor) -> Tensor:
        """log q(x_t | x_0 = v_k) of every coordinate, up to a constant, ``(B, *event, K)``."""
        y, a, r = self.look()
        return -0.5 * ((y[..., None] - a[..., None] * values) / r[..., None]) ** 2


def _of(kind: type[L], pairs: Sequence[tuple[Distribution, float]]) -> list[tuple[L, float]]:
    """The laws of a kind with their weights."""
    return [(law, w) for law, w in pairs if isinstance(law, kind)]


def product_of_laws(laws: Sequence[Distribution], weights: Sequence[float], evidence: Evidence | None) -> Distribution:
    """The law ∏ p_i^{w_i} · q^power, normalised, of laws of one kind.

    Raises:
        UserError: for laws without a closed form; a product that is no law.
    """
    pairs = [(law.normal if isinstance(law, Moments) else law, w) for law, w in zip(laws, weights) if w != 0]
    kinds = {type(law) for law, _ in pairs}
    if kinds == {Categorical}:
        return _categorical(_of(Categorical, pairs), evidence)
    if kinds == {FiniteSet}:
        return _finite(_of(FiniteSet, pairs), evidence)
    if kinds == {Levels}:
        return _levels(_of(Levels, pairs), evidence)
    if kinds == {Normal}:
        return _normal(_of(Normal, pairs), evidence)
    if kinds <= {Normal, GaussianMixture}:
        mixed = [(law, w) for law, w in pairs if isinstance(law, (Normal, GaussianMixture))]
        return _mixture(mixed, evidence)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise UserError(
        f"product needs whole beliefs of one kind (normals and mixtures, finite sets, tokens), got {names}; the belief "
        "of a network is a point, which has no density: for those, conjunction and linear compose the predictions"
    )


# --- finite: sums of logarithms ---------------------------------------------------------------------------------------


def _sum_of_logs(logs: Sequence[Tensor], weights: Sequence[float], evidence: Tensor | None, power: float) -> Tensor:
    """Σ w_i log p_i + power·log q over the last axis, normalised; −∞ where a factor or the evidence has no chance."""
    dead = torch.zeros_like(logs[0], dtype=torch.bool)
    for log, weight in zip(logs, weights):
        dead = dead | ((log == -torch.inf) if weight > 0 else torch.zeros_like(dead))
    if evidence is not None:
        dead = dead | (evidence == -torch.inf)
    alone = [(log == -torch.inf) & ~dead for log, weight in zip(logs, weights) if weight < 0]
    if any(bool(each.any()) for each in alone):
        raise UserError("weights below 0 need laws with a common support: a state that one excludes, another allows")
    if bool(dead.all(-1).any()):
        raise UserError("product is of laws with a common support, and these have no state in common")
    total = sum(weight * torch.where(dead, 0.0, log) for log, weight in zip(logs, weights))
    if evidence is not None:
        total = total + power * torch.where(dead, 0.0, evidence)
    return torch.log_softmax(torch.where(dead, -torch.inf, total), -1)


def _powers(evidence: Evidence | None) -> float:
    return 0.0 if evidence is None else evidence.power


def _categorical(pairs: list[tuple[Categorical, float]], evidence: Evidence | None) -> Categorical:
    logs = [torch.log(law.probs.to(torch.float64)) for law, _ in pairs]
    seen = None if evidence is None else evidence.tokens()
    return Categorical(_sum_of_logs(logs, [w for _, w in pairs], seen, _powers(evidence)).exp())


def _finite(pairs: list[tuple[FiniteSet, float]], evidence: Evidence | None) -> FiniteSet:
    points = pairs[0][0].points
    if not all(law.points.shape == points.shape and torch.equal(law.points, points) for law, _ in pairs):
        raise UserError("product of finite sets needs the same points in the same order in each")
    seen = None if evidence is None else evidence.points(points)
    logs = [law.log_weights for law, _ in pairs]
    return FiniteSet(points, _sum_of_logs(logs, [w for _, w in pairs], seen, _powers(evidence)))


def _levels(pairs: list[tuple[Levels, float]], evidence: Evidence | None) -> Levels:
    first = pairs[0][0]
    for law, _ in pairs:
        plain = all(not torch.as_tensor(v).any() for v in (law.shift, law.variance)) and (
            bool((torch.as_tensor(law.scale) == 1).all())
        )
        if not plain or not torch.equal(law.values, first.values):
            raise UserError("product of laws of levels needs the same levels in each, without noise")
    seen = None if evidence is None else evidence.levels(first.values.to(torch.float64))
    logs = [law.log_probs.to(torch.float64) for law, _ in pairs]
    total = _sum_of_logs(logs, [w for _, w in pairs], seen, _powers(evidence))
    return Levels(first.values, total.to(first.log_probs.dtype))


# --- normal: sums of precisions ---------------------------------------------------------------------------------------


def _check_precision(values: Tensor) -> None:
    if not bool((values > 0).all()) or not bool(values.isfinite().all()):
        raise UserError(
            "product is no law: its precision is not positive and finite in some direction, by weights below 0 or a "
            "covariance that is singular"
        )


def _normal(pairs: list[tuple[Normal, float]], evidence: Evidence | None) -> Normal:
    r""":math:`P = \sum w_i C_i^{-1} + p I, \quad m = P^{-1} (\sum w_i C_i^{-1} m_i + h)`."""
    dtype = pairs[0][0].loc.dtype
    p, h = (0.0, 0.0) if evidence is None else evidence.normal()
    if all(isinstance(law.covariance, Diagonal) for law, _ in pairs):
        precision, pull = (torch.as_tensor(v, dtype=torch.float64) for v in (p, h))
        for law, w in pairs:
            own = w / law.cov.diagonal(tuple(law.loc.shape[1:])).to(torch.float64)
            precision, pull = precision + own, pull + own * law.loc
        _check_precision(precision)
        return Normal((pull / precision).to(dtype), Diagonal((1 / precision).to(dtype)))
    shape = tuple(pairs[0][0].loc.shape[1:])
    batch = max(len(law.loc) for law, _ in pairs)
    size = math.prod(shape)
    total = torch.zeros(1, size, size, dtype=torch.float64)
    force = torch.zeros(batch, size, dtype=torch.float64)
    for law, w in pairs:
        values, basis = torch.linalg.eigh(law.cov.dense(shape).to(torch.float64))
        _check_precision(values)
        inverse = (basis / values[..., None, :]) @ basis.mT
        total = total + w * inverse
        force = force + w * (inverse @ law.loc.to(torch.float64).flatten(1)[..., None])[..., 0]
    if evidence is not None:
        total = total + torch.as_tensor(p).reshape(-1, 1, 1) * torch.eye(size, dtype=torch.float64)
        force = force + torch.as_tensor(h).flatten(1)
    values, basis = torch.linalg.eigh((total + total.mT) / 2)
    _check_precision(values)
    covariance = (basis / values[..., None, :]) @ basis.mT
    mean = (covariance @ force[..., None])[..., 0]
    return Normal(mean.reshape(-1, *shape).to(dtype), Dense(covariance.to(dtype)))


# --- mixtures: every choice of components is a normal -----------------------------------------------------------------


class _Factors(NamedTuple):
    """Σ_k exp(c_k + h_k·x − ½ x·P_k x): c ``(B, K)``, h ``(B, K, D)``, P ``(B or 1, K, D, D)``."""

    c: Tensor
    h: Tensor
    p: Tensor

    def times(self, other: _Factors) -> _Factors:
        """The product: one term for each pair of terms."""
        pairs = ((a[:, :, None] + b[:, None]).flatten(1, 2) for a, b in zip(self, other))
        return _Factors(*pairs)

    def scaled(self, weight: float) -> _Factors:
        """A single term to a power."""
        return _Factors(*(weight * part for part in self))


def _terms(law: Normal | GaussianMixture) -> _Factors:
    if isinstance(law, Normal):
        shape = tuple(law.loc.shape[1:])
        if len(shape) != 1:
            raise UserError(f"product of mixtures is of data of one axis, got a normal law of {shape}")
        values, basis = torch.linalg.eigh(law.cov.dense(shape).to(torch.float64))
        _check_precision(values)
        p = (basis / values[..., None, :]) @ basis.mT
        h = (p @ law.loc.to(torch.float64)[..., None])[..., 0]
        c = -0.5 * ((h * law.loc).sum(-1) + torch.log(2 * torch.pi * values).sum(-1))
        return _Factors(c[:, None], h[:, None], p[:, None])
    values = law.variances
    _check_precision(values)
    if bool((values == values[:1]).all()):
        values = values[:1]  # one time for all samples: so are the precisions
    along = torch.einsum("kij,bki->bkj", law.basis, law.means) / values
    h = torch.einsum("kij,bkj->bki", law.basis, along)
    p = torch.einsum("kij,bkj,klj->bkil", law.basis, 1 / values, law.basis)
    c = law.log_weights - 0.5 * ((law.means * h).sum(-1) + torch.log(2 * torch.pi * values).sum(-1))
    return _Factors(c, h, p)


def _mixture(pairs: list[tuple[Normal | GaussianMixture, float]], evidence: Evidence | None) -> GaussianMixture:
    r"""A component for each choice of one of each factor, with the weight

    .. math:: \log π = \sum_i c_i + \tfrac12 h^T P^{-1} h - \tfrac12 \log\det P, \quad h = \sum h_i, \; P = \sum P_i
    """
    count, factors = 1, []
    for law, w in pairs:
        own = 1 if isinstance(law, Normal) else law.means.shape[1]
        if own > 1 and (w < 0 or w != int(w)):
            raise UserError(
                f"weights of mixtures must be integers >= 0 (another power of a sum is no mixture), got {w:g} for one "
                f"of {own} components"
            )
        count *= own ** int(w) if own > 1 else 1
        if count > MOST:
            raise UserError(f"product of mixtures must have at most {MOST} components, got {count}")
        factors.append((law, own, w))
    parts = ([_terms(law).scaled(w)] if own == 1 else [_terms(law)] * int(w) for law, own, w in factors)
    total, *rest = itertools.chain.from_iterable(parts)
    for factor in rest:
        total = total.times(factor)
    c, h, p = total
    if evidence is not None:
        more, pull = evidence.normal()
        p = p + torch.as_tensor(more).reshape(-1, 1, 1, 1) * torch.eye(p.shape[-1], dtype=p.dtype)
        h = h + pull[:, None]
    # Precisions of samples at different times differ by a multiple of the identity: one basis serves all.
    flattest = int(torch.diagonal(p, dim1=-2, dim2=-1).sum((-2, -1)).argmin())
    _, basis = torch.linalg.eigh((p[flattest] + p[flattest].mT) / 2)
    turned = torch.einsum("kij,bkil,klm->bkjm", basis, p, basis)
    values = torch.diagonal(turned, dim1=-2, dim2=-1)
    _check_precision(values)
    if bool(((turned - torch.diag_embed(values)).abs().amax((-2, -1)) > 1e-6 * values.amax(-1)).any()):
        raise UserError("product of mixtures needs samples whose covariances differ by a multiple of the identity")
    along = torch.einsum("kij,bki->bkj", basis, h)
    means = torch.einsum("kij,bkj->bki", basis, along / values)
    log_weights = c + 0.5 * (along**2 / values - torch.log(values)).sum(-1)
    return GaussianMixture(torch.log_softmax(log_weights, -1), means, basis, (1 / values).expand_as(means))
