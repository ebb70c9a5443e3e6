"""DDPM: a table of β, and the published tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from .base import as_time
from .cubic import MonotoneCubic
from .gaussian import VariancePreserving
from .schedules import Cosine


def _check_betas(n: int, **values: float) -> None:
    check_integer("n", n, 1)
    check_numbers(False, **values)
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must lie in [0, 1), got {value}")


def linear_betas(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> tuple[float, ...]:
    """β_1…β_N linear from start to end (Ho et al. 2020, arXiv:2006.11239 §4)."""
    _check_betas(n, start=start, end=end)
    return tuple(torch.linspace(start, end, n, dtype=torch.float64).tolist())


def scaled_linear_betas(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> tuple[float, ...]:
    """√β linear from √start to √end (latent diffusion, arXiv:2112.10752)."""
    _check_betas(n, start=start, end=end)
    return tuple((torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2).tolist())


def cosine_betas(n: int = 1000, offset: float = 0.008, ceiling: float = 0.999) -> tuple[float, ...]:
    """β_n = 1 − ᾱ_n/ᾱ_{n−1} of the cosine schedule, at most ``ceiling`` (arXiv:2102.09672 eq. 17)."""
    _check_betas(n, offset=offset, ceiling=ceiling)
    t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    alpha_bar = Cosine(offset).alpha(t) ** 2
    return tuple((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(ceiling).tolist())


NOTHING = 1e-8
"""α at the end of a table of zero terminal SNR: in float32 α·x_0 is lost beside the noise, and its logarithm is a
number."""


def zero_terminal_snr(betas: Sequence[float]) -> tuple[float, ...]:
    r"""A table of β moved so that nothing of the data is left at its end (Lin et al. 2023, arXiv:2305.08891 alg. 1).

    .. math:: \sqrt{\barα'_n} = \frac{\sqrt{\barα_1}}{\sqrt{\barα_1} - \sqrt{\barα_N}}
        \left(\sqrt{\barα_n} - \sqrt{\barα_N}\right)

    The paper's α_N is 0; here it is 1e-8, so that logarithms of the table are finite.

    Args:
        betas: two or more numbers in (0, 1).
    """
    root = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).sqrt()
    if len(root) < 2:
        raise UserError(f"betas must be two or more, got {len(root)}")
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    root[-1] = NOTHING
    ratio = torch.cat([root[:1], root[1:] / root[:-1]])
    return tuple((1 - ratio**2).tolist())


@register(
    "processes",
    "ddpm",
    title="DDPM, a table of β",
    arxiv="2006.11239",
    proof="exact: tests/processes/test_gaussian.py, tests/laws; parity: tests/samplers/test_parity.py",
)
@dataclass(frozen=True)
class DDPM(VariancePreserving):
    r"""A table β_1…β_N (arXiv:2006.11239, eq. 2, 4): :math:`α^2(n/N) = \barα_n = \prod_{i \le n} (1 - β_i)`, ᾱ_0 = 1.

    Knot n stands at t = n/N. Between knots log ᾱ is a monotone cubic (Fritsch & Carlson 1980), so a network trained on
    the table can be asked at any log-SNR, and the drift has one value at a knot; at the knots the table is exact.

    Args:
        betas: N numbers in (0, 1); ``linear_betas()`` if not given, or ``cosine_betas``, ``scaled_linear_betas``, or
            your own.
    """

    betas: Sequence[float] = linear_betas()

    def __post_init__(self) -> None:
        try:
            betas = tuple(float(b) for b in self.betas)
        except (TypeError, ValueError):
            raise UserError(
                "betas must be a sequence of numbers in (0, 1), such as langevin.processes.cosine_betas(1000), got "
                f"{shown(self.betas)}"
            ) from None
        if not betas or not all(0 < b < 1 for b in betas):
            raise UserError("betas must be one or more numbers in (0, 1)")
        object.__setattr__(self, "betas", betas)

    def __repr__(self) -> str:
        return f"DDPM(betas={self.betas[0]:.3g}…{self.betas[-1]:.3g}, N={self.steps})"

    @property
    def steps(self) -> int:
        """N."""
        return len(self.betas)

    def __hash__(self) -> int:  # of a thousand numbers, every time that steps on a grid are looked up
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.betas)

    @property
    def t_min(self) -> float:
        """The first knot, 1/N."""
        return 1 / self.steps

    @cached_property
    def t_max(self) -> float:
        """1, or the last knot but one where nothing of the data is left at 1 (zero terminal SNR)."""
        nothing = float(self.log_alpha(torch.ones((), dtype=torch.float64))) < math.log(1e-6)
        return 1 - 1 / self.steps if nothing and self.steps > 1 else 1.0

    @cached_property
    def _curve(self) -> MonotoneCubic:
        return MonotoneCubic(0.0, torch.log1p(-torch.tensor(self.betas, dtype=torch.float64)) / 2)

    def log_alpha(self, t: Tensor) -> Tensor:
        return self._curve(t * self.steps)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, from log α = −½ log(1 + e^{−λ})."""
        target = -softplus(-torch.as_tensor(log_snr, dtype=torch.float64)) / 2
        return self._curve.inverse(target) / self.steps

    def knot(self, t: Tensor | float) -> Tensor:
        """n of t = n/N, int64; a time between the knots is a ``ValueError``."""
        scaled = as_time(t) * self.steps
        n = torch.round(scaled)
        if ((scaled - n).abs() > 1e-6).any():
            raise UserError(f"t must be a knot n/{self.steps} of the table, got {t}")
        return n.long()
