"""Laws of t: which times a network is trained at."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, unknown
from .._registry import methods, register
from ..distributions import Noise, Stream
from ..processes import DDPM, NoiseLevels, Process, ScalarGaussian, SignalToNoise, require


@dataclass(frozen=True, eq=False)
class TimestepDistribution(ABC):
    """A law of t as a monotone function of a uniform number, ``t = quantile(u)``.

    Times are drawn by a sample's own noise, so a sample's time does not depend on the batch it stands in. The
    expectation an objective takes is over ``u`` with weight ``ratio(u)``: 1, unless the law draws some times more often
    than the expectation does.
    """

    @property
    def learns(self) -> bool:
        """Whether the law depends on the losses it has been shown."""
        return False

    @abstractmethod
    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """t in (0, 1] of u in (0, 1), float64."""

    def uniform(self, noise: Noise) -> Tensor:
        """u, one a sample, float64 ``(B,)`` in (0, 1)."""
        return noise.fold_in(Stream.TIMES).uniform(())

    def ratio(self, process: Process, u: Tensor) -> Tensor:
        """Density of the law of the expectation over that of the draw."""
        return torch.ones_like(u)

    def pair(self, process: Process, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """(t, s, ratio): t of u, s of a step before, u − 1/steps (0 where there is none), and the weight of the pair.

        The ratio is that of the draw of u alone: an expectation over pairs is a sum over steps, whatever the law.
        """
        t, before = self.quantile(process, u), u - 1 / steps
        s = torch.where(before > 0, self.quantile(process, before.clamp_min(2.0**-40)), 0.0)
        return t, s, torch.ones_like(u)

    def check(self, process: Process) -> None:  # noqa: B027 (most laws take any process)
        """Refuse a process on which the law is not defined, before any work."""

    def observe(self, u: Tensor, loss: Tensor) -> None:  # noqa: B027 (most laws learn nothing)
        """Take in the losses ``(B,)`` of a step, in the order of the batch, weights and ratio included."""

    def for_validation(self) -> TimestepDistribution:
        """A law of the same expectation that never changes: for validation."""
        return self

    def state(self) -> dict[str, Any]:
        """What ``observe`` has gathered, as plain JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        if state:
            raise UserError(f"{type(self).__name__} keeps no state, got {', '.join(state)}")

    def to_dict(self) -> dict[str, Any]:
        """The law as plain JSON."""
        name = next(m.name.removeprefix("times/") for m in methods("objectives") if m.make is type(self))
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {
            "name": name,
            **{k: v.to_dict() if isinstance(v, TimestepDistribution) else v for k, v in values.items()},
        }


@register(
    "objectives",
    "times/uniform",
    title="Uniform times",
    arxiv="2011.13456",
    proof="exact: tests/objectives/test_times.py::test_uniform",
)
@dataclass(frozen=True)
class Uniform(TimestepDistribution):
    """t uniform in [low, high].

    Args:
        low: > 0, the process's own smallest time if None: at t = 0 there is nothing to learn, and an error of x_0 of
            the size of float32's rounding has an infinite weight there.
        high: ≤ 1.
    """

    low: float | None = None
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < (self.high if self.low is None else self.low) <= self.high <= 1:
            raise UserError(f"low, high must satisfy 0 < low <= high <= 1, got {self.low}, {self.high}")

    def check(self, process: Process) -> None:
        if self.low is None and not 0 < process.t_min <= self.high:
            raise UserError(f"low must be given for {process}, whose smallest time is {process.t_min}")

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        low = process.t_min if self.low is None else self.low
        return low + (self.high - low) * u


@register(
    "objectives",
    "times/table",
    title="Uniform over the knots of a table",
    arxiv="2006.11239",
    proof="exact: tests/objectives/test_times.py::test_table",
)
@dataclass(frozen=True)
class TableKnots(TimestepDistribution):
    """t = n/N with n uniform in 1…N, on a table of N betas (arXiv:2006.11239, algorithm 1)."""

    def check(self, process: Process) -> None:
        if not isinstance(process, DDPM):
            raise UserError(f"times 'table' are the knots of a DDPM table, got {process}; use 'uniform'")

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        self.check(process)
        assert isinstance(process, DDPM)
        return (torch.floor(u * process.steps) + 1).clamp_max(process.steps) / process.steps


