"""Exact problems for solvers: worlds, their beliefs at the speed of a matrix product, and the flow to 1e-10.

Everything peers need is in σ-coordinates, in which all scalar-Gaussian processes have one flow: y = x/α, ρ = σ/α,

    dy/d log ρ = y − D(y, ρ),   D the mean of the data given y.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import langevin
from langevin import Noise, processes, worlds
from langevin.denoisers import Denoiser
from langevin.denoisers.base import Transform
from langevin.distributions import Distribution
from langevin.numerics.frame import DataMoments
from langevin.processes import ScalarGaussian

CACHE = Path(__file__).parent.parent / "out" / "solvers"
"""Where references and measured cells are kept; git does not see it."""

CHUNK = 2048
"""Samples whose differences to all means stay in the cache."""

_FIRST = 1000
"""The first of the noise seeds: none that a solver was made on."""


def ring(seed: int) -> worlds.GaussianMixture:
    """Eight components, from a twentieth to a third of the radius wide: log-uniform, spread evenly over the seeds.

    On one ring a solver meets chance: its error changes sign at some numbers of evaluations, and is small there.
    """
    return worlds.ring(std=0.05 * 6 ** ((seed + 0.5) * 0.6180339887498949 % 1))


def fine(seed: int) -> worlds.GaussianMixture:
    """The 64-dimensional world with components four times narrower around the same means."""
    wide = worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=seed)
    covariances = torch.einsum("kij,kj,klj->kil", wide.basis, wide.values / 16, wide.basis)
    return worlds.GaussianMixture(wide.log_weights.exp(), wide.means, covariances)


WORLDS: dict[str, Callable[[int], worlds.GaussianMixture]] = {
    "2-D": ring,
    "64-D": lambda seed: worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=seed),
    "fine 64-D": fine,
}
"""Rings of 8; 8 components of rank 16 with an RMS of 0.5 a coordinate; the same, four times finer."""

PROCESSES: dict[str, ScalarGaussian] = {"EDM": processes.EDM(), "DDPM": processes.DDPM()}
"""σ from 80 to 0.002, and the table of a thousand linear β."""


class Spent(Exception):
    """More evaluations were asked for than a counter allows."""


class EvaluationCounter:
    """Evaluations a sample: rows asked over rows carried.

    Args:
        limit: of rows; the call that passes it fails with ``Spent``.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.rows = 0
        self.whole = 0
        self.limit = limit

    def ask(self, rows: int) -> None:
        """Count a call."""
        self.rows += rows
        if self.rows > self.limit:
            raise Spent

    def evaluations(self, samples: int) -> float:
        """Calls a sample since the counter was made."""
        return self.rows / samples


class Belief(Distribution):
    """A law of which the mean is known already; whoever asks for more is noted, and gets it."""

    def __init__(self, mean: Tensor, whole: Callable[[], Distribution], counter: EvaluationCounter) -> None:
        self._mean, self._whole, self._counter = mean, whole, counter

    @property
    def mean(self) -> Tensor:
        return self._mean

    def _law(self) -> Distribution:
        self._counter.whole += 1
        return self._whole()

    def sample(self, noise: Noise) -> Tensor:
        return self._law().sample(noise)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._law().log_prob(x)

    @property
    def cov(self) -> object:  # type: ignore[override]
        return self._law().cov

    def affine(self, scale: Tensor, shift: Tensor, variance: Tensor) -> Distribution:
        return self._law().affine(scale, shift, variance)


