"""Diffusion in phase space: data with a velocity, critically damped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import Blocks, Compound, Dense, Diagonal, Dirac, Distribution, Normal
from .base import Observation, Process, as_time, check_eta, check_times, expand, one_of
from .gaussian import ScalarGaussian

_FIRST = 1e-18
"""The time that stands for 0 where a covariance is divided by."""


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _root(xx: Tensor, xv: Tensor, det: Tensor) -> Tensor:
    """The lower triangular root of a covariance with this determinant; 0 for one without variance."""
    a = torch.sqrt(xx)
    b, c = (torch.where(xx > 0, v, 0.0) for v in (xv / a, torch.sqrt(det / xx)))
    return _matrix([[a, torch.zeros_like(a)], [b, c]])


def _apply(m: Tensor, z: Tensor) -> Tensor:
    """A 2×2 matrix per sample, ``(2, 2)`` or ``(B, 2, 2)``, on states ``(B, 2, *data)``."""
    m = m.to(device=z.device, dtype=z.dtype)
    return (m @ z.flatten(2)).reshape(z.shape)


@register(
    "processes",
    "phase-space",
    title="Critically damped Langevin diffusion",
    arxiv="2112.07068",
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

    A state is ``(B, 2, *data)``: x, then v. The belief is about x_0 alone; v_0 ~ N(0, γ) is integrated out, so that
    :math:`q(x_t, v_t | x_0) = N(K_t x_0, Σ_t)`, and Σ_t = L Lᵀ with a root in which nothing cancels at any t.

    Args:
        beta: the total time in units of the relaxation time, > 0; the paper's β = 4, M = 1/4 is 8.
        gamma: variance of the initial velocity at equilibrium scale, in (0, 1]; the paper's γ = 0.04.
    """

    beta: float = 8.0
    gamma: float = 0.04

    def __post_init__(self) -> None:
        check_numbers(False, beta=self.beta, gamma=self.gamma)
        if not 0 < self.beta < math.inf or not 0 < self.gamma <= 1:
            raise UserError(f"beta must be > 0 and gamma in (0, 1], got {self.beta} and {self.gamma}")

    @property
    def t_min(self) -> float:
        return 1e-3

    def flow(self, s: Tensor | float, t: Tensor | float) -> Tensor:
        """Φ from s to t, ``(2, 2)`` or ``(B, 2, 2)``."""
        y = self.beta * (as_time(t) - as_time(s))
        return torch.exp(-y)[..., None, None] * _matrix([[1 + y, y], [-y, 1 - y]])

    def transition_root(self, step: Tensor) -> Tensor:
        """R of the noise R Rᵀ that a step of this length adds, lower triangular, to rounding: see ``root``."""
        noise = self.noise_cov(0.0, step)
        p, q, r = noise[..., 0, 0], noise[..., 0, 1], noise[..., 1, 1]
        return _root(p, q, p * r - q**2)

    def noise_cov(self, s: Tensor | float, t: Tensor | float) -> Tensor:
        """The covariance added from s to t ≥ s, ``(2, 2)`` or ``(B, 2, 2)``."""
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

    def root(self, t: Tensor | float) -> Tensor:
        r"""L of Σ_t = L Lᵀ, lower triangular: ``(2, 2)`` or ``(B, 2, 2)``, every entry to rounding at any t.

        With the noise (p, q, r) and the velocity's gain f, the determinant is a sum of what stays of the two,

        .. math:: \det Σ = (pr - q^2) + γ (p f_v^2 - 2 q f_x f_v + r f_x^2), \quad L_{vv}^2 = \det Σ / Σ_{xx},

        whose terms cancel to a quarter at most, where :math:`Σ_{vv} - Σ_{xv}^2/Σ_{xx}` loses all digits as t → 0.
        The time 0 is the limit.
        """
        t = as_time(t).clamp_min(_FIRST)
        noise, f = self.noise_cov(0.0, t), self.flow(0.0, t)[..., 1]
        p, q, r, x, v = noise[..., 0, 0], noise[..., 0, 1], noise[..., 1, 1], f[..., 0], f[..., 1]
        det = p * r - q**2 + self.gamma * (p * v**2 - 2 * q * x * v + r * x**2)
        return _root(p + self.gamma * x**2, q + self.gamma * x * v, det)

    def white_gain(self, t: Tensor | float) -> Tensor:
        r"""κ = L⁻¹K: what x_0 moves the whitened state by, ``(2,)`` or ``(B, 2)``; κ_x > 0 > κ_v at every t > 0.

        In :math:`(x_t, v_t) = K x_0 + L ε`, :math:`ε_v = (L^{-1} (x_t, v_t))_v - κ_v x_0`.
        """
        return (self.whitening(t) @ self.gain(t)[..., None])[..., 0]

    def whitening(self, t: Tensor | float) -> Tensor:
        """L⁻¹ where it exists, ``(2, 2)`` or ``(B, 2, 2)``."""
        if (as_time(t) <= 0).any():
            raise UserError("t must be above 0 in phase space: at clean data position has no noise to divide by")
        root = self.root(t)
        a, b, c = root[..., 0, 0], root[..., 1, 0], root[..., 1, 1]
        return _matrix([[1 / a, torch.zeros_like(a)], [-b / (a * c), 1 / c]])

    def log_snr(self, t: Tensor | float) -> Tensor:
        r"""log 1/r² of the observation y = x_0 + rε that the state amounts to: :math:`1/r^2 = K^T Σ^{-1} K = |κ|^2`."""
        t = as_time(t)
        inside = t.clamp_min(_FIRST)
        return torch.where(t > 0, torch.log((self.white_gain(inside) ** 2).sum(-1)), torch.inf)

    def time(self, log_snr: Tensor | float) -> Tensor:
        r"""The inverse of ``log_snr``, 0 or 1 beyond its range, by Newton's method in log t from a table.

        .. math:: \frac{d}{dt} K^T Σ^{-1} K = -4 β (κ_v / L_{vv})^2
        """
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        places, values = (v.to(target.device) for v in self._table)
        inside = target.clamp(float(values[-1]), float(values[0]))
        right = torch.searchsorted(-values, -inside.contiguous()).clamp(1, len(values) - 1)
        share = (inside - values[right - 1]) / (values[right] - values[right - 1])
        place = torch.lerp(places[right - 1], places[right], share)
        for _ in range(4):  # nearly straight between knots: the first step leaves 1e-6, each doubles the digits
            t = torch.exp(place)
            white, size = self.white_gain(t), self.root(t)[..., 1, 1]
            snr = (white**2).sum(-1)
            place = place + (torch.log(snr) - inside) * snr / (4 * self.beta * t * (white[..., 1] / size) ** 2)
        return torch.where(target > values[0], 0.0, torch.where(target <= values[-1], 1.0, torch.exp(place)))

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """log t, from 1e-18, and the log-SNR there."""
        places = torch.linspace(math.log(_FIRST), 0, 500, dtype=torch.float64)
        return places, self.log_snr(torch.exp(places))

    def _blocks(self, m: Tensor, state: Tensor, root: Tensor | None = None) -> Blocks:
        shape = (-1, 2, 2, *[1] * (state.ndim - 2))
        return Blocks(m.to(state).reshape(shape), None if root is None else root.to(state).reshape(shape))

    def _lift(self, k: Tensor, x0: Tensor) -> Tensor:
        """K x_0, ``(B, 2, *data)``."""
        return torch.stack([expand(k[..., 0], x0) * x0, expand(k[..., 1], x0) * x0], 1)

    def state_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *shape)

    def prior(self, shape: tuple[int, ...]) -> Normal:
        """N(0, I) in x and v."""
        return Normal(torch.zeros(1, 2, *one_of(shape)[1:], dtype=torch.float64), 1.0)

    def marginal(self, x0: Tensor, t: Tensor | float) -> Normal:
        (t,) = check_times(t=t)
        mean = self._lift(self.gain(t), x0)
        return Normal(mean, self._blocks(self.cov(t), mean, self.root(t)))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Normal:
        s, t = check_times(s=s, t=t)
        root = self.transition_root(t - s)
        return Normal(_apply(self.flow(s, t), x_s), self._blocks(self.noise_cov(s, t), x_s, root))

    def bridge_coefficients(
        self, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""(A, G, C) of q_η(x_s | x_t, x_0) = N(A x_0 + G x_t, C): A = K_s − G K_t, C = Σ_s − G Σ_t Gᵀ.

        At η = 1, :math:`G = Σ_s Φ^T Σ_t^{-1}`. With roots L of Σ_s and R of the noise N between the two,
        :math:`Y = R^{-1} Φ L` and :math:`H = I + Y^T Y`, it is written without a difference:

        .. math::
            C = L H^{-1} L^T, \quad G = L H^{-1} Y^T R^{-1}, \quad
            A = \left(K_s + |Y|^2 Φ^{-1} N Φ^{-T} Σ_s^{-1} K_s\right) / |H|

        For η < 1 the gain solves :math:`\dot G = β (F + \tfrac{1 + η^2}{2} g g^T Σ^{-1}) G`, G(t) = I, taken from t to
        s: the probability flow at η = 0, and a step that any finer chain of steps agrees with at every η.
        """
        lift, gain, root, free = self._bridge(as_time(t), as_time(s), eta)
        return lift, gain, root @ root.mT if free is None else free

    def _bridge(self, t: Tensor, s: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """A, G, and C: by its root at η = 1, else as it is."""
        check_eta(eta)
        t, s = torch.broadcast_tensors(t, s)
        root_s = self.root(s)
        if eta < 1.0:
            turn = self._turn(t, s, eta)
            gain = torch.linalg.solve_triangular(self.root(t), root_s @ turn, upper=False, left=False)
            free = root_s @ (torch.eye(2, dtype=torch.float64) - turn @ turn.mT) @ root_s.mT * (eta > 0)
            return self.gain(s) - (gain @ self.gain(t)[..., None])[..., 0], gain, root_s, (free + free.mT) / 2
        still = (t == s)[..., None, None]
        step = torch.where(t == s, 1.0, t - s)
        noise = self.transition_root(step)
        y = torch.linalg.solve_triangular(noise, self.flow(0.0, step) @ root_s, upper=False)
        h = torch.eye(2, dtype=torch.float64) + y.mT @ y
        # A product and a sum of squares: the determinant of H does not cancel, however large Y is.
        product = lambda m: m[..., 0, 0] * m[..., 1, 1]
        square = (product(root_s) / product(noise)) ** 2 * torch.exp(-4 * self.beta * step)
        det = 1 + (y**2).sum((-2, -1)) + square
        inverse = _matrix([[h[..., 1, 1], -h[..., 0, 1]], [-h[..., 1, 0], h[..., 0, 0]]]) / det[..., None, None]
        half = root_s @ inverse
        free = half @ root_s.mT
        gain = torch.linalg.solve_triangular(noise, half @ y.mT, upper=False, left=False)
        back, inside = self.flow(step, 0.0) @ noise, s.clamp_min(_FIRST)
        pull = back @ (back.mT @ (self.whitening(inside).mT @ self.white_gain(inside)[..., None]))
        lift = (self.gain(s) + square[..., None] * pull[..., 0]) / det[..., None]
        gain = torch.where(still, torch.eye(2, dtype=torch.float64), gain)
        root = _root(free[..., 0, 0], free[..., 0, 1], product(root_s) ** 2 / det)
        return torch.where(still[..., 0], 0.0, lift), gain, torch.where(still, 0.0, root), None

    def _turn(self, t: Tensor, s: Tensor, eta: float, panels: int = 256) -> Tensor:
        r"""M of G = L_s M L_t⁻¹, where L is the root of Σ: a rotation at η = 0, so that G Σ_t Gᵀ = Σ_s to rounding.

        .. math:: \dot M = β \begin{pmatrix} 0 & L_{22}/L_{11} \\ -L_{22}/L_{11} & 2η^2/L_{22}^2 \end{pmatrix} M

        by the fourth-order Magnus method in log t, in which the coefficients are smooth and bounded.
        """
        t, s = torch.broadcast_tensors(torch.log(t.clamp_min(_FIRST)), torch.log(s.clamp_min(_FIRST)))
        h = (s - t) / panels

        def generator(place: float) -> Tensor:
            steps = torch.arange(panels, dtype=torch.float64).reshape(-1, *[1] * h.ndim) + place
            time = torch.exp(t + h * steps)
            root = self.root(time)
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
        t, s = check_times(t=t, s=s)
        lift, gain, root, free = self._bridge(t, s, eta)
        return Normal(self.affine(lift, x0, gain, x_t), self._free(root, free, x_t))

    def affine(self, lift: Tensor, x0: Tensor, gain: Tensor, x_t: Tensor) -> Tensor:
        """A x_0 + G x_t of states, for A ``(2,)`` or ``(B, 2)`` and G ``(2, 2)`` or ``(B, 2, 2)``."""
        return self._lift(lift, x0) + _apply(gain, x_t)

    def _free(self, root: Tensor, free: Tensor | None, x_t: Tensor) -> Blocks:
        return self._blocks(root @ root.mT, x_t, root) if free is None else self._blocks(free, x_t)

    def reverse(
        self, x_t: Tensor, belief: Distribution, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> Distribution:
        """Dirac and diagonal normal beliefs give 2×2 blocks A Aᵀ·v + C, other normal ones A Aᵀ ⊗ V + C ⊗ I; any other
        belief is drawn from, then bridged."""
        if isinstance(belief, Dirac):
            return self.bridge(x_t, belief.mean, t, s, eta)
        lift, gain, root, free = self._bridge(as_time(t), as_time(s), eta)
        shift, rest = _apply(gain, x_t), self._free(root, free, x_t)
        if isinstance(belief, Normal) and not isinstance(belief.cov, Diagonal):
            outer = (lift[..., :, None] * lift[..., None, :]).reshape(-1, 2, 2).to(x_t)
            both = torch.einsum("bij,bkl->bikjl", outer, belief.cov.dense(tuple(x_t.shape[2:])))
            flat = rest.dense(tuple(x_t.shape[1:]))
            return Normal(self._lift(lift, belief.mean) + shift, Dense(both.flatten(1, 2).flatten(2) + flat))
        if not isinstance(belief, Normal):
            return Compound(belief, lambda x0: Normal(self._lift(lift, x0) + shift, rest))
        outer = self._blocks(lift[..., :, None] * lift[..., None, :], x_t).matrix
        variance = belief.cov.diagonal(tuple(belief.mean.shape[1:]))
        return Normal(self._lift(lift, belief.mean) + shift, Blocks(rest.matrix + outer * variance[:, None, None]))

    def read(self, x: Tensor) -> Tensor:
        """x, without the velocity."""
        return x[:, 0]

    def observe(self, x_t: Tensor, t: Tensor | float) -> Observation:
        r"""y = KᵀΣ⁻¹x_t / KᵀΣ⁻¹K = x_0 + N(0, 1/KᵀΣ⁻¹K): all that position and velocity say about x_0."""
        white = self.white_gain(t)
        precision = (white**2).sum(-1)
        weights = (self.whitening(t).mT @ white[..., None])[..., 0] / precision[..., None]
        y = (weights.reshape(-1, 2, *[1] * (x_t.ndim - 2)).to(x_t) * x_t).sum(1)
        d = math.prod(x_t.shape[2:])
        rest = self.marginal(y, t).log_prob(x_t)
        log_c = rest + 0.5 * d * (math.log(2 * math.pi) - torch.log(precision))
        return Observation(y, torch.ones_like(precision), precision.rsqrt(), log_c)

    def split(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""(y, w): the look y = x_0 + r ε_1 and the rest w = ε_2, independent of it and of the data.

        With κ = L⁻¹K, a unit vector e across it and u = L⁻¹(x_t, v_t), they are :math:`κ \cdot u / |κ|^2` and e·u. The
        weights of v are formed; those of x follow from what K is mapped to, (1, 0), where sums would cancel.
        """
        t = as_time(t).clamp_min(_FIRST)
        kappa, across = self._frame(t)
        of_v = torch.stack([kappa[..., 1] / (kappa**2).sum(-1), across[..., 1]], -1) / self.root(t)[..., 1, 1, None]
        gain = self.gain(t)[..., None]
        of_x = (torch.tensor([1.0, 0.0], dtype=torch.float64) - of_v * gain[..., 1, :]) / gain[..., 0, :]
        y, w = _apply(torch.stack([of_x, of_v], -1), x_t).unbind(1)
        return y, w

    def join(self, y: Tensor, w: Tensor, t: Tensor | float) -> Tensor:
        r"""The inverse of ``split``: :math:`(x_t, v_t) = K y + w L e`; v_0 ~ N(0, γ) at t = 0."""
        across = self._frame(as_time(t).clamp_min(_FIRST))[1][..., None]
        return self._lift(self.gain(t), y) + self._lift((self.root(t) @ across)[..., 0], w)

    def _frame(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """κ, and the unit vector across it."""
        kappa = self.white_gain(t)
        across = torch.stack([-kappa[..., 1], kappa[..., 0]], -1)
        return kappa, across / across.norm(dim=-1, keepdim=True)

    def score(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r"""∇ log p_t(x, v) = Σ_t⁻¹ (K_t x̂_0 − x_t), exact from the mean of the belief about x_0 alone."""
        white = self.whitening(t)
        return _apply(white.mT, _apply(white, self._lift(self.gain(t), belief.mean) - x_t))

    def velocity(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r"""dz/dt of the probability flow: β (F z − ½ g gᵀ ∇ log p_t(z))."""
        drift = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        kick = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        return self.beta * (_apply(drift, x_t) - _apply(kick / 2, self.score(x_t, belief, t)))


@dataclass(frozen=True)
class SufficientStatistic(ScalarGaussian):
    """y_t = x_0 + r(t) ε: what a state of phase space says about the data, a process of its own at the same times.

    Args:
        phase: whose states are looked at.
    """

    phase: PhaseSpace

    @property
    def t_min(self) -> float:
        return self.phase.t_min

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(-self.log_snr(t) / 2)

    def log_snr(self, t: Tensor | float) -> Tensor:
        return self.phase.log_snr(t)

    def time(self, log_snr: Tensor | float) -> Tensor:
        return self.phase.time(log_snr)
