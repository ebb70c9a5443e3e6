"""How many evaluations a path needs: its error estimated from a few probes, by the solver's own second look."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from ..denoisers import Transform
from ..distributions import Distribution
from ..numerics.frame import DataMoments

PROBES, RANK = 12, 8
"""Paths that are looked at, and which of their errors, in rising order, is the estimate.

The 8th of 12 lies at or above the median of all paths with probability P(Bin(12, ½) ≤ 7) = 0.81."""

MOST = 64
"""Evaluations at most."""

LEAST_ORDER, LARGEST_ORDER = 1.0, 8.0
"""Between which an order that was measured is believed."""

FINE = 10
"""The fewest evaluations are known to one in so many."""

Probe = Callable[[int], tuple[Tensor, int]]
"""Steps to the ends of the probes' paths, ``(P, *shape)``, and the evaluations that each took."""


@dataclass(frozen=True)
class Chosen:
    """A number of steps, and why.

    Args:
        steps: the fewest whose estimated error is at most what was asked.
        evaluations: of the denoiser, that a sample with these steps takes.
        error: the estimate: half of all paths have at most this error, with a probability of 0.81. The error of a
            path is the root mean square over coordinates of its distance to the model's own converged path, in units of
            the data's standard deviation.
        tolerance: what was asked.
        order: of convergence, as it was measured; the error falls with the steps to this power.
        tried: the estimate by number of steps, for all that were tried.
        probes: paths that were looked at.
        spent: evaluations of the denoiser for each probe.
    """

    steps: int
    evaluations: int
    error: float
    tolerance: float
    order: float
    tried: Mapping[int, float] = field(default_factory=dict)
    probes: int = PROBES
    spent: int = 0

    def __str__(self) -> str:
        return (
            f"{self.evaluations} evaluations: the estimated error of the path is {self.error:.2g} standard deviations "
            f"of the data ({self.tolerance:g} asked; {self.probes} probes of {self.spent} evaluations each)"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        tried = {str(steps): error for steps, error in sorted(self.tried.items()) if math.isfinite(error)}
        return {**vars(self), "tried": tried, "order": round(self.order, 3)}


@dataclass(eq=False)
class Count:
    """A number that is counted up."""

    calls: int = 0


@dataclass(frozen=True, eq=False)
class Counted(Transform):
    """The same belief, which counts how often it is asked."""

    count: Count = field(default_factory=Count)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        self.count.calls += 1
        return self.base(x_t, t)

    @property
    def calls(self) -> int:
        """Evaluations until now."""
        return self.count.calls


def check_tolerance(tolerance: float) -> float:
    """A finite number above 0.

    Raises:
        UserError: for anything else.
    """
    check_numbers(tolerance=tolerance)
    if not float(tolerance) > 0:
        raise UserError(f"tolerance must be a number > 0 (1e-2 is usual), got {shown(tolerance)}")
    return float(tolerance)


def std_of(data: DataMoments | None, ends: Tensor) -> float:
    """The standard deviation of a coordinate of the data, root mean square over coordinates.

    From the covariance that a description of the data has; from the ends of paths ``(P, *shape)`` where it has none.
    """
    cov = None if data is None else data.cov
    if cov is None or not bool((torch.as_tensor(cov) != 0).any()):
        return float(ends.double().var(0).mean().sqrt())
    variances = cov.diagonal() if cov.ndim == 2 else cov
    return float(variances.double().mean().sqrt())


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square over coordinates of the difference of two batches, ``(B,)``; infinite where it is not finite."""
    apart = (x.double() - y.double()).flatten(1).square().mean(1).sqrt()
    return torch.where(apart.isfinite(), apart, torch.inf)


def remaining(apart: float, steps: int, finer: int, order: float) -> float:
    r"""The error with ``steps``, from the distance to the solution with ``finer`` steps.

    With an error :math:`e_n ∝ n^{-p}` along one direction, :math:`d = e_n - e_m = e_n (1 - (n/m)^p)`.
    """
    return apart / (1 - (steps / finer) ** order)


def candidates(low: int, high: int) -> list[int]:
    """Steps between two numbers of them, each a tenth above the one before, or one."""
    found = []
    while (low := low + max(1, low // FINE)) < high:
        found.append(low)
    return found


def fewest(probe: Probe, data: DataMoments | None, tolerance: float) -> Chosen:
    """The fewest steps whose estimated error is at most ``tolerance``.

    Steps are doubled, and each solution compared with the next, until the estimate is met; the order p is that at which
    the differences fall. Between the last two, all numbers
    of steps a tenth apart are tried in turn against the finest solution.

    Args:
        probe: the solver on a few noises.
        data: the description of the data, for their standard deviation.
        tolerance: see ``Chosen.error``.

    Raises:
        UserError: if 64 evaluations do not meet it, with what they reach.
    """
    tolerance = check_tolerance(tolerance)
    ends: dict[int, Tensor] = {}
    calls: dict[int, int] = {}
    tried: dict[int, float] = {}

    def apart(steps: int, finer: int) -> float:
        for n in (steps, finer):
            if n not in ends:
                ends[n], calls[n] = probe(n)
        each = distances(ends[steps], ends[finer])
        return float(each.kthvalue(min(RANK, len(each))).values) / std_of(data, ends[finer])

    before, order, steps, last = math.nan, LEAST_ORDER, 2, 0
    ends[2], calls[2] = probe(2)
    most = MOST // max(1, math.ceil(calls[2] / 2))
    while True:
        here = apart(steps, 2 * steps)
        if before > 0 and here > 0 and math.isfinite(before / here):
            order = min(max(math.log2(before / here), LEAST_ORDER), LARGEST_ORDER)
        error = tried[steps] = remaining(here, steps, 2 * steps, order)
        if error <= tolerance:
            break
        if steps >= most:
            raise UserError(
                f"tolerance {tolerance:g} is not met with {calls[steps]} evaluations, the most that are tried: the "
                f"estimated error of the path is {error:.2g} standard deviations of the data"
            )
        before, last, steps = here, steps, min(2 * steps, most)
    finest, high = 2 * steps, steps
    while last:  # by now the order is known, and the truth is finer than what it was compared with
        tried[last] = remaining(apart(last, finest), last, finest, order)
        if tried[last] > tolerance:
            break
        high, last = last, last // 2 if last > 2 else 0
    # Errors need not fall with every step: the first that does is looked for from below, and where twice the steps have
    # gained less than half, among the fewer of them too.
    if last >= 4 and tried[last] > tried[last // 2] / 2:
        last //= 2
    for steps in candidates(last, high):
        tried[steps] = remaining(apart(steps, finest), steps, finest, order)
        if tried[steps] <= tolerance:
            high = steps
            break
    return Chosen(high, calls[high], tried[high], tolerance, order, tried, len(ends[high]), sum(calls.values()))


def is_deterministic(end: Callable[[int], Tensor]) -> bool:
    """Whether paths from one start end in one place whatever noise their steps draw: ``end(k)`` has the k-th noise."""
    first, second = itertools.islice(map(end, itertools.count()), 2)
    return bool(torch.equal(first.nan_to_num(), second.nan_to_num()))
