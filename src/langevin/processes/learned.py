"""A noise schedule that is learned with the denoiser (variational diffusion models)."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._errors import UserError
from .._registry import register
from .cubic import MonotoneCubic
from .gaussian import VariancePreserving

KNOTS = 512
"""Intervals of the table that a learned schedule is frozen to."""


class _Schedule(VariancePreserving):
    """σ²/α² = e^{γ(u)} with u = (t − t_min)/(1 − t_min), and proportional to t between the data and t_min."""

    @abstractmethod
    def level(self, u: Tensor) -> Tensor:
        """γ(u), u in [0, 1], increasing; float64 like u."""

    def inside(self, t: Tensor) -> Tensor:
        """u of t."""
        return (torch.where(t < self.t_min, self.t_min, t) - self.t_min) / (1 - self.t_min)

    def _ratio(self, t: Tensor) -> Tensor:
        """σ²/α²."""
        return torch.exp(self.level(self.inside(t))) * torch.where(t < self.t_min, t / self.t_min, 1.0)

    def log_alpha(self, t: Tensor) -> Tensor:
        return -torch.log1p(self._ratio(t)) / 2

    def sigma2(self, t: Tensor) -> Tensor:
        ratio = self._ratio(t)
        return ratio / (1 + ratio)

    def log_snr(self, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return -self.level(self.inside(t)) - torch.log(torch.where(t < self.t_min, t / self.t_min, 1.0))


@register(
    "processes",
    "learned",
    title="VDM, a learned log-SNR",
    arxiv="2107.00630",
    proof="exact: tests/processes/test_gaussian.py, tests/objectives/test_vdm.py, tests/laws",
)
@dataclass(frozen=True)
class Learned(_Schedule):
    r"""The process of variational diffusion models (arXiv:2107.00630, eq. 3–4), with γ as a table.

    .. math:: σ_t^2 = \mathrm{sigmoid}(γ(t)), \quad α_t^2 = \mathrm{sigmoid}(-γ(t)), \quad \mathrm{SNR} = e^{-γ(t)}

    The table stands at equal distances from t_min to 1, a monotone cubic between; two numbers are a straight line.
    Below t_min, where the paper's process ends with a little noise, σ²/α² goes to 0 in proportion to t, so that t = 0
    is data. The objective ``vdm`` learns γ as a monotone network (``Learning``), and leaves a table of 513 numbers.

    Args:
        gamma: γ from t_min to 1, two or more increasing numbers; those the paper starts with if not given.
    """

    gamma: Sequence[float] = (-13.3, 5.0)

    def __post_init__(self) -> None:
        table = tuple(float(g) for g in self.gamma)
        if (
            len(table) < 2
            or not all(math.isfinite(g) for g in table)
            or not all(a < b for a, b in itertools.pairwise(table))
        ):
            raise UserError(f"gamma must be two or more finite numbers that increase, got {table[:8]}")
        object.__setattr__(self, "gamma", table)

    def __repr__(self) -> str:
        return f"Learned(gamma={self.gamma[0]:.3g}…{self.gamma[-1]:.3g}, N={len(self.gamma) - 1})"

    @cached_property
    def _curve(self) -> MonotoneCubic:
        return MonotoneCubic(self.gamma[0], torch.diff(torch.tensor(self.gamma, dtype=torch.float64)))

    def level(self, u: Tensor) -> Tensor:
        return self._curve(u * (len(self.gamma) - 1))

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``."""
        gamma = -torch.as_tensor(log_snr, dtype=torch.float64)
        below = self.t_min * torch.exp((gamma - self.gamma[0]).clamp_max(0))
        u = self._curve.inverse(gamma) / (len(self.gamma) - 1)
        return torch.where(gamma < self.gamma[0], below, self.t_min + (1 - self.t_min) * u)


class MonotoneNetwork(nn.Module):
    r"""γ_η of arXiv:2107.00630, app. H: a line and a layer of sigmoids with positive weights, put between two ends.

    .. math:: \tilde γ(u) = w u + \sum_k a_k\, \mathrm{sigmoid}(b_k u + c_k), \quad
              γ(u) = γ_0 + (γ_1 - γ_0)\, s(u), \quad s(u) = \frac{\tilde γ(u) - \tilde γ(0)}{\tilde γ(1) - \tilde γ(0)}

    Args:
        low: γ_0 to start from.
        high: γ_1 > γ_0.
        width: sigmoids; 1024 in the paper.
    """

    def __init__(self, low: float, high: float, width: int = 1024) -> None:
        super().__init__()
        # In units in which a step of Adam is a like share of the range for both.
        self.low, self.log_gap = (nn.Parameter(torch.tensor(v)) for v in (low / 10, math.log(high - low)))
        # Bends of all widths, each at home everywhere: the schedule of least variance can end in a steep rise.
        steep = 5 * 2.0 ** (torch.arange(width) % 6)
        self.line = nn.Parameter(_inverse_softplus(torch.ones(())))
        self.outer = nn.Parameter(_inverse_softplus(torch.full((width,), 1 / width)))
        self.inner = nn.Parameter(_inverse_softplus(steep))
        self.shift = nn.Parameter(-steep * (torch.arange(width) + 0.5) / width)

    def ends(self) -> tuple[Tensor, Tensor]:
        """(γ_0, γ_1 − γ_0)."""
        return 10 * self.low.double(), torch.exp(self.log_gap.double())

    def _raw(self, u: Tensor) -> Tensor:
        line, outer, inner = (softplus(p.double()) for p in (self.line, self.outer, self.inner))
        return line * u + (outer * torch.sigmoid(inner * u[..., None] + self.shift.double())).sum(-1)

    def share(self, u: Tensor) -> Tensor:
        """s(u), increasing from 0 to 1; float64 like u."""
        start, end = self._raw(torch.tensor([0.0, 1.0], dtype=u.dtype, device=u.device))
        return (self._raw(u) - start) / (end - start)

    def forward(self, u: Tensor) -> Tensor:
        low, gap = self.ends()
        return low + gap * self.share(u)


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


@dataclass(frozen=True, eq=False)
class Learning(_Schedule):
    """A schedule while it is learned: γ is a network, and all the process answers has gradients to it."""

    network: MonotoneNetwork

    def level(self, u: Tensor) -> Tensor:
        value: Tensor = self.network(u)
        return value

    @torch.no_grad()
    def frozen(self) -> Learned:
        """The schedule as a table."""
        knots = torch.linspace(0, 1, KNOTS + 1, dtype=torch.float64, device=self.network.low.device)
        return Learned(self.level(knots).tolist())

    def to_dict(self) -> dict[str, Any]:
        return self.frozen().to_dict()
