"""How the output of a network is read: one affine formula, and the tables of its rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, unknown
from ..distributions import Dirac, Distribution, scaled
from ..processes import DDPM, Process, ScalarGaussian, SignalToNoise, expand

if TYPE_CHECKING:
    from .network import NetworkDenoiser

Row = Callable[[ScalarGaussian, Tensor, float], tuple[Tensor, Tensor]]


def _edm(process: ScalarGaussian, t: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = torch.sqrt(sigma**2 + alpha**2 * data_std**2)
    return sigma / (data_std * total), -alpha * data_std / total


PREDICTIONS: dict[str, Row] = {
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
    """Times between the smallest and the largest at which a network was trained, where every label is finite."""
    return t.clamp(process.t_min, process.t_max)


def _sigma(process: Process, t: Tensor) -> Tensor:
    if not isinstance(process, ScalarGaussian):
        raise UserError(f"time 'sigma' needs a process x_t = αx_0 + σε, got {type(process).__name__}")
    return process.sigma(t.clamp_min(process.t_min))


def _log_snr(process: Process, t: Tensor) -> Tensor:
    if not isinstance(process, SignalToNoise):
        raise UserError(f"time 'log_snr' needs a process with a log-SNR, got {type(process).__name__}")
    return process.log_snr(_inner(process, t))


TIME_LABELS: dict[str, Callable[[Process, Tensor], Tensor]] = {
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
    """Where the labels of a row of ``TIME_LABELS`` lie, or None where a network's default range holds them."""
    if time in ("sigma", "log_snr"):
        return sorted(TIME_LABELS[time](process, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist())
    index = [0.0, 999.0]
    return {"index": index, "nearest-index": index, "time": [0.0, 1000.0], "t": [0.0, 1.0]}.get(time)


def check_std(data_std: float) -> None:
    """Refuse a spread of the data that is none, or whose square is no number."""
    if not (isinstance(data_std, float) and not 0 < data_std < math.inf):  # which has a sentence of its own below
        check_numbers(data_std=data_std)
    if not 1e-100 < data_std < 1e100:
        raise UserError(f"data_std must be > 0, got {data_std}" + " (1e-100 to 1e100)" * (0 < data_std < math.inf))


@dataclass(frozen=True)
class Asked:
    """What depends on the time alone: the time itself and the label the network is told."""

    t: Tensor
    label: Tensor

    def numbers(self) -> Asked:
        """The same for one time, in numbers."""
        return replace(self, label=self.label.reshape(1))


class Reader(ABC):
    """How a network is asked, and its output read as a belief: frozen dataclasses of plain settings.

    A kind of model is one subclass (real data under αx_0 + σε, tokens, a state with a velocity); all else about a
    network is ``NetworkDenoiser``'s.

    Attributes:
        prediction: what the network is asked for, a row of the subclass's own table.
        time: a row of ``TIME_LABELS``.
    """

    kind: ClassVar[str]
    """What a model directory calls models that are read so."""

    spreads: ClassVar[bool] = False
    """Whether a second set of channels may be read as the variance of the belief."""

    prediction: str
    time: str

    @abstractmethod
    def check(self, process: Process) -> None:
        """Refuse a process whose states this reading does not understand."""

    @abstractmethod
    def faces(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """For data of an event shape: the event shape the network is given, and the channels it must return."""

    def asked(self, process: Process, t: Tensor, label: Tensor) -> Asked:
        """What depends on time alone, computed once for every time."""
        return Asked(t, label)

    @abstractmethod
    def enter(self, process: Process, x_t: Tensor, now: Any) -> Tensor:
        """What the network is given of the states ``(B, *state)``."""

    @abstractmethod
    def read(self, denoiser: NetworkDenoiser, out: Tensor, x_t: Tensor, now: Any) -> Distribution:
        """The belief of the network's output."""


@dataclass(frozen=True)
class AffineAsked(Asked):
    """For x̂_0 = c·x_t + d·net: the input's scale, c and d as well."""

    scale: Tensor | float
    c: Tensor | float
    d: Tensor | float

    def numbers(self) -> AffineAsked:
        return replace(self, label=self.label.reshape(1), scale=float(self.scale), c=float(self.c), d=float(self.d))


def _sum(fresh: Tensor, net: Tensor, weight: float) -> Tensor:
    """fresh + weight·net, in the place of a tensor nobody else has where the dtype allows."""
    same = net.dtype is fresh.dtype
    return fresh.add_(net, alpha=weight) if same else torch.add(fresh, net, alpha=weight)


class Point(Dirac):
    """All mass at c·x_t + d·net: formed when somebody asks, since a step that goes on from x_t need not."""

    def __init__(self, x: Tensor, c: float, net: Tensor, d: float) -> None:
        self.__dict__["parts"] = (x, c, net, d)

    @property
    def point(self) -> Tensor:
        made: Tensor | None = self.__dict__.get("made")
        if made is None:
            x, c, net, d = self.__dict__["parts"]
            made = self.__dict__["made"] = _sum(scaled(x, c), net, d)
        return made

    def blend(self, a: float, x: Tensor, b: float) -> Tensor:
        own, c, net, d = self.__dict__["parts"]
        return _sum(scaled(x, a + b * c), net, b * d) if x is own else super().blend(a, x, b)

    def terms(self, a: float, x: Tensor, b: float, unit: float | None = None) -> tuple[tuple[float, Tensor], ...]:
        own, c, net, d = self.__dict__["parts"]
        if x is not own:
            return super().terms(a, x, b, unit)
        kept, of_net = a + b * c, b * d
        # What the network itself predicts has no x in it; both numbers come of a few roundings each.
        if abs(kept) <= 1e-14 * abs(a):
            return ((of_net, net),)
        if unit is None:
            return ((kept, x), (of_net, net))
        return ((1 / unit, _sum(scaled(x, kept * unit), net, of_net * unit)),)

    def __repr__(self) -> str:
        return f"Dirac(point={tuple(self.point.shape)})"


@dataclass(frozen=True)
class Reading(Reader):
    r"""A scalar-Gaussian network: how it is asked and its output read.

    With net = p·x_0 + q·ε and x_t = α x_0 + σ ε,

    .. math:: \hat x_0 = \frac{q\,x_t - σ\,\mathrm{net}}{α q - σ p}, \qquad w(t) = (p - q α/σ)^2,

    where w is the weight on |x_0 error|² that makes it the squared error of the network's own target.

    Args:
        prediction: a row of ``PREDICTIONS``.
        data_std: σ_d, the RMS of the data a coordinate, > 0; used by ``edm`` and by the input scale.
        time: a row of ``TIME_LABELS``.
        scale_input: divide x_t by :math:`S = \sqrt{σ^2 + α^2 σ_d^2}`, so that the network sees unit variance; if not
            given, only for ``edm``, whose networks are trained so. All others see x_t itself.
    """

    kind: ClassVar[str] = "denoiser"
    spreads: ClassVar[bool] = True

    prediction: str = "edm"
    data_std: float = 0.5
    time: str = "log_sigma"
    scale_input: bool | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        if self.time not in TIME_LABELS:
            raise unknown("time label", self.time, TIME_LABELS)
        check_std(self.data_std)
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
        if self.prediction in ("eps", "score") and float(process.alpha(end)) < 1e-6:
            raise UserError(
                f"prediction {self.prediction!r} cannot be read at t = 1 of {process}, where alpha is 0 and x_t holds "
                "nothing but noise; use v, flow, x0 or edm"
            )

    def faces(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return shape, shape[0]

    def asked(self, process: Process, t: Tensor, label: Tensor) -> AffineAsked:
        assert isinstance(process, ScalarGaussian)
        return AffineAsked(t, label, self.input_scale(process, t), *self.mean(process, t))

    def enter(self, process: Process, x_t: Tensor, now: AffineAsked) -> Tensor:
        scale = now.scale if isinstance(now.scale, float) else expand(now.scale, x_t)
        return x_t if isinstance(scale, float) and scale == 1.0 else x_t * scale

    def read(self, denoiser: NetworkDenoiser, out: Tensor, x_t: Tensor, now: AffineAsked) -> Distribution:
        net, raw = out.chunk(2, dim=1) if denoiser.variance else (out, None)
        # x̂_0 is solver arithmetic: it takes the dtype of the state, float32 at least, not the network's.
        if x_t.dtype not in (torch.float64, torch.float32):
            net = net.to(torch.float32)
        if isinstance(now.c, float) and isinstance(now.d, float):
            if raw is None:
                return Point(x_t, now.c, net, now.d)
            mean = torch.add(x_t * now.c, net, alpha=now.d)
        else:
            net = net.to(torch.promote_types(x_t.dtype, torch.float32))
            c, d = (torch.as_tensor(v, dtype=torch.float64) for v in (now.c, now.d))
            mean = expand(c, x_t) * x_t + expand(d, net) * net
        return Dirac(mean) if raw is None else denoiser.spread(mean, raw, now.t)

    def coefficients(self, process: ScalarGaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) at t."""
        return PREDICTIONS[self.prediction](process, t, self.data_std)

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
        return torch.rsqrt(process.sigma(t) ** 2 + process.alpha(t) ** 2 * self.data_std**2)
