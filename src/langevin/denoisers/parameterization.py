"""How the output of a network is read: one affine formula, and the tables of its rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, unknown
from ..distributions import Diagonal, Dirac, Distribution, Normal
from ..processes import DDPM, Process, ScalarGaussian, SignalToNoise, expand

Coefficients = Callable[[ScalarGaussian, Tensor, float], tuple[Tensor, Tensor]]


def _edm(process: ScalarGaussian, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = torch.sqrt(sigma**2 + alpha**2 * sigma_data**2)
    return sigma / (sigma_data * total), -alpha * sigma_data / total


PREDICTIONS: dict[str, Coefficients] = {
    "eps": lambda process, t, _: (torch.zeros_like(t), torch.ones_like(t)),
    "x0": lambda process, t, _: (torch.ones_like(t), torch.zeros_like(t)),
    "v": lambda process, t, _: (-process.sigma(t), process.alpha(t)),
    "flow": lambda process, t, _: (process.rate(process.alpha, t), process.rate(process.sigma, t)),
    "score": lambda process, t, _: (torch.zeros_like(t), -1 / process.sigma(t)),
    "edm": _edm,
}
r"""(p, q) of net = p·x_0 + q·ε, for ε- (arXiv:2006.11239), x_0-, v- (2202.00512), flow (2210.02747), score (2011.13456)
and EDM's (2206.00364, Table 1) parameterisations; EDM's has :math:`p = σ/(σ_d S), q = -α σ_d / S` with
:math:`S^2 = σ^2 + α^2 σ_d^2`.
"""


def _log_sigma(process: Process, t: Tensor) -> Tensor:
    assert isinstance(process, SignalToNoise)
    return (-process.log_snr(t) / 8).clamp(-4.0, 4.0)


def _index(process: Process, t: Tensor) -> Tensor:
    steps = process.steps if isinstance(process, DDPM) else 1000
    index = (t * steps - 1).clamp_min(0)
    # At a knot it is a whole number, not one that rounding has put below: a network may cut what is behind the point.
    whole = index.round()
    return torch.where((index - whole).abs() < 1e-6, whole, index)


def _inner(process: Process, t: Tensor) -> Tensor:
    """Times between the smallest and the largest at which a network was trained, where every time input is finite."""
    return t.clamp(process.t_min, process.t_max)


def _sigma(process: Process, t: Tensor) -> Tensor:
    if not isinstance(process, ScalarGaussian):
        raise UserError(f"time 'sigma' needs a process x_t = αx_0 + σε, got {type(process).__name__}")
    return process.sigma(t.clamp_min(process.t_min))


def _log_snr(process: Process, t: Tensor) -> Tensor:
    if not isinstance(process, SignalToNoise):
        raise UserError(f"time 'log_snr' needs a process with a log-SNR, got {type(process).__name__}")
    return process.log_snr(_inner(process, t))


TIME_INPUTS: dict[str, Callable[[Process, Tensor], Tensor]] = {
    "log_sigma": _log_sigma,
    "index": _index,
    "nearest-index": lambda process, t: _index(process, t).round(),
    "time": lambda process, t: 1000 * t,
    "t": lambda process, t: t,
    "sigma": _sigma,
    "log_snr": _log_snr,
    "none": lambda process, t: torch.zeros_like(t),
}
"""What a network is told about the time:

