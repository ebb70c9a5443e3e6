"""A network, read as a belief."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, check_instance, shown, unknown
from ..distributions import Distribution
from ..processes import DDPM, Process, ScalarGaussian, as_time, check_process, expand
from ..storage.untrusted import room
from .base import Denoiser, EvaluationCounter, LearnedFor
from .conditioned import Conditioned
from .footprint import footprint
from .parameterization import TIME_INPUTS, AffineParameterization, Parameterization, TimeInputs, Variance


def _range(process: Process, parameterization: Parameterization, raw: Tensor, t: Tensor) -> Tensor:
    r"""Improved DDPM's learned range (arXiv:2102.09672 eq. 15) as a belief variance, at the table's own stride.

    The network gives :math:`v \in [-1, 1]` between log β̃ and log β of one step of the table; a process without one is
    taken as its table of 1000 equal steps of t. A step's variance is :math:`\tildeβ + a^2 C` with a the bridge's
    coefficient of x_0, so :math:`C = (Σ - \tildeβ) / a^2`, and then any stride follows from ``reverse``.
    """
    assert isinstance(process, ScalarGaussian)
    stride = 1 / _table(process)
    t = t.clamp_min(stride)
    s = t - stride
    a, _, small = process.bridge_coefficients(t, s)
    # β, the variance of the noise that the step adds.
    beta = -process.sigma2(t) * torch.expm1(torch.where(s > 0, process.log_snr(t) - process.log_snr(s), -torch.inf))
    # The first step has β̃ = 0: its range starts at the second step's β̃, as in the paper's code.
    second = process.bridge_coefficients(2 * stride, stride)[2] if stride < 1 else beta
    floor = torch.where(s < stride, torch.maximum(small, second), small)
    fraction = (raw + 1) / 2
    log_low, log_high = expand(torch.log(floor), raw), expand(torch.log(beta), raw)
    total = torch.exp(fraction * log_high + (1 - fraction) * log_low)
    return ((total - expand(small, raw)) / expand(a**2, raw)).clamp_min(0)


def _table(process: Process) -> int:
    """Steps of the table that a learned range stands on."""
    return process.steps if isinstance(process, DDPM) else 1000


def _posterior(process: Process, parameterization: Parameterization, raw: Tensor, t: Tensor) -> Tensor:
    r"""exp(raw) times :math:`σ^2 σ_d^2 / (σ^2 + α^2 σ_d^2)`, the posterior variance of normal data with std σ_d."""
    assert isinstance(process, ScalarGaussian)
    assert isinstance(parameterization, AffineParameterization)
    std = parameterization.sigma_data
    alpha2, sigma2 = process.alpha(t) ** 2, process.sigma(t) ** 2
    return torch.exp(raw) * expand(sigma2 * std**2 / (sigma2 + alpha2 * std**2), raw)


VARIANCES: dict[str, Variance] = {"range": _range, "posterior": _posterior}
"""What a second set of output channels says of the variance of x_0."""


KEPT = 4096
"""Times whose coefficients are kept."""


FREE, PAIRS = 2**16, 2**24
"""Numbers of a batch, and those times the numbers of an event (attention has all pairs), that fit into any memory."""

_FITS: weakref.WeakKeyDictionary[nn.Module, dict[bool, int]] = weakref.WeakKeyDictionary()
"""Numbers of the largest batch that is known to fit, by network, and whether it learns."""


@dataclass(frozen=True, eq=False, repr=False)
class NetworkDenoiser(Conditioned):
    """The belief of ``network(x, time, condition)``, as its parameterization says.

    An ``AffineParameterization`` makes it a Dirac at x̂_0, or a normal law if the network gives a variance too; a
    ``TokenParameterization`` a law of tokens. The network is asked in its own dtype and the belief has that of x_t; the
    sampling loop keeps states in the network's dtype, float32 at least.

    Args:
        network: takes ``(B, *event)`` in its own dtype, a time input ``(B,)`` in float32 at least, and a mapping of
            conditions; returns the channels that ``parameterization.network_shapes`` says, or twice as many with
            ``variance``.
        process: one that the parameterization takes: for ``AffineParameterization`` a scalar-Gaussian process.
        parameterization: how the network is asked and its output read as a belief.
        shape: event shape of the data.
        variance: None, or a row of ``VARIANCES`` that reads the second half of the channels.
        data: the description of the data that travels with the model.
        condition: what is bound, a tensor a name.
        counter: where evaluations are counted.
        config: how the model was made, as plain JSON.
        solvers: samplers learned for this model, that travel with it.
        learned_variances: variances learned for this model, by name: functions from a denoiser to one with its mean.
        class_label: the label, if one is bound for all samples.
    """

    network: nn.Module
    process: Process
    parameterization: Parameterization = field()  # no default
    shape: tuple[int, ...]
    variance: str | None = None
    data: Any = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)
    config: Mapping[str, Any] = field(default_factory=dict)
    solvers: tuple[LearnedFor, ...] = ()
    learned_variances: Mapping[str, Callable[[Denoiser], Denoiser]] = field(default_factory=dict)
    class_label: int | None = None
    _first: Tensor = field(init=False, repr=False)
    _out: tuple[int, ...] = field(init=False, repr=False)
    _state: tuple[int, ...] = field(init=False, repr=False)
    _kept: dict[float, TimeInputs] = field(init=False, repr=False)
    _free: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise UserError(
                f"network must be a torch.nn.Module, got {shown(self.network)}; langevin.denoiser(network, process=…, "
                "prediction=…, shape=…) wraps any function"
            )
        check_process(self.process)
        check_instance(
            "parameterization",
            self.parameterization,
            Parameterization,
            "one such as langevin.denoisers.AffineParameterization('eps')",
        )
        sizes = isinstance(self.shape, Sequence) and all(type(n) is int and n > 0 for n in self.shape)
        if not sizes or not self.shape:
            raise UserError(f"shape must be a tuple of positive integers, that of one datum, got {shown(self.shape)}")
        self.parameterization.check(self.process)
        if self.variance is not None and not (self.parameterization.has_variance and self.variance in VARIANCES):
            raise unknown("variance", self.variance, VARIANCES if self.parameterization.has_variance else ())
        if self.variance == "range" and self.process.t_min * _table(self.process) < 0.999:
            raise UserError(
                f"variance 'range' is of one step of a table; 1000 equal steps of t miss most of {self.process}, whose "
                "noise is in smaller times; use 'posterior'"
            )
        object.__setattr__(self, "shape", tuple(self.shape))
        first = next(self.network.parameters(), None)
        object.__setattr__(self, "_first", torch.zeros(()) if first is None else first)
        given, channels = self.parameterization.network_shapes(self.process, self.shape)
        object.__setattr__(self, "_out", (channels * (2 if self.variance else 1), *given[1:]))
        object.__setattr__(self, "_state", self.process.state_shape(self.shape))
        object.__setattr__(self, "_kept", {})
        object.__setattr__(self, "_free", min(FREE, PAIRS // max(1, math.prod(self.shape))))

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        bound = f", given {', '.join(self.condition)}" if self.condition else ""
        about = f" of {self.data}" if self.data is not None else ""
        return (
            f"NetworkDenoiser({type(self.network).__name__} {count / 1e6:.2f} M, shape={self.shape}, "
            f"{self.process}, {self.parameterization.prediction}{bound}){about}"
        )

    def rows(self, index: slice | Tensor) -> NetworkDenoiser:
        some = super().rows(index)
        object.__setattr__(some, "_kept", self._kept)
        return some

    def learned_solvers(self, guidance_scale: float = 1.0) -> tuple[LearnedFor, ...]:
        return tuple(solver for solver in self.solvers if solver.fits(self, guidance_scale))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        now = self._at(t)
        x, c_noise = self._prepare(x_t, now)
        given = self._given(len(x))
        if x.numel() > self._free:
            self._fits(x, c_noise, given)
        try:
            out = self.network(x, c_noise, given)
        except TypeError as error:
            raise self._explained(error) from error
        self.counter.calls += 1
        return self._belief(out, x_t, now)

    def _at(self, t: Tensor | float) -> TimeInputs:
        """What depends on time alone; for one time of all samples it is computed once and kept."""
        if isinstance(t, Tensor) and (t.ndim or t.requires_grad or not t.is_cpu):
            return self._inputs(as_time(t))
        number = t if type(t) is float else float(as_time(t))
        found = self._kept.get(number)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            found = self._kept[number] = self._inputs(as_time(number)).numbers()
        return found

    def _inputs(self, t: Tensor) -> TimeInputs:
        # Half precision tells 999 from 1000 no more: time inputs are float32 at least.
        c_noise = TIME_INPUTS[self.parameterization.time](self.process, t)
        c_noise = c_noise.to(self.device, torch.promote_types(self.dtype, torch.float32))
        return self.parameterization.inputs(self.process, t, c_noise)

    def _prepare(self, x_t: Tensor, now: TimeInputs) -> tuple[Tensor, Tensor]:
        """What the network is given of states, and its time input ``(B,)``."""
        if not isinstance(x_t, Tensor):
            raise UserError(f"x_t must be a tensor of states (B, *state), got {shown(x_t)}")
        if x_t.shape[1:] != self._state or not x_t.ndim:
            raise UserError(f"x_t must have shape (B, {', '.join(map(str, self._state))}), got {tuple(x_t.shape)}")
        x = self.parameterization.precondition(self.process, x_t, now)
        if x.dtype is not self._first.dtype:
            x = x.to(self._first.dtype)
        return x, now.c_noise.expand(len(x))

    def _belief(self, out: Any, x_t: Tensor, now: TimeInputs) -> Distribution:
        """The belief of the network's output."""
        if not isinstance(out, Tensor):
            raise UserError(
                f"network must return a tensor, got {type(out).__name__}; langevin.denoiser(network, process=…, "
                "prediction=…, shape=…) wraps networks that return something else, as those of diffusers do"
            )
        if out.shape != (len(x_t), *self._out):
            raise UserError(f"network must return {self._out} a sample, got {tuple(out.shape[1:])}")
        variance = None if self.variance is None else VARIANCES[self.variance]
        return self.parameterization.to_belief(self.process, out, x_t, now, variance)

    def _explained(self, error: TypeError) -> Exception:
        """A network that takes other arguments, told as the mistake it is; other errors as they are."""
        foreign = getattr(self.network, "foreign", False)  # whose callers are told by langevin.denoiser itself
        if foreign or "positional argument" not in str(error):
            return error
        return UserError(
            f"network must take (x, time, condition), which {type(self.network).__name__} does not; "
            "langevin.denoiser(network, process=…, prediction=…, shape=…) wraps networks that take something else"
        )

    def check_memory(self, batch: int, *, learning: bool = False) -> None:
        """Refuse a batch that the network has no memory for, before any of it is taken.

        Args:
            batch: events that are asked for at a time.
            learning: with gradients, which keep all that lies between the layers.

        Raises:
            UserError: with both numbers.
        """
        given = self.parameterization.network_shapes(self.process, self.shape)[0]
        x = torch.empty((batch, *given), dtype=self.dtype, device="meta")
        condition = {name: self._without_content(name, batch) for name in self.conditions()}
        self._fits(x, torch.empty(batch, device="meta"), condition, learning)

    def _fits(
        self, x: Tensor, c_noise: Tensor, condition: Mapping[str, Tensor] | None, learning: bool | None = None
    ) -> None:
        """``check_memory`` of a batch at hand, once for a network and the largest batch."""
        if not getattr(self.network, "computes_only", False):
            return  # it may do more when it is called than compute, or keep tensors that are not its parameters
        if learning is None:
            learning = torch.is_grad_enabled() and self._first.requires_grad
        known = _FITS.setdefault(self.network, {})
        if x.numel() <= known.get(learning, 0):
            return
        size = footprint(self.network, x, c_noise, condition or {}, learning=learning)
        there = torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else None
        what = f"{len(x)} × {tuple(x.shape[1:])} in the network{' with its gradients' if learning else ''}"
        room(size, what, there)
        known[learning] = x.numel()


