"""What a process answers, and the powers it may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_numbers, shown
from ..distributions import Compound, Distribution


def as_time(t: Tensor | float, name: str = "t") -> Tensor:
    """Times as float64, ``()`` or ``(B,)``, checked to be finite numbers in [0, 1] where that costs nothing."""
    if isinstance(t, Tensor):
        return t if t.dtype == torch.float64 else t.to(torch.float64)
    try:
        inside = 0.0 <= t <= 1.0 and t is not True
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise UserError(f"{name} must be a time in [0, 1] (0 is data, 1 is noise), got {shown(t)}")
    return torch.tensor(t, dtype=torch.float64)


def check_times(**times: Tensor | float) -> tuple[Tensor, ...]:
    """``as_time`` of what a caller gave, with a look at every time; not on an accelerator, which would have to wait."""
    found = tuple(as_time(t, name) for name, t in times.items())
    for name, t in zip(times, found):
        if t.is_cpu and (outside := t[~((t >= 0) & (t <= 1))]).numel():
            raise UserError(f"{name} must hold times in [0, 1] (0 is data, 1 is noise), got {float(outside[0])}")
    return found


def check_eta(eta: float) -> None:
    """Refuse a share of noise outside [0, 1]."""
    check_numbers(eta=eta)
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must lie in [0, 1], got {eta}")


def one_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a batch of one, of data of an event shape."""
    if not isinstance(shape, Sequence) or not all(type(n) is int and n > 0 for n in shape):
        raise UserError(f"shape must be a tuple of positive integers, that of one datum, got {shown(shape)}")
    return (1, *shape)


def expand(c: Tensor, x: Tensor) -> Tensor:
    """A coefficient per sample, ``()`` or ``(B,)``, shaped to multiply x ``(B, *event)`` along the batch alone.

    The one place where times meet events: a batch whose size equals the width of x must not broadcast along the width.
    The coefficient takes the dtype and device of a floating x, so float64 arithmetic on times does not promote a
    network's input.
    """
    if not isinstance(x, Tensor):
        raise UserError(f"x must be a tensor (B, *event), got {shown(x)}")
    dtype = x.dtype if x.is_floating_point() else c.dtype
    c = c.to(device=x.device, dtype=dtype)
    if c.ndim == 0:
        return c
    if c.ndim != 1 or c.shape[0] not in (1, x.shape[0]):
        raise UserError(f"t must have shape () or ({x.shape[0]},) for a batch of {x.shape[0]}, got {tuple(c.shape)}")
    return c.reshape(-1, *[1] * (x.ndim - 1))


class Process(ABC):
    """A forward noising q: how data become noise as t goes from 0 to 1.

    States have shape ``(B, *state)``, times ``()`` or ``(B,)`` in [0, 1] with 0 the data.
    """

    discrete: ClassVar[bool] = False
    """Whether states are integers."""

    @property
    def t_min(self) -> float:
        """The smallest time at which a denoiser is usefully asked; a grid's last step goes from there to 0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The largest time of finite signal-to-noise ratio that a logarithmic grid starts from."""
        return 1.0

    def state_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a state of data of an event shape."""
        return tuple(shape)

    @abstractmethod
    def prior(self, shape: tuple[int, ...]) -> Distribution:
        """The law of the state at t = 1, for data of the event shape ``shape``, as a batch of one."""

    @abstractmethod
    def marginal(self, x0: Tensor, t: Tensor | float) -> Distribution:
        """q(x_t | x_0)."""

    @abstractmethod
    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Distribution:
        """q(x_t | x_s) for s ≤ t."""

    @abstractmethod
    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Distribution:
        """q_η(x_s | x_t, x_0): every η in [0, 1] has the marginals of q; η = 1 is q itself, η = 0 has no noise."""

    def reverse(
        self, x_t: Tensor, belief: Distribution, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> Distribution:
        """E_belief[q_η(x_s | x_t, x_0)]: the bridge, integrated over a belief about x_0."""
        return Compound(belief, lambda x0: self.bridge(x_t, x0, t, s, eta))

    def read(self, x: Tensor) -> Tensor:
        """Data out of a state: the state itself, unless it carries more (a velocity)."""
        return x

    def given(self, endpoint: Tensor | None = None) -> Process:
        """The process pinned to an endpoint; the identity for a process without one."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The process as plain JSON: the registry's name and its settings."""
        from .._registry import name_of

        name = name_of("processes", type(self))
        if name is None:
            raise UserError(f"{type(self).__name__} is not registered as a process, so it has no name to be written by")
        fields = getattr(self, "__dataclass_fields__", {}).items()
        return {"name": name, **{k: getattr(self, k) for k, f in fields if f.init}}


@dataclass(frozen=True, eq=False)
class Observation:
    """What a state says about the data, reduced to y = a·x_0 + r·ε: q(x_t | x_0) = exp(log_c) N(y; a x_0, r² I).

    Args:
        y: ``(B, *data)``.
        a, r: per sample, ``()`` or ``(B,)``, r ≥ 0.
        log_c: ``()`` or ``(B,)``.
    """

    y: Tensor
    a: Tensor
    r: Tensor
    log_c: Tensor


@runtime_checkable
class Observable(Protocol):
    """A process whose state is a Gaussian look at the data: exact worlds of Gaussians work on it in closed form."""

    def observe(self, x_t: Tensor, t: Tensor | float) -> Observation:
        """The sufficient statistic of x_t for x_0."""
        ...


@runtime_checkable
class SignalToNoise(Protocol):
    """A process whose state is as good as y = α x_0 + σ ε: the log-SNR of that look, which falls, and its inverse."""

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log α²/σ²; +∞ at t = 0."""
        ...

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``; values outside its range give 0 or 1."""
        ...


@runtime_checkable
class ProbabilityFlow(Protocol):
    """A process with a deterministic flow that has the same marginals."""

    def velocity(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        """dx/dt of the probability flow under a belief about x_0."""
        ...


@runtime_checkable
class Score(Protocol):
    """A process in which a belief about x_0 gives the score of p_t."""

    def score(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        """∇ log p_t(x_t) = E_belief[∇ log q(x_t | x_0)]."""
        ...


def check_process(process: object) -> None:
    """Refuse anything that is not a process, such as a class or a name."""
    check_instance("process", process, Process, "a process such as langevin.processes.VP()")


Q = TypeVar("Q")


def require(process: Process, protocol: type[Q], needed_by: str) -> Q:
    """The process, checked to have a power; the error names the power and who asked for it."""
    check_process(process)
    if not isinstance(process, protocol):
        members = ", ".join(
            sorted(n for n in vars(protocol) if not n.startswith("_") and callable(getattr(protocol, n)))
        )
        raise UserError(f"{needed_by} needs a process with `{members}`, which {type(process).__name__} does not have")
    return process