@register(
    "objectives",
    "times/log-normal",
    title="Log-normal noise level",
    arxiv="2206.00364",
    proof="exact: tests/objectives/test_times.py::test_log_normal",
)
@dataclass(frozen=True)
class LogNormal(TimestepDistribution):
    r""":math:`\ln(σ/α) \sim N(\mathrm{mean}, \mathrm{std}^2)` (arXiv:2206.00364, Table 1), given t in [t_min, 1].

    Args:
        mean: of ln(σ/α), for data in units of its range: [−1, 1].
        std: > 0.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.mean) and math.isfinite(self.std)):
            raise UserError(f"mean, std must be finite and std > 0, got {self.mean}, {self.std}")

    def check(self, process: Process) -> None:
        require(process, SignalToNoise, "times 'log-normal'")

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        self.check(process)
        assert isinstance(process, SignalToNoise)
        ends = torch.tensor([process.t_min, 1.0], dtype=torch.float64, device=u.device)
        z = (-process.log_snr(ends) / 2 - self.mean) / self.std
        low, high = torch.special.ndtr(z)
        inside = torch.special.ndtri(low + (high - low) * u).clamp(z[0], z[1])
        return process.time(-2 * (self.mean + self.std * inside)).clamp(process.t_min, 1.0)


@register(
    "objectives",
    "times/likelihood-importance",
    title="Importance sampling of t for the likelihood weighting",
    arxiv="2101.09258",
    proof="exact: tests/objectives/test_likelihood_weighting.py",
)
@dataclass(frozen=True)
class LikelihoodImportance(TimestepDistribution):
    r"""Times drawn with :math:`p(t) \propto g^2(t)/σ_t^2`, the expectation that of uniform times (2101.09258 §5.1).

    The likelihood weighting is :math:`\tfrac12 \frac{g^2}{σ^2} |ε - \hat ε|^2`, whose error of ε hardly depends on t:
    drawing t in proportion to what stands before it takes most of the variance. Since
    :math:`\dot λ = -g^2/σ^2` for every scalar-Gaussian process, the law is uniform in log-SNR:

    .. math:: λ(t) = λ_{low} + u\,(λ_{high} - λ_{low}), \quad
              \mathrm{ratio} = \frac{λ_{low} - λ_{high}}{(high - low)\,|\dot λ(t)|}

    Args:
        low: the smallest time, > 0: its mass is infinite at 0; the process's own smallest time if None.
        high: the largest, ≤ 1; the process's own largest if None.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not 0 < (0.0001 if self.low is None else self.low) < (1 if self.high is None else self.high) <= 1:
            raise UserError(f"low, high must satisfy 0 < low < high <= 1, got {self.low}, {self.high}")

    def _ends(self, process: Process) -> tuple[ScalarGaussian, float, float]:
        gaussian: ScalarGaussian = require(process, ScalarGaussian, "times 'likelihood-importance'")
        low, high = (own if v is None else v for v, own in ((self.low, process.t_min), (self.high, process.t_max)))
        return gaussian, low, high

    def check(self, process: Process) -> None:
        gaussian, low, high = self._ends(process)
        ends = gaussian.log_snr(torch.tensor([low, high], dtype=torch.float64))
        if not (low < high and ends.isfinite().all()):
            raise UserError(f"low, high must bound finite log-SNR of {process}, got {low}, {high}: {ends.tolist()}")

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        gaussian, low, high = self._ends(process)
        top, bottom = gaussian.log_snr(low), gaussian.log_snr(high)
        return gaussian.time(top + u * (bottom - top)).clamp(low, high)

    def ratio(self, process: Process, u: Tensor) -> Tensor:
        gaussian, low, high = self._ends(process)
        fall = gaussian.log_snr(low) - gaussian.log_snr(high)
        return -fall / ((high - low) * gaussian.rate(gaussian.log_snr, self.quantile(process, u)))


