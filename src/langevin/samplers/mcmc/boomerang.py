"""Boomerang: up to a noise level and back, to samples near a given one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian
from ...processes.grids import between
from ..linear.ancestral import Ancestral
from ..loop import Sampler, State
from ..sde.reverse_sde import check_downwards
from .langevin import check_steps, expand_rows


@register(
    "samplers",
    "boomerang",
    title="Boomerang local sampling",
    arxiv="2210.12100",
    proof="exact: tests/laws, tests/samplers/test_denoising_mcmc.py",
)
@dataclass(frozen=True)
class Boomerang(Sampler[ScalarGaussian]):
    r"""Up to a noise level and back (Luzi et al. 2022, arXiv:2210.12100 alg. 1): samples near a given one.

    .. math:: x_u \sim q(x_u | x_t), \qquad x_s \sim p(x_s | x_u) \text{ by } \texttt{sampler}

    From clean data (``boomerang``) it gives local samples, the nearer the lower u is; as ``then`` after another sampler
    it goes up from s and comes back there, which keeps p_s if the sampler is exact. A state that stands above u just
    comes down.

    Args:
        time: u in (0, 1].
        steps: of the sampler on its way back, ≥ 1, uniform in log-SNR down to ``t_min``.
        sampler: of the way back; ``Ancestral()`` if not given, which is exact for the true belief.
    """

    time: float = 0.3
    steps: int = 10
    sampler: Sampler = field(default_factory=Ancestral)
    needs = ScalarGaussian, "Boomerang"

    def __post_init__(self) -> None:
        if not 0 < self.time <= 1:
            raise UserError(f"time must lie in (0, 1], got {self.time}")
        check_steps(self.steps)

    def check(self, process: Process) -> None:
        super().check(process)
        self.sampler.check(process)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        check_downwards(state.t, s, "Boomerang")
        count = state.x.shape[0]
        t, s_each = state.t.expand(count), s.expand(count)
        top = t.clamp_min(self.time)
        if bool((top == s_each).all()):
            return state  # nothing to come down from
        x = process.transition(state.x, t, top).sample(noise.fold_in(Stream.UP))
        x = torch.where(expand_rows(top > t, x), x, state.x)
        # Uniform in log-SNR down to t_min, and then to s = 0 itself.
        floor = torch.where(s_each > 0, s_each, torch.full_like(s_each, process.t_min)).minimum(top)
        beyond = bool((s_each < floor).any())
        inside = self.steps - beyond
        shares = torch.arange(1, inside + 1, dtype=torch.float64) / max(1, inside)
        times = [*between(process, top.clamp_max(process.t_max), floor, shares), *[s_each] * beyond]
        scalar = state.t.ndim == 0 and s.ndim == 0
        moving = State(x, top[0] if scalar else top, None, state.belief)
        for i, now in enumerate(times):
            moving = self.sampler.step(moving, now[0] if scalar else now, denoiser, noise.fold_in(Stream.DOWN + i))
        return state.move(moving.x, s, belief=moving.belief)


def boomerang(
    denoiser: Denoiser,
    x: Tensor,
    time: float = 0.3,
    *,
    steps: int = 10,
    sampler: Sampler | None = None,
    seed: int = 0,
    noise: Noise | None = None,
) -> Tensor:
    """Samples of the model near given data, one for each (arXiv:2210.12100): up to ``time`` and back.

    Args:
        denoiser: the belief.
        x: data ``(B, *shape)``.
        time: how far up, in (0, 1].
        steps: on the way back, ≥ 1.
        sampler: of the way back; ``Ancestral()`` if not given.
        seed: of the noise.
        noise: instead of ``seed``, that of given samples.

    Returns:
        ``(B, *shape)``.
    """
    rule: Sampler = Boomerang(time, steps, Ancestral() if sampler is None else sampler)
    rule.check(denoiser.process)
    noise = Noise(seed, x.shape[0]) if noise is None else noise
    if len(noise) != x.shape[0]:
        raise UserError(f"noise is for {len(noise)} samples, but x has {x.shape[0]}")
    zero = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        return rule.step(State(x.to(torch.float64), zero), zero, denoiser, noise.to(x.device)).x.to(x)