* ``log_sigma``: ¼·log(σ/α), EDM's c_noise;
* ``index``: n − 1 at the knot n of a table (of 1000 equal steps of t, if the process is none), fractions between knots;
* ``nearest-index``: the same of the nearest knot, for networks that look it up in a table of embeddings;
* ``time``: 1000·t, and ``t``: t itself, from 0 (data) to 1 (noise);
* ``sigma``: σ(t), at ``t_min`` at least, and ``log_snr``: log α²/σ², at times from ``t_min`` to ``t_max``;
* ``none``: nothing; with eps that is NCSNv2's s(x, σ) = s(x)/σ (arXiv:2006.09011, technique 3).
"""


def time_range(time: str, process: Process) -> list[float] | None:
    """Where the time inputs of a row of ``TIME_INPUTS`` lie, or None where a network's default range holds them."""
    if time in ("sigma", "log_snr"):
        return sorted(TIME_INPUTS[time](process, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist())
    index = [0.0, 999.0]
    return {"index": index, "nearest-index": index, "time": [0.0, 1000.0], "t": [0.0, 1.0]}.get(time)


def check_std(sigma_data: float) -> None:
    """Refuse a spread of the data that is none, or whose square is no number."""
    if not (isinstance(sigma_data, float) and not 0 < sigma_data < math.inf):  # which has a sentence of its own below
        check_numbers(sigma_data=sigma_data)
    if not 1e-100 < sigma_data < 1e100:
        raise UserError(
            f"sigma_data must be > 0, got {sigma_data}" + " (1e-100 to 1e100)" * (0 < sigma_data < math.inf)
        )


@dataclass(frozen=True)
class TimeInputs:
    """What depends on the time alone: the time itself, and c_noise, what the network is told of it."""

    t: Tensor
    c_noise: Tensor

    def numbers(self) -> TimeInputs:
        """The same for one time, in numbers."""
        return replace(self, c_noise=self.c_noise.reshape(1))


Variance = Callable[["Process", "Parameterization", Tensor, Tensor], Tensor]
"""Reads a second set of channels as the variance of the belief: of (process, parameterization, channels, t)."""


class Parameterization(ABC):
    """How a network is asked, and its output read as a belief: frozen dataclasses of plain settings.

    A kind of model is one subclass (real data under αx_0 + σε, tokens, a state with a velocity); all else about a
    network is ``NetworkDenoiser``'s.

    Attributes:
        prediction: what the network is asked for, a row of the subclass's own table.
        time: a row of ``TIME_INPUTS``.
    """

    kind: ClassVar[str]
    """What a model directory calls models that are read so."""

    has_variance: ClassVar[bool] = False
    """Whether a second set of channels may be read as the variance of the belief."""

    prediction: str
    time: str

    @abstractmethod
    def check(self, process: Process) -> None:
        """Refuse a process whose states this parameterization does not understand."""

    @abstractmethod
    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """For data of an event shape: the event shape the network is given, and the channels it must return."""

    def inputs(self, process: Process, t: Tensor, c_noise: Tensor) -> TimeInputs:
        """What depends on time alone, computed once for every time."""
        return TimeInputs(t, c_noise)

    @abstractmethod
    def precondition(self, process: Process, x_t: Tensor, now: Any) -> Tensor:
        """What the network is given of the states ``(B, *state)``."""

    @abstractmethod
    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: Any, variance: Variance | None = None
    ) -> Distribution:
        """The belief of the network's output; with ``variance`` its second half of channels is one."""

    def weight(self, process: Any, t: Tensor) -> Tensor:
        """w(t), the weight on |x_0 error|² of the squared error of the network's target.

        Raises:
            UserError: for a network whose output is a law and has no such target.
        """
        raise UserError(
            f"weight 'simple' is that of the squared error of a network's target, and prediction {self.prediction!r} "
            "is a law"
        )


@dataclass(frozen=True)
class Preconditioning(TimeInputs):
    r""":math:`\hat x_0 = c_{skip} x_t + c_{out}\,\mathrm{net}(c_{in} x_t; c_{noise})` (arXiv:2206.00364 eq. 7)."""

    c_in: Tensor | float
    c_skip: Tensor | float
    c_out: Tensor | float

    def numbers(self) -> Preconditioning:
        c_in, c_skip, c_out = float(self.c_in), float(self.c_skip), float(self.c_out)
        return Preconditioning(self.t, self.c_noise.reshape(1), c_in, c_skip, c_out)