class FastMean:
    """E[x_0 | y] of a mixture whose components are a few directions and an isotropic rest: two matrix products.

    With C_k = v_k I + U_k diag(λ_k − v_k) U_kᵀ and g = λ/(λ + ρ²), g_0 = v/(v + ρ²),

        E[x_0 | y, k] = m_k + g_0 (y − m_k) + U_k diag(g − g_0) U_kᵀ (y − m_k).
    """

    def __init__(self, world: worlds.GaussianMixture) -> None:
        values = world.values
        self.dim = values.shape[1]
        self.rest = values.amin(-1)
        self.rank = int((values > self.rest[:, None] * (1 + 1e-6)).sum(-1).max())
        self.values = values[:, self.dim - self.rank :]
        self.means, self.log_weights = world.means, world.log_weights
        basis = world.basis[:, :, self.dim - self.rank :]
        self.down = basis.permute(1, 0, 2).reshape(self.dim, -1).contiguous()
        self.up = self.down.T.contiguous()
        self.shift = torch.einsum("kij,ki->kj", basis, self.means)

    def __call__(self, y: Tensor, rho: Tensor | float) -> Tensor:
        """``(B, D)`` at ρ ``()`` or ``(B,)``."""
        if len(y) > CHUNK:
            each = isinstance(rho, Tensor) and rho.ndim
            parts = y.split(CHUNK)
            levels = rho.split(CHUNK) if each else [rho] * len(parts)  # type: ignore[union-attr]
            return torch.cat([self(part, level) for part, level in zip(parts, levels)])
        noise = torch.as_tensor(rho, dtype=torch.float64) ** 2
        noise = noise.reshape(-1, 1) if noise.ndim else noise
        whole = self.rest + noise
        apart = y[:, None] - self.means
        log_p = self.log_weights - 0.5 * (apart.square().sum(-1) / whole + (self.dim - self.rank) * whole.log())
        flat = self.rest / whole
        if not self.rank:
            weight = torch.softmax(log_p, -1)
            return weight @ self.means + ((weight * flat)[..., None] * apart).sum(1)
        total = self.values + (noise[..., None] if noise.ndim else noise)
        along = (y @ self.down).reshape(len(y), -1, self.rank) - self.shift
        shrink = 1 / total - 1 / whole[..., None]
        log_p = log_p - 0.5 * ((along.square() * shrink).sum(-1) + total.log().sum(-1))
        weight = torch.softmax(log_p, -1)
        share = weight * flat
        inner = (along * (self.values / total - flat[..., None]) * weight[..., None]).reshape(len(y), -1)
        return share.sum(-1, keepdim=True) * y + (weight - share) @ self.means + inner @ self.up


@dataclass(frozen=True, eq=False)
class Known(DataMoments):
    """What a model says of its data: mean ``(D,)`` and covariance ``(D, D)`` or ``(D,)``, or None."""

    mean: Tensor | None = None
    cov: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Counted(Transform):
    """A world's denoiser that counts, answers with the fast mean, and says of its data what it is told to."""

    fast: FastMean
    known: DataMoments
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)

    @property
    def data(self) -> DataMoments:  # type: ignore[override]
        return self.known

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Belief:
        self.counter.ask(len(x_t))
        process: ScalarGaussian = self.process  # type: ignore[assignment]
        now = torch.as_tensor(t, dtype=torch.float64)
        alpha = langevin.processes.expand(process.alpha(now), x_t)
        mean = self.fast(x_t / alpha, process.sigma(now) / process.alpha(now))
        return Belief(mean, lambda: self.base(x_t, t), self.counter)