@register(
    "objectives",
    "times/levels",
    title="Discrete noise levels, geometric",
    arxiv="1907.05600",
    proof="exact: tests/objectives/test_score_matching.py::test_levels",
)
@dataclass(frozen=True)
class Levels(TimestepDistribution):
    r"""One of L noise levels, each as often: :math:`σ/α = first\,(last/first)^{i/(L-1)}` (arXiv:1907.05600 §4.1).

    ``langevin.processes.NoiseLevels`` finds them for data.

    Args:
        first: the largest, > last.
        last: the smallest, > 0.
        count: L ≥ 1; with L = 1 ``first`` alone.
    """

    first: float = 1.0
    last: float = 0.01
    count: int = 10

    def __post_init__(self) -> None:
        NoiseLevels(self.first, self.last, self.count)

    def check(self, process: Process) -> None:
        NoiseLevels(self.first, self.last, self.count).times(process)

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        times = NoiseLevels(self.first, self.last, self.count).times(process).to(u.device)
        return times[(u * self.count).long().clamp_max(self.count - 1)]


@register(
    "objectives",
    "times/stratified",
    title="Low-discrepancy times",
    arxiv="2107.00630",
    proof="exact: tests/objectives/test_times.py::test_stratified_spread",
)
@dataclass(frozen=True)
class Stratified(TimestepDistribution):
    r"""The law ``of`` with :math:`u_i = \mathrm{frac}(u_0 + v_i)`: times spread evenly over neighbouring samples.

    v_i is van der Corput's sequence at the global index i of the sample and u_0 a uniform number of the draw, so that
    each u_i is uniform and depends on (seed, draw, i) alone, whatever the batch. Any 2ᵏ samples with consecutive
    indices have one v in each of the 2ᵏ equal parts of (0, 1); the first 2ᵏ are the grid i/B of VDM (arXiv:2107.00630,
    app. I.1). For a smooth integrand the error of a batch's mean falls as 1/B instead of 1/√B. Indices in no order
    give plain uniform times.
    """

    of: TimestepDistribution = Uniform()

    def uniform(self, noise: Noise) -> Tensor:
        assert isinstance(noise.sample, Tensor)
        start = noise.fold_in(Stream.TIMES).seed & 0xFFFFFFFF
        return ((radical_inverse(noise.sample) + start) & 0xFFFFFFFF).to(torch.float64).add(0.5).mul(2.0**-32)

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        return self.of.quantile(process, u)

    def ratio(self, process: Process, u: Tensor) -> Tensor:
        return self.of.ratio(process, u)

    def pair(self, process: Process, u: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.of.pair(process, u, steps)

    def check(self, process: Process) -> None:
        self.of.check(process)

    @property
    def learns(self) -> bool:
        return self.of.learns

    def observe(self, u: Tensor, loss: Tensor) -> None:
        self.of.observe(u, loss)

    def for_validation(self) -> TimestepDistribution:
        return Stratified(self.of.for_validation())

    def state(self) -> dict[str, Any]:
        return self.of.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.of.restore(state)


def radical_inverse(index: Tensor) -> Tensor:
    """The 32 bits of an index in reverse order: van der Corput's sequence in base 2, times 2³²; int64 to int64."""
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        index = (index >> width & mask) | ((index & mask) << width)
    return index


def create_times(config: str | Mapping[str, Any] | TimestepDistribution) -> TimestepDistribution:
    """A law of t by name, or by ``{"name": …, settings}`` as ``TimestepDistribution.to_dict`` writes it."""
    if isinstance(config, TimestepDistribution):
        return config
    settings = {"name": config} if isinstance(config, str) else dict(config)
    name = settings.pop("name", None)
    laws = {m.name.removeprefix("times/"): m.make for m in methods("objectives") if m.name.startswith("times/")}
    if name not in laws:
        raise unknown("law of t", str(name), laws)
    nested = {k: create_times(v) if k == "of" else v for k, v in settings.items()}
    try:
        law: TimestepDistribution = laws[name](**nested)
    except TypeError as error:
        raise UserError(f"law of t {name!r}: {error}") from None
    return law
