"""Grids on which a model's bound is least, by dynamic programming over one table of its terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..objectives.bound import Decoder, Discretised, decode, default_decoder, step_term
from ..processes import grids
from .bound import check_data, check_levels, check_times
from .units import Units

_KEYS = {"langevin", "kind", "times", "cost", "units", "protocol"}


@dataclass(frozen=True, eq=False)
class PairwiseBound:
    """The mean terms of the bound of every pair of times: what a step from one to the other costs.

    Attributes:
        times: K decreasing times and 0, float64 ``(K + 1,)``.
        cost: ``cost[i, j]`` is L_{t→s} from times[i] to times[j], i < j, nats an event, and L_0 in the last column;
            infinite elsewhere, float64 ``(K + 1, K + 1)``.
        units: what nats are counted in.
        protocol: how it was measured, as plain JSON.
    """

    times: Tensor
    cost: Tensor
    units: Units
    protocol: Mapping[str, Any]

    def grid(self, steps: int) -> Tensor:
        """The grid of ``steps`` steps from the first time to 0 whose terms sum to the least: ``grid=`` of any call."""
        return grids.dynamic(self.times, self.cost, steps)

    def value(self, grid: Tensor | list[float]) -> float:
        """The sum of the terms of a grid through some of ``times``, nats an event; without L_T."""
        places = (torch.as_tensor(grid, dtype=torch.float64)[:, None] - self.times).abs()
        away, index = places.min(1)
        if float(away.max()) > 1e-12:
            raise UserError(f"grid must go through the {len(self.times)} times of the table, got {grid}")
        return float(self.cost[index[:-1], index[1:]].sum())

    def __repr__(self) -> str:
        return f"Pairs({len(self.times) - 1} times, {self.protocol['count']} samples)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        rows = [row[i + 1 :].tolist() for i, row in enumerate(self.cost)]
        return {
            "langevin": 1,
            "kind": "pairs",
            "times": self.times.tolist(),
            "cost": rows[:-1],
            "units": asdict(self.units),
            "protocol": dict(self.protocol),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairwiseBound:
        """The inverse of ``to_dict``; nothing in it is executed.

        Raises:
            UserError: for anything else.
        """
        if not isinstance(values, Mapping) or set(values) != _KEYS or values["kind"] != "pairs":
            got = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise UserError(f"a table of pairs has {', '.join(sorted(_KEYS))}, got {got}")
        if values["langevin"] != 1:
            raise UserError(f"format {values['langevin']!r} is unknown; this version of langevin reads 1")
        try:
            times = torch.tensor(values["times"], dtype=torch.float64)
            count = len(times)
            cost = torch.full((count, count), math.inf, dtype=torch.float64)
            if [len(row) for row in values["cost"]] != list(range(count - 1, 0, -1)):
                raise UserError(f"cost must be the {count - 1} rows above the diagonal")
            for i, row in enumerate(values["cost"]):
                cost[i, i + 1 :] = torch.tensor(row, dtype=torch.float64)
            return cls(times, cost, Units(**values["units"]), dict(values["protocol"]))
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, UserError) else UserError(f"no table of pairs: {error}") from None


@register(
    "likelihood",
    "pairs",
    title="Grids of least bound by dynamic programming",
    arxiv="2106.03802",
    proof="exact: tests/likelihood/test_pairwise.py",
)
def pairs(
    denoiser: Denoiser,
    x: Tensor,
    *,
    fine: int | None = None,
    times: Tensor | list[float] | str | None = None,
    decoder: Decoder | None = None,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> PairwiseBound:
    r"""The term of the bound of every pair of times, from one evaluation a time (Watson et al. 2021, arXiv:2106.03802).

    The bound of a grid is a sum over its steps (§3, eq. 8), so the best grid of every number of steps follows from this
    table alone: ``pairs(model, x).grid(10)``, for ``sample``, ``bound`` or any other call.

    Args:
        denoiser: as for ``bound``; the belief says the variance.
        x: clean data ``(N, *shape)``; a few hundred do.
        fine: times of the default grid for bounds, 100 if neither ``fine`` nor ``times`` is given.
        times: decreasing times that end at 0, or the registered name of a grid, to choose from.
        decoder: as for ``bound``.
        seed: of the draws.
        batch: how many are carried at a time.
        progress: called as ``progress(done, total)``, counting evaluations of the denoiser, one a sample.

    Raises:
        UserError: as for ``bound``.
    """
    x, process = check_data(denoiser, x), denoiser.process
    decoder = default_decoder(denoiser) if decoder is None else decoder
    fine_times = check_times(process, fine, times, decoder)
    if isinstance(decoder, Discretised):
        check_levels(x, decoder)
    if type(batch) is not int or batch < 1:
        raise UserError(f"batch must be an integer of at least 1, got {batch!r}")
    n, count = len(x), len(fine_times)
    noise, done = Noise(seed, n), 0
    total = torch.zeros(count, count, dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            clean, own, part = x[rows].to(denoiser.device), denoiser.rows(rows), noise.rows(rows).to(denoiser.device)
            for i, t in enumerate(fine_times[:-1]):
                draw = part.step(i + 1)
                x_t = process.marginal(clean, t).sample(draw)
                belief = own(x_t, t)
                for j in range(i + 1, count - 1):
                    term = step_term(process, clean, x_t, belief, t, fine_times[j], draw.fold_in(Stream.TERM + j))
                    total[i, j] += float(term.sum())
                total[i, -1] += float(decode(process, decoder, clean, x_t, belief, t).sum())
                done += len(clean)
                if progress is not None:
                    progress(done, n * (count - 1))
    above = torch.ones(count, count, dtype=torch.bool).triu(1)
    units = Units.of(denoiser.data, tuple(x.shape[1:]), decoder.density)
    protocol = {"method": "terms of the bound of pairs", "decoder": repr(decoder), "seed": seed, "count": n}
    cost = torch.where(above, total / n, torch.inf)
    return PairwiseBound(fine_times, cost, units, {**protocol, **units.protocol()})
