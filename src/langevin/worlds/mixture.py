"""Gaussian mixtures: the world in which every Gaussian-like process is solved in closed form."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from ..distributions import Distribution, Noise, Stream
from ..distributions import GaussianMixture as MixtureLaw
from ..operators import Measurement
from ..processes import Observable, Process, expand, require
from .base import World

_LOG_2PI = math.log(2 * math.pi)


@register("worlds", "mixture", title="Gaussian mixture world", proof="exact: tests/worlds/test_mixture.py")
class GaussianMixture(World):
    r"""p_0 = Σ_k w_k N(m_k, C_k) with any covariances, in float64; the label of a sample is its component.

    With y = a x_0 + r ε the reduced observation of x_t and :math:`C_k = V Λ V^T`,

    .. math::
        q(y | k) = N(y; a m_k, a^2 C_k + r^2 I), \quad
        x_0 | y, k \sim
        N\!\left(m_k + V \tfrac{aΛ}{a^2Λ + r^2} V^T (y - a m_k),\; V \tfrac{r^2 Λ}{a^2Λ + r^2} V^T\right)

    Args:
        weights: ``(K,)``, ≥ 0, normalised here.
        means: ``(K, D)``.
        covariances: ``(K, D, D)`` positive semi-definite, or variances ``(K, D)`` or ``(K,)``.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        try:
            w, m, c = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
        except (TypeError, ValueError, RuntimeError):
            got = ", ".join(map(shown, (weights, means, covariances)))
            raise UserError(f"weights, means and covariances must be tensors of numbers, got {got}") from None
        if w.ndim != 1 or m.ndim != 2 or m.shape[0] != w.shape[0]:
            raise UserError(f"weights and means must be (K,) and (K, D), got {tuple(w.shape)} and {tuple(m.shape)}")
        k, d = m.shape
        if c.shape == (k, d):
            c = torch.diag_embed(c)
        elif c.shape == (k,):
            c = c[:, None, None] * torch.eye(d, dtype=torch.float64)
        if c.shape != (k, d, d):
            raise UserError(f"covariances must be ({k}, {d}, {d}), ({k}, {d}) or ({k},), got {tuple(c.shape)}")
        if not all(v.isfinite().all() for v in (w, m, c)) or not (w >= 0).all() or not w.sum() > 0:
            raise UserError("weights must be >= 0 with a positive sum, and all parameters finite")
        values, basis = torch.linalg.eigh((c + c.mT) / 2)
        if (values < -1e-10 * values.abs().max().clamp_min(1e-300)).any():
            raise UserError(f"covariances must be positive semi-definite, smallest eigenvalue {values.min():.3g}")
        self.shape = (d,)
        self.log_weights = torch.log(w / w.sum())
        self.labels = torch.arange(k)
        self._parts: dict[int, GaussianMixture] = {}
        # An eigenvalue below the rounding of the largest is the 0 of a singular covariance.
        rounding = d * torch.finfo(torch.float64).eps * values.amax(-1, keepdim=True)
        self.means, self.basis, self.values = m, basis, torch.where(values > rounding, values, 0.0)

    @property
    def mean(self) -> Tensor:
        """E[x_0], ``(D,)``."""
        return self.log_weights.exp() @ self.means

    @property
    def cov(self) -> Tensor:
        """Cov[x_0], ``(D, D)``."""
        w, apart = self.log_weights.exp(), self.means - self.mean
        within = torch.einsum("k,kij,kj,klj->il", w, self.basis, self.values, self.basis)
        return within + torch.einsum("k,ki,kj->ij", w, apart, apart)

    def part(self, label: int) -> GaussianMixture:
        if label < 0:
            return self
        if label not in self._parts:
            own, result = self.labels == label, copy.copy(self)
            result.log_weights = torch.log_softmax(self.log_weights[own], 0)
            result.labels, result.means = self.labels[own], self.means[own]
            result.basis, result.values, result._parts = self.basis[own], self.values[own], {}
            self._parts[label] = result
        return self._parts[label]

    def _posterior(self, measurement: Measurement) -> GaussianMixture:
        r"""The mixture of the components' posteriors, each a Kalman update, with :math:`S_k = A C_k A^T + s^2 I`:

        .. math::
            m_k' = m_k + C_k A^T S_k^{-1} (y - A m_k), \quad
            C_k' = C_k - C_k A^T S_k^{-1} A C_k, \quad
            w_k' \propto w_k\, N(y; A m_k, S_k)
        """
        std = measurement.std
        u, s, vh = torch.linalg.svd(measurement.linear.matrix(self.shape), full_matrices=False)
        seen = s > 1e-12 * s[0]  # what of y lies outside the range of A says nothing about x_0
        a, y = s[seen, None] * vh[seen], measurement.y.to(torch.float64).reshape(1, -1) @ u[:, seen]
        covariances = torch.einsum("kij,kj,klj->kil", self.basis, self.values, self.basis)
        cross = covariances @ a.mT
        try:
            root = torch.linalg.cholesky(a @ cross + std**2 * torch.eye(len(a), dtype=torch.float64))
        except RuntimeError:
            raise UserError(
                "std must be > 0 for a mixture with a singular covariance, whose measurement has no density"
            ) from None
        white = torch.linalg.solve_triangular(root, (y - self.means @ a.mT)[..., None], upper=False)
        gain = torch.linalg.solve_triangular(root, cross.mT, upper=False)
        log_det = torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1)
        log_weights = self.log_weights - 0.5 * white[..., 0].square().sum(-1) - log_det
        means = self.means + (gain.mT @ white)[..., 0]
        values, basis = torch.linalg.eigh(covariances - gain.mT @ gain)
        # What the measurement leaves of a variance is known to the rounding of what was there.
        values = torch.where(values > 1e-14 * self.values.amax(-1, keepdim=True), values, 0.0)
        left = basis * values[:, None] @ basis.mT
        result = GaussianMixture(torch.softmax(log_weights, 0), means, left)
        result.labels = self.labels
        return result

    def _along(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """V_kᵀ (x − scale·m_k), ``(B, K, D)``."""
        return torch.einsum("kij,bki->bkj", self.basis, x[:, None] - scale * self.means)

    @staticmethod
    def _log_normal(along: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * (along**2 / variance + torch.log(variance) + _LOG_2PI).sum(-1)

    def log_prob_clean(self, x: Tensor) -> Tensor:
        if (self.values == 0).any():
            raise UserError("a mixture with a singular covariance has no density; ask for it with a process at t > 0")
        return self._log_normal(self._along(x.to(torch.float64)), self.values)

    def clean(self, noise: Noise, component: Tensor) -> Tensor:
        z = torch.sqrt(self.values[component]) * noise.normal(self.shape)
        return self.means[component] + (self.basis[component] @ z[..., None])[..., 0]

    def _look(self, x_t: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        seen = require(process, Observable, "a Gaussian mixture world").observe(x_t, t)
        y = seen.y.to(torch.float64)
        a, r = expand(seen.a, y)[..., None], expand(seen.r, y)[..., None]
        variance = (a**2 * self.values + r**2).clamp_min(1e-200)  # t = 0, no variance: the nearest component
        return self._along(y, a), a, r, variance, seen.log_c

    def evidence(self, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
        along, _, _, variance, log_c = self._look(x_t, t, process)
        return self._log_normal(along, variance) + (log_c[:, None] if log_c.ndim else log_c)

    def belief(self, x_t: Tensor, t: Tensor, process: Process, log_weights: Tensor) -> Distribution:
        along, a, r, variance, _ = self._look(x_t, t, process)
        shift = torch.einsum("kij,bkj->bki", self.basis, a * self.values / variance * along)
        spread = (r**2 * self.values / variance).expand_as(shift)
        return MixtureLaw(log_weights, self.means + shift, self.basis, spread)


def ring(components: int = 8, radius: float = 1.0, std: float = 0.1) -> GaussianMixture:
    """Equal round components on a circle in the plane.

    Args:
        components: K ≥ 1.
        radius: of the circle.
        std: of each component, > 0.
    """
    check_integer("components", components, 1)
    check_numbers(radius=radius, std=std)
    if components < 1 or not std > 0:
        raise UserError(f"components must be at least 1 and std > 0, got {components} and {std}")
    angle = 2 * math.pi * torch.arange(components, dtype=torch.float64) / components
    means = radius * torch.stack((torch.cos(angle), torch.sin(angle)), -1)
    return GaussianMixture(torch.ones(components), means, torch.full((components,), std**2))


def random_mixture(
    dim: int, components: int = 8, rank: int | None = None, rms: float = 0.5, seed: int = 0
) -> GaussianMixture:
    """A mixture with random means, anisotropic covariances of a given rank (plus a little), and a given RMS.

    Args:
        dim: D ≥ 1.
        components: K ≥ 1.
        rank: directions with sizeable variance in each component, ≥ 1; all if not given.
        rms: root mean square of a coordinate, over the mixture and the coordinates, > 0.
        seed: of the construction.
    """
    for name, value in (("dim", dim), ("components", components), ("rank", 1 if rank is None else rank)):
        check_integer(name, value, 1)
    check_numbers(rms=rms)
    rank = min(dim, dim if rank is None else rank)
    if min(dim, components, rank) < 1 or not rms > 0:
        raise UserError(f"dim, components, rank must be at least 1 and rms > 0, got {dim}, {components}, {rank}, {rms}")
    noise = Noise(seed, components)
    means = noise.fold_in(Stream.MEANS).normal((dim,))
    factor = noise.fold_in(Stream.FACTORS).normal((dim, rank)) / math.sqrt(rank)
    covariances = 0.5 * factor @ factor.mT + 1e-3 * torch.eye(dim, dtype=torch.float64)
    weights = 0.5 + noise.fold_in(Stream.WEIGHTS).uniform(())
    total = GaussianMixture(weights, means, covariances)
    scale = rms / torch.sqrt((torch.trace(total.cov) + (total.mean**2).sum()) / dim)
    return GaussianMixture(weights, scale * means, scale**2 * covariances)
