"""A network on phase space, read as a belief about x_0 by a block row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._errors import UserError, unknown
from .._registry import register
from ..distributions import Dirac
from ..processes import PhaseSpace, Process, expand
from .parameterization import TIME_INPUTS, Parameterization, TimeInputs, Variance, check_std

PhaseCoefficients = Callable[[PhaseSpace, Tensor, float], tuple[Tensor, Tensor]]


def _noise(process: PhaseSpace, t: Tensor) -> tuple[Tensor, Tensor]:
    """(w, κ_v) of ε_v = w·(x_t, v_t) − κ_v x_0."""
    return process.whitening(t)[..., 1, :], process.white_gain(t)[..., 1]


def _normal(process: PhaseSpace, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """(c, s): E[x_0 | x_t, v_t] = c·(x_t, v_t) and the standard deviation of x_0 for data N(0, σ_d²)."""
    white, precision = process.white_gain(t), torch.exp(process.log_snr(t)) + sigma_data**-2
    return (process.whitening(t).mT @ white[..., None])[..., 0] / precision[..., None], precision.rsqrt()


def _eps(process: PhaseSpace, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    row, kappa = _noise(process, t)
    return row / kappa[..., None], -1 / kappa


def _score(process: PhaseSpace, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    c, d = _eps(process, t, sigma_data)
    return c, -d * process.root(t)[..., 1, 1]


def _mixed(process: PhaseSpace, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return _normal(process, t, sigma_data)[0], -1 / _noise(process, t)[1]


PHASE_PREDICTIONS: dict[str, PhaseCoefficients] = {"eps": _eps, "score": _score, "mixed": _mixed, "edm": _normal}
r"""(c, d) of x̂_0 = c·(x_t, v_t) + d·net. The network gives ε_v of :math:`(x_t, v_t) = K x_0 + L ε`; the score of v,
:math:`-ε_v / L_{vv}`; what ε_v has beyond that of data N(0, σ_d²) (the mixed score of arXiv:2112.07068 §3.2); or the
same in units of its standard deviation, as EDM's preconditioning does for scalar noise.
"""


@dataclass(frozen=True)
class PhasePreconditioning(TimeInputs):
    """For x̂_0 = c_skip·(x_t, v_t) + c_out·net: c_in and c_skip are ``(…, 2)``."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


@register(
    "denoisers",
    "phase",
    title="Score of the velocity, read as a belief; mixed score",
    arxiv="2112.07068",
    proof="exact: tests/denoisers/test_phase_parameterization.py",
)
@dataclass(frozen=True)
class PhaseParameterization(Parameterization):
    r"""How a network on phase space is asked and its output read.

    Only the score of the velocity enters the reverse equations, and it says what x̂_0 says:

    .. math:: \hat x_0 = c \cdot (x_t, v_t) + d\,\mathrm{net}, \qquad w(t) = d^{-2},

    where w is the weight on |x_0 error|² that makes it the squared error of the network's own target; for ``eps`` and
    ``mixed`` that is hybrid score matching (arXiv:2112.07068 eq. 8) with λ = 1/ℓ², ℓ = 1/L_vv.

    Args:
        prediction: a row of ``PHASE_PREDICTIONS``.
        sigma_data: σ_d, the RMS of the data a coordinate, > 0.
        time: a row of ``TIME_INPUTS``.
        scale_input: divide x_t and v_t by their standard deviations for data of RMS σ_d; if not given, only for
            ``edm``.
    """

    kind: ClassVar[str] = "phase"

    prediction: str = "edm"
    sigma_data: float = 0.5
    time: str = "log_sigma"
    scale_input: bool | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PHASE_PREDICTIONS:
            raise unknown("prediction", self.prediction, PHASE_PREDICTIONS)
        if self.time not in TIME_INPUTS:
            raise unknown("time input", self.time, TIME_INPUTS)
        if self.time == "sigma":
            raise UserError(
                "time 'sigma' is for processes x_t = αx_0 + σε; on phase space take log_sigma, log_snr or t"
            )
        check_std(self.sigma_data)
        if self.scale_input is None:
            object.__setattr__(self, "scale_input", self.prediction == "edm")

    def check(self, process: Process) -> None:
        """Refuse a process without velocities."""
        if not isinstance(process, PhaseSpace):
            raise UserError(f"a parameterization of velocities needs PhaseSpace, got {type(process).__name__}")

    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Positions, then velocities, along the first axis of the data."""
        return (2 * shape[0], *shape[1:]), shape[0]

    def inputs(self, process: Process, t: Tensor, c_noise: Tensor) -> PhasePreconditioning:
        assert isinstance(process, PhaseSpace)
        return PhasePreconditioning(t, c_noise, self.input_scale(process, t), *self.mean(process, t))

    def precondition(self, process: Process, x_t: Tensor, now: PhasePreconditioning) -> Tensor:
        return (_rows(now.c_in, x_t) * x_t).flatten(1, 2)

    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: PhasePreconditioning, variance: Variance | None = None
    ) -> Dirac:
        net = out.to(torch.promote_types(x_t.dtype, torch.float32))
        return Dirac((_rows(now.c_skip, x_t) * x_t).sum(1) + expand(now.c_out, net) * net)

    def mean(self, process: PhaseSpace, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c, d) of x̂_0 = c·(x_t, v_t) + d·net: ``(…, 2)`` and ``(…)``."""
        return PHASE_PREDICTIONS[self.prediction](process, t, self.sigma_data)

    def weight(self, process: PhaseSpace, t: Tensor) -> Tensor:
        """w(t), the weight on |x_0 error|² of the squared error of the network's target."""
        return self.mean(process, t)[1] ** -2

    def input_scale(self, process: PhaseSpace, t: Tensor) -> Tensor:
        """What x_t and v_t are multiplied by on their way in, ``(…, 2)``."""
        variance = torch.diagonal(process.cov(t), dim1=-2, dim2=-1) + process.gain(t) ** 2 * self.sigma_data**2
        return variance.rsqrt() if self.scale_input else torch.ones_like(variance)


def _rows(c: Tensor, x_t: Tensor) -> Tensor:
    """Two coefficients a sample, ``(2,)`` or ``(B, 2)``, shaped to multiply ``(B, 2, *data)``."""
    return torch.stack([expand(v, x_t) for v in c.unbind(-1)], -1).to(x_t).reshape(-1, 2, *[1] * (x_t.ndim - 2))
