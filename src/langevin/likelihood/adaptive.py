"""The same path by solvers that choose their steps: every sample's steps are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..distributions import Distribution
from ..processes import Process
from ..samplers.runge_kutta.adaptive import ExplicitRungeKutta
from .flow import Flow, Nodes, time_warps

PAIRS = ("rk45", "dop853")
"""Pairs of ``samplers.ExplicitRungeKutta``, all samples at once."""

TORCHDIFFEQ = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Adaptive methods of torchdiffeq, one sample at a time: it has one step size for a batch."""


class _Field(Denoiser):
    """(z, ∫ div f) along s in (0, 1), standing where a solver has a denoiser: ``slope`` is its derivative."""

    process: Process
    shape: tuple[int, ...]

    def __init__(self, flow: Flow, begin: float, probes: Tensor | None) -> None:
        self.flow, self.begin, self.probes = flow, begin, probes
        self.process, self.shape = flow.process, (len(flow.variances) + 1,)

    def rows(self, index: slice | Tensor) -> _Field:
        return _Field(self.flow.rows(index), self.begin, None if self.probes is None else self.probes[:, index])

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        raise NotImplementedError  # it is asked for its slope alone

    def slope(self, state: Tensor, s: Tensor) -> Tensor:
        """Of states ``(B, D + K)`` at s ``(B,)``: f and K divergences, one for each probe; 0 at both ends."""
        inside = (s > 0) & (s < 1)
        nodes = Nodes.make(*time_warps(self.flow.frame, False), self.begin, torch.where(inside, s, 0.5).numpy())
        u, rate = (torch.as_tensor(v)[:, None] for v in (nodes.u, nodes.rate))
        f, div = self.flow.both(state[:, : self.shape[0] - 1], u, None if self.probes is None else list(self.probes))
        both = torch.cat((f, div[:, None] if div.ndim == 1 else div.mT), 1)
        return torch.where(inside[:, None], both * rate, 0.0)


@dataclass(frozen=True)
class _Pair(ExplicitRungeKutta):
    """A Runge–Kutta pair on a field that is regular from s = 0 to 1."""

    def variable(self, process: Any, t: Tensor) -> Tensor:
        return t

    def learn(self, denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        assert isinstance(denoiser, _Field)
        return denoiser.slope(x, t)


def solve(
    flow: Flow, z: Tensor, begin: float, method: str, rtol: float, atol: float, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """From u = ``begin`` to ∞: z there, and ∫ div f du, ``(1, B)`` exact or ``(K, B)``, one for each probe."""
    field = _Field(flow, begin, probes)
    count = 1 if probes is None else len(probes)
    state = torch.cat((z, z.new_zeros(len(z), count)), 1)
    if method in PAIRS:
        zero = torch.zeros(len(z), dtype=torch.float64)
        end = _Pair(rtol, atol, max_steps=10_000, pair=method)._cross(field, state, zero, zero + 1)
    else:
        from torchdiffeq import odeint

        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        each = []
        for i in range(len(z)):
            one = field.rows(slice(i, i + 1))
            slope = lambda s, y, one=one: one.slope(y, s.reshape(1))
            each.append(odeint(slope, state[i : i + 1], ends, rtol=rtol, atol=atol, method=method)[-1])
        end = torch.cat(each)
    return end[:, :-count], end[:, -count:].mT