def batched(denoisers: Sequence[Denoiser], x_t: Tensor, t: Tensor | float) -> list[Distribution]:
    """The beliefs of several denoisers about the same states; those that share a network get one call."""
    denoisers = [d.belief_of for d in denoisers]
    members = [d for d in denoisers if isinstance(d, NetworkDenoiser)]
    alike = len(members) == len(denoisers) > 1 and all(
        d.network is members[0].network
        and d.process == members[0].process
        and d.parameterization == members[0].parameterization
        and d.variance == members[0].variance
        for d in members
    )
    if not alike:
        return [d(x_t, t) for d in denoisers]
    first = members[0]
    batch, copies = x_t.shape[0], len(members)
    bound = [pair for d in members for pair in d.condition.items()]
    samples = dict(sorted(bound, key=lambda pair: pair[1].shape[1:]))  # one of each condition, the longest
    given = {name: torch.cat([d._expanded(name, batch, like) for d in members]) for name, like in samples.items()}
    now = first._at(t)
    several = first._at(t.repeat(copies)) if isinstance(t, Tensor) and t.ndim else now
    x, c_noise = first._prepare(x_t.repeat(copies, *[1] * (x_t.ndim - 1)), several)
    if x.numel() > first._free:
        first._fits(x, c_noise, given)
    out = first.network(x, c_noise, given or None)
    for d in {id(d.counter): d for d in members}.values():
        d.counter.calls += sum(m.counter is d.counter for m in members)
    return [first._belief(part, x_t, now) for part in out.chunk(copies)]