@dataclass(frozen=True)
class AffineParameterization(Parameterization):
    r"""A scalar-Gaussian network: how it is asked and its output read.

    With net = p·x_0 + q·ε and x_t = α x_0 + σ ε,

    .. math:: \hat x_0 = \frac{q\,x_t - σ\,\mathrm{net}}{α q - σ p}, \qquad w(t) = (p - q α/σ)^2,

    where w is the weight on |x_0 error|² that makes it the squared error of the network's own target.

    Args:
        prediction: a row of ``PREDICTIONS``.
        sigma_data: σ_d, the RMS of the data a coordinate, > 0; used by ``edm`` and by the input scale.
        time: a row of ``TIME_INPUTS``.
        scale_input: divide x_t by :math:`S = \sqrt{σ^2 + α^2 σ_d^2}`, so that the network sees unit variance; if not
            given, only for ``edm``, whose networks are trained so. All others see x_t itself.
    """

    kind: ClassVar[str] = "denoiser"
    has_variance: ClassVar[bool] = True

    prediction: str = "edm"
    sigma_data: float = 0.5
    time: str = "log_sigma"
    scale_input: bool | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        if self.time not in TIME_INPUTS:
            raise unknown("time input", self.time, TIME_INPUTS)
        check_std(self.sigma_data)
        if not isinstance(self.scale_input, bool | None):
            raise UserError(f"scale_input must be True, False or None, got {self.scale_input!r}")
        if self.scale_input is None:
            object.__setattr__(self, "scale_input", self.prediction == "edm")

    def check(self, process: Process) -> None:
        """Refuse a pair of process and prediction in which the output says nothing about x_0."""
        if not isinstance(process, ScalarGaussian):
            name = type(process).__name__
            raise UserError(f"prediction {self.prediction!r} needs a process x_t = αx_0 + σε, got {name}")
        end = torch.ones((), dtype=torch.float64)
        if self.prediction in ("eps", "score") and float(process.alpha(end).detach()) < 1e-6:
            raise UserError(
                f"prediction {self.prediction!r} cannot be read at t = 1 of {process}, where alpha is 0 and x_t holds "
                "nothing but noise; use v, flow, x0 or edm"
            )

    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return shape, shape[0]

    def inputs(self, process: Process, t: Tensor, c_noise: Tensor) -> Preconditioning:
        assert isinstance(process, ScalarGaussian)
        return Preconditioning(t, c_noise, self.input_scale(process, t), *self.mean(process, t))

    def precondition(self, process: Process, x_t: Tensor, now: Preconditioning) -> Tensor:
        scale = now.c_in if isinstance(now.c_in, float) else expand(now.c_in, x_t)
        return x_t if isinstance(scale, float) and scale == 1.0 else x_t * scale

    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: Preconditioning, variance: Variance | None = None
    ) -> Distribution:
        net, raw = out.chunk(2, dim=1) if variance else (out, None)
        # x̂_0 is solver arithmetic: it takes the dtype of the state, float32 at least, not the network's.
        if net.dtype is not x_t.dtype or x_t.dtype.itemsize < 4:
            net = net.to(torch.promote_types(x_t.dtype, torch.float32))
        if isinstance(now.c_skip, float) and isinstance(now.c_out, float):
            mean = torch.add(x_t * now.c_skip, net, alpha=now.c_out)
        else:
            c, d = (torch.as_tensor(v, dtype=torch.float64) for v in (now.c_skip, now.c_out))
            mean = expand(c, x_t) * x_t + expand(d, net) * net
        if variance is None or raw is None:
            return Dirac(mean)
        return Normal(mean, Diagonal(variance(process, self, raw.to(mean.dtype), now.t)))

    def coefficients(self, process: ScalarGaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) at t."""
        return PREDICTIONS[self.prediction](process, t, self.sigma_data)

    def mean(self, process: ScalarGaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c, d) of x̂_0 = c·x_t + d·net; at σ = 0, where q may be infinite, the state is the datum."""
        p, q = self.coefficients(process, t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        scale, clean = alpha * q - sigma * p, sigma == 0
        return torch.where(clean, 1 / alpha, q / scale), torch.where(clean, 0.0, -sigma / scale)

    def weight(self, process: ScalarGaussian, t: Tensor) -> Tensor:
        """w(t), the weight on |x_0 error|² of the squared error of the network's target."""
        p, q = self.coefficients(process, t)
        return (p - q * process.alpha(t) / process.sigma(t)) ** 2

    def input_scale(self, process: ScalarGaussian, t: Tensor) -> Tensor:
        """c_in: what x_t is multiplied by on its way in."""
        if not self.scale_input:
            return torch.ones_like(t)
        return torch.rsqrt(process.sigma(t) ** 2 + process.alpha(t) ** 2 * self.sigma_data**2)
