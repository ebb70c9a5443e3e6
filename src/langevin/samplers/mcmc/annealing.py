"""Annealed Langevin dynamics, with the step that NCSNv2 takes from the ratio of two noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian, expand, grids
from ..loop import State
from .langevin import Chain, Corrector, Langevin, check_steps


@lru_cache(4096)
def level_step_size(ratio: float, steps: int) -> float:
    r"""The step with which T Langevin steps bring a Gaussian of the last level to the next (2006.09011, technique 4).

    With e = ε/σ_L² the variance after T steps, in units of σ_i², from γ²σ_i², is (eq. 5)

    .. math:: f(e) = (1 - e)^{2T} \left(γ^2 - \frac{2}{2 - e}\right) + \frac{2}{2 - e}

    which is above 1 for every e; the paper asks for f ≈ 1, and this is the e in (0, 1) where f is least.

    Args:
        ratio: γ > 1.
        steps: T ≥ 1.

    Returns:
        2e, the ``step_size`` of ``Langevin``: its step is a = 2α_i, α_i = ε σ_i²/σ_L².
    """
    check_steps(steps)
    if not 1 < ratio < math.inf:
        raise UserError(f"ratio must be > 1, got {ratio}")
    log_e = torch.linspace(-18, 0, 2000, dtype=torch.float64)[:-1]
    for _ in range(3):  # each look is a thousand times as fine
        e = torch.exp(log_e)
        f = torch.exp(2 * steps * torch.log1p(-e)) * (ratio**2 - 2 / (2 - e)) + 2 / (2 - e)
        best = int(f.argmin())
        near = log_e[max(best - 1, 0)], log_e[min(best + 1, len(log_e) - 1)]
        log_e = torch.linspace(float(near[0]), float(near[1]), 2000, dtype=torch.float64)
    return 2 * float(e[best])


@register(
    "samplers",
    "annealed-langevin",
    title="Annealed Langevin dynamics, levels and step by rule",
    arxiv="2006.09011",
    proof="exact: tests/samplers/test_annealing.py, tests/laws",
)
@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    r"""Langevin dynamics from level to level, then one denoising step (arXiv:1907.05600 alg. 1; 2006.09011 alg. 1).

    T steps of Langevin dynamics at every time of the grid after the first, :math:`a = ε σ_s^2`; at t = 0 the posterior
    mean. The default grid is uniform in log-SNR, that is geometric in σ/α.

    Args:
        steps: T ≥ 1 at each level.
        step_size: ε in (0, 2), in units of σ_s²; that of ``level_step_size`` for the ratio of a step if not given.
    """

    steps: int = 5
    step_size: float | None = None

    def __post_init__(self) -> None:
        Langevin(self.steps, 0.1 if self.step_size is None else self.step_size)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        return grids.log_snr(process, steps)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        return _Sized(self.steps, self._size(denoiser.process, state.t, s)).step(state, s, denoiser, noise)

    def _size(self, process: ScalarGaussian, t: Tensor, s: Tensor) -> Tensor:
        if self.step_size is not None:
            return torch.tensor(self.step_size, dtype=torch.float64)
        ratio = torch.exp((process.log_snr(s) - process.log_snr(t)) / 2).clamp(1 + 1e-6, 100.0)
        sizes = [level_step_size(r, self.steps) for r in ratio.reshape(-1).tolist()]
        return torch.tensor(sizes, dtype=torch.float64).reshape(ratio.shape)

    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        return _Sized(self.steps, self._size(denoiser.process, s, s)).chain(x, s, denoiser, noise, memory)


@dataclass(frozen=True, eq=False)
class _Sized(Corrector):
    """Langevin dynamics with a step size for each sample."""

    steps: int
    size: Tensor

    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        process = denoiser.process
        a = expand(self.size * process.sigma(s) ** 2, x)
        for i in range(self.steps):
            belief = denoiser(x, s)
            z = noise.fold_in(Stream.LANGEVIN + i).normal(tuple(x.shape[1:])).to(x)
            x = x + a / 2 * process.score(x, belief, s) + torch.sqrt(a) * z
        return x, None, belief
