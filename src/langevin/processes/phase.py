"""Diffusion in phase space: data with a velocity, critically damped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Blocks, Compound, Diagonal, Dirac, Distribution, Normal
from .base import Observation, Process, as_time, expand


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _apply(m: Tensor, z: Tensor) -> Tensor:
    """A 2×2 matrix per sample, ``(2, 2)`` or ``(B, 2, 2)``, on states ``(B, 2, *data)``."""
    m = m.to(device=z.device, dtype=z.dtype)
    return (m @ z.flatten(2)).reshape(z.shape)


@register(
    "processes",
    "phase-space",
    title="Critically damped Langevin diffusion",
    arxiv="2112.07068",
    catalogue="D6",
    proof="exact: tests/processes/test_phase.py",
)
@dataclass(frozen=True)
class PhaseSpace(Process):
    r"""Critically damped Langevin diffusion (Dockhorn et al. 2022, arXiv:2112.07068, eq. 5 with Γ² = 4M).

    .. math:: dx = β v\,dt, \quad dv = -β x\,dt - 2 β v\,dt + 2\sqrt{β}\,dw

    Here v is the paper's velocity divided by √M and β the paper's β/√M, so that x and v are alike at equilibrium,
    N(0, I). With y = βt the transition is a polynomial and its noise an incomplete gamma function, which does not
    cancel for small y:

    .. math::
        Φ(y) = e^{-y} \begin{pmatrix} 1 + y & y \\ -y & 1 - y \end{pmatrix}, \quad
        I - ΦΦ^T = \begin{pmatrix} P(3, 2y) & 2y^2 e^{-2y} \\ 2y^2 e^{-2y} & P(3, 2y) + 4y e^{-2y} \end{pmatrix}

    A state is ``(B, 2, *data)``: x, then v. The belief is about x_0 alone; v_0 ~ N(0, γ) is integrated out.

    Args:
        beta: the total time in units of the relaxation time, > 0; the paper's β = 4, M = 1/4 is 8.
        gamma: variance of the initial velocity at equilibrium scale, in (0, 1]; the paper's γ = 0.04.
    """

    beta: float = 8.0
    gamma: float = 0.04

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf or not 0 < self.gamma <= 1:
            raise UserError(f"beta must be > 0 and gamma in (0, 1], got {self.beta} and {self.gamma}")

    @property
    def t_min(self) -> float:
        return 1e-3

    def flow(self, s: Tensor | float, t: Tensor | float) -> Tensor:
        """Φ from s to t ≥ s, ``(2, 2)`` or ``(B, 2, 2)``."""
        y = self.beta * (as_time(t) - as_time(s))
        return torch.exp(-y)[..., None, None] * _matrix([[1 + y, y], [-y, 1 - y]])

    def noise_cov(self, s: Tensor | float, t: Tensor | float) -> Tensor:
        """The covariance added from s to t, ``(2, 2)`` or ``(B, 2, 2)``."""
        y = self.beta * (as_time(t) - as_time(s))
        decay = torch.exp(-2 * y)
        p = torch.special.gammainc(torch.full_like(y, 3.0), 2 * y)
        cross = 2 * y**2 * decay
        return _matrix([[p, cross], [cross, p + 4 * y * decay]])

    def gain(self, t: Tensor | float) -> Tensor:
        """K_t of E[x_t | x_0] = K_t x_0: the first column of Φ, ``(2,)`` or ``(B, 2)``."""
        return self.flow(0.0, t)[..., 0]

    def cov(self, t: Tensor | float) -> Tensor:
        """Σ_t of q(x_t | x_0), the initial velocity integrated out, ``(2, 2)`` or ``(B, 2, 2)``."""
        velocity = self.flow(0.0, t)[..., 1]
        return self.noise_cov(0.0, t) + self.gamma * velocity[..., :, None] * velocity[..., None, :]

    def _blocks(self, m: Tensor, state: Tensor) -> Blocks:
        m = m.to(device=state.device, dtype=state.dtype)
        return Blocks(m.reshape(-1, 2, 2, *[1] * (state.ndim - 2)))

    def _lift(self, k: Tensor, x0: Tensor) -> Tensor:
        """K x_0, ``(B, 2, *data)``."""
        return torch.stack([expand(k[..., 0], x0) * x0, expand(k[..., 1], x0) * x0], 1)

    def prior(self, shape: tuple[int, ...]) -> Normal:
        """N(0, I) in x and v."""
        return Normal(torch.zeros(1, 2, *shape, dtype=torch.float64), 1.0)

    def marginal(self, x0: Tensor, t: Tensor | float) -> Normal:
        mean = self._lift(self.gain(t), x0)
        return Normal(mean, self._blocks(self.cov(t), mean))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Normal:
        return Normal(_apply(self.flow(s, t), x_s), self._blocks(self.noise_cov(s, t), x_s))

    def bridge_coefficients(
        self, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""(A, G, C) of q_η(x_s | x_t, x_0) = N(A x_0 + G x_t, C): A = K_s − G K_t, C = Σ_s − G Σ_t Gᵀ.

        At η = 1, :math:`G = Σ_s Φ^T Σ_t^{-1}`. For η < 1 the gain solves
        :math:`\dot G = (F + \tfrac{1 + η^2}{2} g g^T Σ^{-1}) G`, G(t) = I, taken down from t to s: the flow (η = 0) or
        half-way to it, with the marginals kept. It is integrated in log t, in which Σ⁻¹ is smooth.
        """
        t, s = as_time(t), as_time(s)
        if not 0.0 <= eta <= 1.0:
            raise UserError(f"eta must lie in [0, 1], got {eta}")
        sigma_s, sigma_t = self.cov(s), self.cov(t)
        gain = torch.linalg.solve(sigma_t, self.flow(s, t) @ sigma_s).mT if eta == 1.0 else self._gain(t, s, eta)
        free = sigma_s - gain @ sigma_t @ gain.mT if eta else torch.zeros_like(sigma_s)
        lift = self.gain(s) - (gain @ self.gain(t)[..., None])[..., 0]
        return lift, gain, (free + free.mT) / 2

    def _gain(self, t: Tensor, s: Tensor, eta: float, steps: int = 96) -> Tensor:
        if (s <= 0).any():
            raise UserError("eta must be 1 for a step that ends at s = 0 in phase space (the flow is singular there)")
        drift = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        kick = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)

        def slope(u: Tensor, g: Tensor) -> Tensor:
            time = torch.exp(u)
            inverse = torch.linalg.inv(self.cov(time))
            return (self.beta * time)[..., None, None] * ((drift + (1 + eta**2) / 2 * kick @ inverse) @ g)

        u, end = torch.log(t), torch.log(s)
        h = (end - u) / steps
        hh = h[..., None, None]
        g = torch.eye(2, dtype=torch.float64).expand(*torch.broadcast_shapes(t.shape, s.shape), 2, 2)
        for _ in range(steps):  # the classical Runge–Kutta method
            k1 = slope(u, g)
            k2 = slope(u + h / 2, g + hh / 2 * k1)
            k3 = slope(u + h / 2, g + hh / 2 * k2)
            k4 = slope(u + h, g + hh * k3)
            g, u = g + hh / 6 * (k1 + 2 * k2 + 2 * k3 + k4), u + h
        return g

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Normal:
        lift, gain, free = self.bridge_coefficients(t, s, eta)
        return Normal(self._lift(lift, x0) + _apply(gain, x_t), self._blocks(free, x_t))

    def reverse(
        self, x_t: Tensor, belief: Distribution, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> Distribution:
        """Dirac and diagonal normal beliefs give 2×2 blocks A Aᵀ·v + C; any other is drawn from, then bridged."""
        lift, gain, free = self.bridge_coefficients(t, s, eta)
        closed = isinstance(belief, Dirac) or (isinstance(belief, Normal) and isinstance(belief.cov, Diagonal))
        if not closed:
            shift = _apply(gain, x_t)
            return Compound(belief, lambda x0: Normal(self._lift(lift, x0) + shift, self._blocks(free, x_t)))
        blocks = self._blocks(free, x_t).matrix
        outer = self._blocks(lift[..., :, None] * lift[..., None, :], x_t).matrix
        variance = belief.cov.diagonal(tuple(belief.mean.shape[1:]))
        cov = blocks + outer * variance[:, None, None]
        return Normal(self._lift(lift, belief.mean) + _apply(gain, x_t), Blocks(cov))

    def read(self, x: Tensor) -> Tensor:
        """x, without the velocity."""
        return x[:, 0]

    def observe(self, x_t: Tensor, t: Tensor | float) -> Observation:
        r"""y = KᵀΣ⁻¹x_t / KᵀΣ⁻¹K = x_0 + N(0, 1/KᵀΣ⁻¹K): all that position and velocity say about x_0."""
        k, sigma = self.gain(t), self.cov(t)
        weights = torch.linalg.solve(sigma, k[..., None])[..., 0]
        precision = (weights * k).sum(-1)
        data = x_t.ndim - 2
        w = (weights / precision[..., None]).reshape(-1, 2, *[1] * data).to(x_t)
        y = (w * x_t).sum(1)
        d = math.prod(x_t.shape[2:])
        rest = Normal(self._lift(k, y), self._blocks(sigma, x_t)).log_prob(x_t)
        log_c = rest + 0.5 * d * (math.log(2 * math.pi) - torch.log(precision))
        return Observation(y, torch.ones_like(precision), precision.rsqrt(), log_c)

    def score(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r"""∇ log p_t(x, v) = Σ_t⁻¹ (K_t x̂_0 − x_t), exact from the mean of the belief about x_0 alone."""
        apart = self._lift(self.gain(t), belief.mean) - x_t
        return _apply(torch.linalg.inv(self.cov(t)), apart)

    def velocity(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r"""dz/dt of the probability flow: β (F z − ½ g gᵀ ∇ log p_t(z))."""
        drift = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        kick = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        return self.beta * (_apply(drift, x_t) - _apply(kick / 2, self.score(x_t, belief, t)))