@dataclass(frozen=True, eq=False)
class Problem:
    """A world, a process and a seed: the start, the end, and the exact flow between.

    Args:
        world_name: a key of ``WORLDS``.
        process_name: a key of ``PROCESSES``.
        seed: of the world's construction and of the noise.
        samples: how many start points.
    """

    world_name: str
    process_name: str
    seed: int
    samples: int = 256

    @cached_property
    def world(self) -> worlds.GaussianMixture:
        """The truth."""
        return WORLDS[self.world_name](self.seed)

    @property
    def process(self) -> ScalarGaussian:
        """The forward noising."""
        return PROCESSES[self.process_name]

    @property
    def name(self) -> str:
        """As tables say it."""
        return f"{self.process_name} {self.world_name}"

    @cached_property
    def fast(self) -> FastMean:
        """The belief's mean in σ-coordinates."""
        return FastMean(self.world)

    @cached_property
    def rms(self) -> float:
        """Root mean square of a coordinate of the data."""
        total = torch.trace(self.world.cov) + (self.world.mean**2).sum()
        return math.sqrt(float(total) / self.world.shape[0])

    def level(self, t: float) -> float:
        """ρ = σ/α at a time."""
        now = torch.tensor(t, dtype=torch.float64)
        return float(self.process.sigma(now) / self.process.alpha(now))

    @cached_property
    def rho_max(self) -> float:
        """ρ at t = 1, where every path starts."""
        return self.level(self.process.t_max)

    @cached_property
    def rho_min(self) -> float:
        """ρ at ``t_min``."""
        return self.level(self.process.t_min)

    @cached_property
    def noise(self) -> Noise:
        """Of all samples."""
        return Noise(_FIRST + self.seed, self.samples)

    @cached_property
    def start(self) -> Tensor:
        """x at t = 1, ``(samples, D)``: a draw of the process's prior."""
        return self.process.prior(self.world.shape).sample(self.noise.step(0))

    @cached_property
    def start_y(self) -> Tensor:
        """The start in σ-coordinates."""
        return self.start / self.process.alpha(torch.ones((), dtype=torch.float64))

    @cached_property
    def moments(self) -> dict[str, DataMoments]:
        """The data's mean and covariance, one spread for all directions in the covariance's place, or nothing."""
        spread = torch.full_like(self.world.mean, float(self.world.cov.diagonal().mean()))
        whole = Known(self.world.mean, self.world.cov)
        return {"covariance": whole, "spread": Known(self.world.mean, spread), "nothing": Known()}

    def denoiser(self, limit: float = math.inf, known: str = "covariance") -> tuple[Denoiser, EvaluationCounter]:
        """A fresh counting denoiser that answers so many rows, and carries these ``moments``."""
        counted = Counted(self.world.denoiser(self.process), self.fast, self.moments[known], EvaluationCounter(limit))
        return counted, counted.counter

    def to_y(self, x: Tensor, t: float) -> Tensor:
        """σ-coordinates of a state."""
        return x / self.process.alpha(torch.tensor(t, dtype=torch.float64))

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """The exact flow from ``start_y``, in σ-coordinates: ``"t_min"`` and ``"0"``, both ``(samples, D)``."""
        text = f"{self.world.means.sum():.15g} {self.world.values.sum():.15g} {self.seed} {self.samples} {self.rho_max}"
        key = hashlib.blake2b(f"{self.name} {text} {self.rho_min}".encode(), digest_size=8).hexdigest()
        path = CACHE / f"reference-{key}.npz"
        if not path.exists():
            middle = flow(self.fast, self.start_y, self.rho_max, self.rho_min)
            # At ρ = 1e-5 of the finest scale s the flow has (ρ/s)²/2 = 5e-11 of s to go: there the mean is its end.
            last = 1e-5 * math.sqrt(float(self.world.values.min()))
            end = self.fast(flow(self.fast, middle, self.rho_min, last), last)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part.npz")
            np.savez(unfinished, t_min=middle.numpy(), zero=end.numpy())
            unfinished.rename(path)
        stored = np.load(path)
        return {"t_min": torch.as_tensor(stored["t_min"]), "0": torch.as_tensor(stored["zero"])}

    def errors(self, y: Tensor, end: str) -> dict[str, float]:
        """Median and RMS over samples of the RMS error of a coordinate, in units of the data's RMS."""
        apart = (y.double() - self.reference[end][: len(y)]).square().mean(-1).sqrt() / self.rms
        apart = torch.where(apart.isfinite(), apart, torch.inf)
        return {"median": float(apart.median()), "rms": float(apart.square().mean().sqrt())}


def flow(mean: Callable[[Tensor, float], Tensor], y: Tensor, rho: float, end: float, rtol: float = 1e-12) -> Tensor:
    """The probability flow in σ-coordinates from ρ to ``end`` by DOP853 in log ρ, float64."""
    from scipy.integrate import solve_ivp

    shape = y.shape

    def slope(u: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).reshape(shape)
        return (state - mean(state, math.exp(u))).reshape(-1).numpy()

    found = solve_ivp(
        slope, (math.log(rho), math.log(end)), y.reshape(-1).numpy(), method="DOP853", rtol=rtol, atol=rtol / 10
    )
    if not found.success:
        raise RuntimeError(f"reference: {found.message}")
    return torch.from_numpy(found.y[:, -1].copy()).reshape(shape)
