"""A solver whose grid and coefficients were learned for one model and one number of evaluations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import processes
from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, NetworkDenoiser
from ..distributions import Distribution, Noise
from ..guidance import Linear as Pooled
from ..processes import Process, ScalarGaussian, expand, power
from .loop import Sampler, State
from .moments import Moments, moments_of

FORMAT = 1
"""Version of the JSON; a reader refuses what it does not know."""

LARGEST = 64
"""Evaluations at most: a table has about n² numbers."""

ORDER, REACH, OFFSET = 4, 2, 0.1
"""Values that the untuned rule interpolates, the steps it takes again, and the share of the spread in its variable."""

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))


@dataclass(frozen=True)
class Table:
    r"""What is learned, with u = log σ/α.

    In coordinates along the directions of the data's covariance, of variance λ around the mean m, and with
    :math:`S = \sqrt{λ + e^{2u}}`, the flow of :math:`z = (x/α - m)/S` is

    .. math:: \frac{dz}{du} = W q, \quad W = \frac{e^{2u}}{S^3}, \quad
              q = -\frac{S^2}{e^{2u}} \Big(\hat x_0 - m - \frac{λ}{S} z\Big),

    and q, which is 0 for Gaussian data, is what the network adds. After i + 1 evaluations

    .. math:: z_{i+1} = z_0 + \sum_{j \le i} \big(T_{ij}(λ) + a_{ij} M_i(λ) + b_{ij} M_{i-1}(λ)\big) q_j

    where :math:`M_i = \int_i W du` is the step's own mass, :math:`M_{i-1}` that of the step before (of the way from the
    start to the first evaluation for i = 0), and T the integral of W under cubics in :math:`\log(σ/α + 0.1\,sd)`
    through four values, of which two come after the step where there are such.

    Attributes:
        start: u where the noise is drawn.
        nodes: u of the n evaluations, falling; the first is at or below ``start``.
        end: u where the samples stand; None for clean data.
        shifts: added to a node where the network is asked.
        own: a, row i with i + 1 numbers.
        before: b, likewise.
    """

    start: float
    nodes: tuple[float, ...]
    end: float | None
    shifts: tuple[float, ...]
    own: tuple[tuple[float, ...], ...]
    before: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if not 1 <= n <= LARGEST:
            raise UserError(f"nodes must be 1 to {LARGEST} numbers, got {n}")
        if len(self.shifts) != n:
            raise UserError(f"shifts must be {n} numbers, one a node, got {len(self.shifts)}")
        for name in ("own", "before"):
            lengths = [len(row) for row in getattr(self, name)]
            if lengths != list(range(1, n + 1)):
                raise UserError(f"{name} must be rows of 1, 2, …, {n} numbers, got rows of {lengths[:8]}")
        numbers = [self.start, *self.nodes, *self.shifts, *sum((*self.own, *self.before), ())]
        numbers += [] if self.end is None else [self.end]
        if not all(math.isfinite(v) and abs(v) < 1e6 for v in numbers):
            raise UserError("start, nodes, end, shifts, own and before must be finite numbers below 1e6 in size")
        falling = [*self.nodes, *([] if self.end is None else [self.end])]
        if self.start < falling[0] or any(b >= a for a, b in itertools.pairwise(falling)):
            raise UserError("start, nodes and end must fall")

    @property
    def nfe(self) -> int:
        """The number of evaluations n."""
        return len(self.nodes)

    def knots(self) -> Knots:
        """The same as tensors."""
        tensor = lambda v: torch.tensor(v, dtype=torch.float64)
        rows = lambda v: [tensor(row) for row in v]
        return Knots(self.start, tensor(self.nodes), self.end, tensor(self.shifts), rows(self.own), rows(self.before))


@dataclass(frozen=True, eq=False)
class Knots:
    """A ``Table`` in float64 tensors, so that it can be learned."""

    start: float
    nodes: Tensor
    end: float | None
    shifts: Tensor
    own: Sequence[Tensor]
    before: Sequence[Tensor]

    def table(self) -> Table:
        """The same as numbers."""
        rows = lambda v: tuple(tuple(row.tolist()) for row in v)
        return Table(
            self.start,
            tuple(self.nodes.tolist()),
            self.end,
            tuple(self.shifts.tolist()),
            rows(self.own),
            rows(self.before),
        )


def _lagrange(nodes: Sequence[Tensor], at: Tensor) -> Tensor:
    basis = []
    for j, own in enumerate(nodes):
        value = torch.ones_like(at)
        for k, other in enumerate(nodes):
            if k != j:
                value = value * (at - other) / (own - other)
        basis.append(value)
    return torch.stack(basis)


def _weights(knots: Knots, values: Tensor, spread: float) -> list[Tensor]:
    """The coefficients of q_0…q_i after each evaluation i, ``(i + 1, D)`` for variances ``(D,)``."""
    n, offset = len(knots.nodes), OFFSET * spread
    edges = [torch.tensor(knots.start, dtype=torch.float64), *knots.nodes]
    edges += [] if knots.end is None else [torch.tensor(knots.end, dtype=torch.float64)]
    inverse = [1 / torch.sqrt(values + torch.exp(2 * u)) for u in edges]
    inverse += [] if knots.end is not None else [1 / torch.sqrt(values)]
    mass = [a - b for a, b in itertools.pairwise(inverse)]  # ∫ W du = −Δ(1/S)
    places = torch.log(torch.exp(knots.nodes) + offset)
    points, measures = [], []
    for k in range(1, n + 1):
        if k < len(edges) - 1:
            a, b = edges[k], edges[k + 1]
            ratio = torch.exp((a + b) / 2 + (b - a) / 2 * _NODES)
            density = ratio**2
        else:  # down to clean data: in σ/α
            ratio = torch.exp(edges[k]) * (1 - _NODES) / 2
            density = ratio
        measure = _WEIGHTS[:, None] * density[:, None] / (values + ratio[:, None] ** 2) ** 1.5
        points.append(torch.log(ratio + offset))
        measures.append(measure * (mass[k] / measure.sum(0)))

    def share(k: int, high: int) -> Tensor:
        """∫ W l_j du of step k with ``high`` the newest of its values, ``(n, D)``."""
        low = max(0, high - ORDER + 1)
        basis = _lagrange(list(places[low : high + 1]), points[k]) @ measures[k]
        return pad(basis, (0, 0, low, n - 1 - high))

    # From the start to the first node as if q were its first value.
    settled = pad(mass[0][None], (0, 0, 0, n - 1))
    rows, ready = [], 0
    for i in range(n):
        while ready <= i and max(ready + REACH, ORDER - 1) <= i:  # no later value changes this step any more
            settled = settled + share(ready, max(ready + REACH, ORDER - 1))
            ready += 1
        row = settled
        for k in range(ready, i + 1):
            row = row + share(k, i)
        rows.append(row[: i + 1] + knots.own[i][:, None] * mass[i + 1] + knots.before[i][:, None] * mass[i])
    return rows


LEAST = 1e-3
"""The least variance of a direction, as a share of the mean one. A coordinate that never varies (a corner of a scan) is
known to a network only to its own error, which a Gaussian of no width would magnify by 1/σ."""


def broad(moments: Moments) -> Moments:
    """Moments without directions narrower than ``LEAST``."""
    least = LEAST * float(moments.values.mean())
    return moments if float(moments.values.min()) >= least else replace(moments, values=moments.values.clamp_min(least))


BINS = 256
"""Columns of coefficients at most: nearby variances share one."""


def _columns(values: Tensor) -> tuple[Tensor, Tensor]:
    """Variances that get a column of coefficients, and the column of each direction."""
    distinct, column = torch.unique(values, return_inverse=True)
    if len(distinct) <= BINS:
        return distinct, column
    level = torch.log(values)
    low, width = level.min(), (level.max() - level.min()) / (BINS - 1)
    column = ((level - low) / width).round().long()
    return torch.exp(low + width * torch.arange(BINS, dtype=torch.float64)), column


@dataclass(frozen=True, eq=False)
class Place:
    """A time, and there α m, A, and (c, d) of q = c z − d (x̂_0 − m): c = λ α A/σ², d = A²/σ²; 0 at clean data."""

    t: Tensor
    shift: Tensor
    scale: Tensor
    read: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, process: ScalarGaussian, u: Tensor | None, moments: Moments, device: torch.device) -> Place:
        """At u = log σ/α, differentiable in u; at clean data for None."""
        if u is None:
            t = torch.zeros((), dtype=torch.float64)
        else:
            t = process.time(-2 * u.detach())
            if u.requires_grad:
                # An inverse by bisection has no derivative; that of the function itself gives it.
                t = t - 2 * (u - u.detach()) / process.rate(process.log_snr, t).detach()
        alpha, sigma, values = process.alpha(t), process.sigma(t), moments.values
        scale = torch.sqrt(alpha**2 * values + sigma**2)
        read = (values * alpha * scale / sigma**2, (scale / sigma) ** 2) if u is not None else (values, values)
        return cls(t, (alpha * moments.mean).to(device), scale.to(device), (read[0].to(device), read[1].to(device)))


@dataclass(frozen=True, eq=False)
class Settled:
    """A table on a process and moments: numbers for each evaluation, differentiable in the knots.

    α and A = √(α²λ + σ²) stand for S = A/α, so that a process may have α = 0 at its start.

    Attributes:
        moments: of the Gaussian.
        mean: theirs, where the states are.
        rows: coefficients of q_0…q_i after evaluation i, ``(i + 1, D)``.
        asked: where the network is asked.
        ends: the times of the grid.
    """

    moments: Moments
    mean: Tensor
    rows: list[Tensor]
    asked: list[Place]
    ends: list[Place]

    @classmethod
    def of(cls, knots: Knots, process: ScalarGaussian, moments: Moments, device: torch.device) -> Settled:
        place = lambda u: Place.of(process, u, moments, device)
        low = float(-0.5 * process.log_snr(process.t_min))
        asked = (knots.nodes + knots.shifts).clamp(min(low, knots.start), knots.start)
        grid = [torch.tensor(knots.start, dtype=torch.float64), *knots.nodes[1:]]
        ends = [place(u) for u in grid]
        ends.append(place(None if knots.end is None else torch.tensor(knots.end, dtype=torch.float64)))
        values, column = _columns(moments.values)
        rows = [row[:, column].to(device) for row in _weights(knots, values, moments.spread)]
        return cls(moments, moments.mean.to(device), rows, [place(u) for u in asked], ends)

    def along(self, x: Tensor, i: int) -> Tensor:
        """z of a state at the i-th time of the grid."""
        here = self.ends[i]
        return self.moments.basis.to(x.reshape(x.shape[0], -1) - here.shift) / here.scale

    def state(self, z: Tensor, i: int, shape: Sequence[int]) -> Tensor:
        """The state there."""
        here = self.ends[i]
        return (self.moments.basis.back(z * here.scale) + here.shift).reshape(z.shape[0], *shape)

    def ask(self, z: Tensor, i: int, denoiser: Denoiser, shape: Sequence[int]) -> tuple[Tensor, Distribution]:
        """q_i, and the belief it is read off: what is asked is z where the i-th evaluation stands."""
        here = self.asked[i]
        x = self.moments.basis.back(z * here.scale) + here.shift
        belief = denoiser(x.reshape(z.shape[0], *shape), here.t)
        told = self.moments.basis.to(belief.mean.reshape(z.shape[0], -1).to(z.dtype) - self.mean)
        return torch.addcmul(z * here.read[0], told, here.read[1], value=-1), belief

    def move(self, start: Tensor, values: Sequence[Tensor], i: int) -> Tensor:
        """z after evaluation i, of z at the start and the values so far."""
        z = start
        for weight, value in zip(self.rows[i], values):
            z = torch.addcmul(z, value, weight)
        return z


@dataclass(frozen=True, eq=False)
class Memory:
    """z at the start, the values so far, the state they led to and its z."""

    start: Tensor
    values: tuple[Tensor, ...]
    x: Tensor
    z: Tensor


@dataclass(frozen=True)
class Use:
    """What a table was learned for: it is picked where all of this is so.

    Attributes:
        process: of the model.
        guidance_scale: w.
        label: ``in turn`` for labels of all classes, a label for that one alone, None for no label.
        moments: (spread, largest) of the moments that travel with the model, or None.
        assumed: (mean, variance) of every coordinate where the model has none.
        errors: (before, after), medians over held-out noises: of the default sampler and of this one.
        made: how it was learned, as plain JSON.
    """

    process: Process
    guidance_scale: float = 1.0
    label: int | str | None = None
    moments: tuple[float, float] | None = None
    assumed: tuple[float, float] | None = None
    errors: tuple[float, float] | None = None
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)


@register(
    "samplers",
    "tuned",
    title="Learned for a model and a number of evaluations",
    arxiv="2403.01329",
    proof="exact: tests/samplers/test_tuned.py, tests/training/test_tuning.py",
)
@dataclass(frozen=True)
class Tuned(Sampler):
    r"""A non-stationary linear solver with a grid and coefficients of its own for every step.

    The family of Shaul et al. (2024, arXiv:2403.01329 §3), in which every step has its own coefficients on all earlier
    values, here around the flow of the data's Gaussian (:class:`Table` has the equations). It is learned by
    ``langevin.training.tune``, and takes the grid it was learned with and no other.

    Without a table it is what all tables start from at one evaluation: the Gaussian remainder at order 1, on any grid,

    .. math:: z_s = z_t + \left(\tfrac1{S_t} - \tfrac1{S_s}\right) q_t.

    Args:
        table: what was learned.
        use: for what.
    """

    table: Table | None = None
    use: Use | None = None

    def __repr__(self) -> str:
        if self.table is None:
            return "Tuned()"
        guided = "" if self.use is None or self.use.guidance_scale == 1 else f", guidance {self.use.guidance_scale:g}"
        return f"Tuned({self.table.nfe} evaluations{guided})"

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "a tuned solver")
        if self.use is not None and process != self.use.process:
            raise UserError(f"sampler must be one tuned for {process}, got one for {self.use.process}")

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        if self.table is None:
            return None
        if steps != self.table.nfe:
            raise UserError(f"steps must be {self.table.nfe}, for which this sampler was tuned, got {steps}")
        gaussian: ScalarGaussian = power(process, ScalarGaussian, "a tuned solver")
        inner = [gaussian.t_max, *gaussian.time(-2 * torch.tensor(self.table.nodes[1:], dtype=torch.float64)).tolist()]
        end = 0.0 if self.table.end is None else float(gaussian.time(-2 * self.table.end))
        return torch.tensor([*inner, end], dtype=torch.float64)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        if self.table is None:
            return self
        self.check(process)
        own = self.default_grid(process, self.table.nfe)
        assert own is not None
        if len(grid) != len(own) or not torch.allclose(grid, own, rtol=1e-9, atol=1e-12):
            raise UserError(
                f"grid must be that of the table, {[round(t, 6) for t in own.tolist()][:8]}, got "
                f"{[round(t, 6) for t in grid.tolist()][:8]}; leave out grid, or name another sampler"
            )
        return Planned(self, tuple(grid.tolist()))

    def of(self, denoiser: Denoiser) -> Moments:
        """The moments of the table's Gaussian."""
        size = math.prod(denoiser.shape)
        if self.use is not None and self.use.assumed is not None:
            mean, variance = (torch.full((size,), v, dtype=torch.float64) for v in self.use.assumed)
            return Moments(mean, variance, spectral=False)
        known = moments_of(denoiser, of_class=self.use is None or self.use.label != "in turn")
        if self.use is not None and self.use.moments is not None:
            if known is None:
                raise UserError("a tuned sampler needs the moments of the data, which this model does not carry")
            if not all(
                math.isclose(a, b, rel_tol=1e-6) for a, b in zip(self.use.moments, (known.spread, known.largest))
            ):
                raise UserError(f"a tuned sampler was learned with other moments of the data than {known}; tune again")
        return Moments.unknown(size) if known is None else broad(known)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process: ScalarGaussian = power(denoiser.process, ScalarGaussian, "a tuned solver")
        moments, x = self.of(denoiser), state.x
        flat = x.reshape(x.shape[0], -1)
        mean, variance = moments.mean.to(flat), moments.values.to(flat)
        (a, b), (c, d) = [(expand(process.alpha(t), flat), expand(process.sigma(t), flat)) for t in (state.t, s)]
        here, there = torch.sqrt(a**2 * variance + b**2), torch.sqrt(c**2 * variance + d**2)
        belief = denoiser(x, state.t)
        z = moments.basis.to(flat - a * mean) / here
        told = moments.basis.to(belief.mean.reshape(flat.shape).to(flat) - mean)
        # From clean data nothing is known of q, which there is a limit.
        ratio = torch.where(b == 0, 0.0, here / torch.where(b == 0, 1.0, b)) ** 2
        q = (variance * a * z / here - told) * ratio
        moved = moments.basis.back((z + (a / here - c / there) * q) * there) + c * mean
        return State(moved.reshape(x.shape), s, None, belief)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        if self.table is None or self.use is None:
            raise UserError("only a sampler that was tuned for a model can be written")
        use = self.use
        return {
            "langevin": FORMAT,
            "kind": "tuned-sampler",
            "nfe": self.table.nfe,
            "process": use.process.to_dict(),
            "guidance_scale": use.guidance_scale,
            "label": use.label,
            "moments": None if use.moments is None else dict(zip(("spread", "largest"), use.moments)),
            "assumed": None if use.assumed is None else dict(zip(("mean", "variance"), use.assumed)),
            "errors": None if use.errors is None else dict(zip(("before", "after"), use.errors)),
            "made": dict(use.made),
            **{f.name: _plain(getattr(self.table, f.name)) for f in fields(Table)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuned:
        """The inverse of ``to_dict``; nothing in it is executed, and anything unexpected is refused.

        Raises:
            UserError: naming the key.
        """
        if values.get("langevin") != FORMAT or values.get("kind") != "tuned-sampler":
            raise UserError(
                f"langevin and kind must be {FORMAT} and 'tuned-sampler', got {values.get('langevin')!r} and "
                f"{values.get('kind')!r}"
            )
        known = {"langevin", "kind", "nfe", "errors", "made", *_USED, *(f.name for f in fields(Table))}
        for what, keys in (("lacks", known - values.keys()), ("has unknown", values.keys() - known)):
            if keys:
                raise UserError(f"a tuned sampler {what} {', '.join(sorted(keys))}")
        numbers = {f.name: _numbers(f.name, values[f.name]) for f in fields(Table) if f.name not in ("own", "before")}
        for name in ("own", "before"):
            rows = values[name]
            if not isinstance(rows, (list, tuple)) or len(rows) > LARGEST:
                raise UserError(f"{name} must be a list of at most {LARGEST} rows")
            numbers[name] = tuple(_numbers(name, row) for row in rows)
        for name in ("nodes", "shifts"):
            if not isinstance(numbers[name], tuple):
                raise UserError(f"{name} must be a list of numbers, got {values[name]!r}")
        for name in ("start", "end"):
            if isinstance(numbers[name], tuple) or (numbers[name] is None and name == "start"):
                raise UserError(f"{name} must be a number, got {values[name]!r}")
        if any(not isinstance(row, tuple) for name in ("own", "before") for row in numbers[name]):
            raise UserError("own and before must be lists of rows")
        table = Table(**numbers)
        if values["nfe"] != table.nfe:
            raise UserError(f"nfe must be the number of nodes, {table.nfe}, got {values['nfe']!r}")
        label, scale = values["label"], _numbers("guidance_scale", values["guidance_scale"])
        if not (label is None or label == "in turn" or (type(label) is int and label >= 0)):
            raise UserError(f"label must be 'in turn', an index or null, got {label!r}")
        if not isinstance(scale, float):
            raise UserError(f"guidance_scale must be a number, got {values['guidance_scale']!r}")
        pairs = {
            "moments": _pair(values, "moments", ("spread", "largest")),
            "assumed": _pair(values, "assumed", ("mean", "variance")),
            "errors": _pair(values, "errors", ("before", "after")),
        }
        if (pairs["moments"] is None) == (pairs["assumed"] is None):
            raise UserError("one of moments and assumed must be given, the other null")
        if pairs["assumed"] is not None and not pairs["assumed"][1] > 0:
            raise UserError(f"assumed must have a variance > 0, got {pairs['assumed'][1]}")
        if not isinstance(values["process"], Mapping) or not isinstance(values["made"], Mapping):
            raise UserError("process and made must be JSON objects")
        process = processes.create(dict(values["process"]))
        return cls(table, Use(process, scale, label, made=dict(values["made"]), **pairs))


_USED = ("process", "guidance_scale", "label", "moments", "assumed")


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _numbers(name: str, value: Any) -> Any:
    """A number, a tuple of numbers or None."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        if len(value) > LARGEST or any(isinstance(v, (list, tuple)) or v is None for v in value):
            raise UserError(f"{name} must be at most {LARGEST} numbers a row")
        return tuple(_numbers(name, v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name} must hold finite numbers, got {value!r}")
    return float(value)


def _pair(values: Mapping[str, Any], name: str, keys: tuple[str, str]) -> tuple[float, float] | None:
    held = values[name]
    if held is None:
        return None
    if not isinstance(held, Mapping) or set(held) != set(keys):
        raise UserError(f"{name} must be an object of {keys[0]} and {keys[1]}, got {held!r}")
    pair = tuple(_numbers(f"{name}.{key}", held[key]) for key in keys)
    if not all(isinstance(v, float) for v in pair):
        raise UserError(f"{name} must hold numbers, got {held!r}")
    return pair


@dataclass(frozen=True, eq=False)
class Planned(Sampler):
    """A tuned sampler on its own grid. A step taken elsewhere, or without the values before it, is of order 1.

    The coefficients for the model that was asked last are kept, as one tuple with all that they depend on beside the
    grid: they change no sample, whatever models and threads share this object.
    """

    sampler: Tuned
    grid: tuple[float, ...]
    _last: tuple[Denoiser, torch.device, Settled] | None = field(default=None, init=False, repr=False)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.sampler.plan(process, grid)

    def settled(self, denoiser: Denoiser, device: torch.device) -> Settled:
        """The coefficients, computed when a step first sees the model."""
        last = self._last
        if last is not None and last[0] is denoiser and last[1] == device:
            return last[2]
        assert self.sampler.table is not None
        moments = self.sampler.of(denoiser)
        process: ScalarGaussian = power(denoiser.process, ScalarGaussian, "a tuned solver")
        found = Settled.of(self.sampler.table.knots(), process, moments, device)
        object.__setattr__(self, "_last", (denoiser, device, found))
        return found

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memory: Memory | None = state.memory
        i = 0 if memory is None else len(memory.values)
        ours = i < len(self.grid) - 1 and not (state.t.ndim or s.ndim)
        if not ours or float(state.t) != self.grid[i] or float(s) != self.grid[i + 1]:
            return self.sampler.step(state, s, denoiser, noise)
        shape, on = state.x.shape[1:], self.settled(denoiser, state.x.device)
        z = memory.z if memory is not None and memory.x is state.x else on.along(state.x, i)
        q, belief = on.ask(z, i, denoiser, shape)
        start, values = (z, (q,)) if memory is None else (memory.start, (*memory.values, q))
        moved = on.move(start, values, i)
        x = on.state(moved, i + 1, shape)
        return State(x, s, Memory(start, values, x, moved), belief)


def found(denoiser: Denoiser, steps: int) -> Tuned | None:
    """The tuned sampler that travels with a model, for so many steps and the guidance that is asked for; or None."""
    bare, scale = denoiser, 1.0
    if isinstance(denoiser, Pooled):
        if len(denoiser.parts) != 2 or not math.isclose(sum(denoiser.weights), 1.0):
            return None
        (plain, bare), scale = denoiser.parts, denoiser.weights[1]
        same = isinstance(plain, NetworkDenoiser) and isinstance(bare, NetworkDenoiser)
        if not same or plain.network is not bare.network or "label" in plain.bound:  # type: ignore[attr-defined]
            return None
    if not isinstance(bare, NetworkDenoiser):
        return None
    label = bare.bound.get("label")
    for sampler in bare.tuned:
        use = sampler.use
        if sampler.table.nfe != steps or use.process != denoiser.process:
            continue
        if not math.isclose(use.guidance_scale, scale) or (use.label is None) != (label is None):
            continue
        if isinstance(use.label, int) and label is not None and not bool((label == use.label).all()):
            continue
        chosen: Tuned = sampler
        return chosen
    return None
