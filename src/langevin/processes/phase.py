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

    def _noisy(self, t: Tensor | float) -> Tensor:
        """Σ_t where it has an inverse."""
        if (as_time(t) <= 0).any():
            raise UserError("t must be above 0 in phase space: at clean data position has no noise to divide by")
        return self.cov(t)

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
        :math:`\dot G = β (F + \tfrac{1 + η^2}{2} g g^T Σ^{-1}) G`, G(t) = I, taken from t to s: the probability flow
        at η = 0, and a step that any finer chain of steps agrees with at every η.
        """
        t, s = as_time(t), as_time(s)
        if not 0.0 <= eta <= 1.0:
            raise UserError(f"eta must lie in [0, 1], got {eta}")
        if eta == 1.0:
            sigma_s, sigma_t = self.cov(s), self.cov(t)
            gain = torch.linalg.solve(sigma_t, self.flow(s, t) @ sigma_s).mT
            free = sigma_s - gain @ sigma_t @ gain.mT
        else:
            root_s, turn = self._root(s), self._turn(t, s, eta)
            gain = torch.linalg.solve_triangular(self._root(t), root_s @ turn, upper=False, left=False)
            free = root_s @ (torch.eye(2, dtype=torch.float64) - turn @ turn.mT) @ root_s.mT * (eta > 0)
        lift = self.gain(s) - (gain @ self.gain(t)[..., None])[..., 0]
        return lift, gain, (free + free.mT) / 2

    def _root(self, t: Tensor) -> Tensor:
        """L of Σ_t = L Lᵀ, lower triangular; the variance of v given x does not cancel, and t = 0 is the limit."""
        t = t.clamp_min(1e-18)
        noise, f = self.noise_cov(0.0, t), self.flow(0.0, t)[..., 1]
        p, q, r = noise[..., 0, 0], noise[..., 0, 1], noise[..., 1, 1]
        x, v = f[..., 0], f[..., 1]
        square = p + self.gamma * x**2
        det = p * r - q**2 + self.gamma * (p * v**2 - 2 * q * x * v + r * x**2)
        a = torch.sqrt(square)
        return _matrix([[a, torch.zeros_like(a)], [(q + self.gamma * x * v) / a, torch.sqrt(det / square)]])

    def _turn(self, t: Tensor, s: Tensor, eta: float, panels: int = 256) -> Tensor:
        r"""M of G = L_s M L_t⁻¹, where L is the root of Σ: a rotation at η = 0, so that G Σ_t Gᵀ = Σ_s to rounding.

        .. math:: \dot M = β \begin{pmatrix} 0 & L_{22}/L_{11} \\ -L_{22}/L_{11} & 2η^2/L_{22}^2 \end{pmatrix} M

        by the fourth-order Magnus method in log t, in which the coefficients are smooth and bounded.
        """
        t, s = torch.broadcast_tensors(torch.log(t.clamp_min(1e-18)), torch.log(s.clamp_min(1e-18)))
        h = (s - t) / panels

        def generator(place: float) -> Tensor:
            steps = torch.arange(panels, dtype=torch.float64).reshape(-1, *[1] * h.ndim) + place
            time = torch.exp(t + h * steps)
            root = self._root(time)
            spin = root[..., 1, 1] / root[..., 0, 0]
            rows = [[torch.zeros_like(spin), spin], [-spin, 2 * eta**2 / root[..., 1, 1] ** 2]]
            return (h * self.beta * time)[..., None, None] * _matrix(rows)

        first, second = (generator(0.5 + side * math.sqrt(3) / 6) for side in (-1, 1))
        exponent = (first + second) / 2 + math.sqrt(3) / 12 * (second @ first - first @ second)
        steps = torch.linalg.matrix_exp(exponent)
        while steps.shape[0] > 1:
            steps = steps[1::2] @ steps[0::2]
        return steps[0]

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
        k, sigma = self.gain(t), self._noisy(t)
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
        return _apply(torch.linalg.inv(self._noisy(t)), apart)

    def velocity(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r"""dz/dt of the probability flow: β (F z − ½ g gᵀ ∇ log p_t(z))."""
        drift = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        kick = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        return self.beta * (_apply(drift, x_t) - _apply(kick / 2, self.score(x_t, belief, t)))
