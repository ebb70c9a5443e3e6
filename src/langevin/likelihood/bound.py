"""The variational bound of any denoiser on any grid, term by term."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import lookup, register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Distribution, Noise, Stream
from ..objectives.bound import Decoder, Discretised, decode, default_decoder, prior_term, step_term
from ..processes import DDPM, Chain, Process, ScalarGaussian, TableChain, grids
from ..processes.grids import check_grid, check_steps
from .units import Measured, Units, error_of_mean


@dataclass(frozen=True, eq=False, repr=False)
class Bound(Measured):
    r"""An upper bound on −log p(x) of each sample, in nats, and what it is the sum of; ``print`` shows a table.

    Attributes:
        grid: times t_n > … > t_1 > 0, float64 ``(n + 1,)`` with 0 at its end.
        prior: L_T at t_n, float64 ``(B,)``.
        terms: L_{t→s} of each step but the last, in the order of the grid, ``(B, n − 1)``.
        decoder: L_0 at t_1, ``(B,)``.
        units: what nats are counted in.
        protocol: how it was measured, as plain JSON.
    """

    grid: Tensor
    prior: Tensor
    terms: Tensor
    decoder: Tensor
    units: Units
    protocol: Mapping[str, Any]

    @property
    def nats(self) -> Tensor:
        """The whole bound, ``(B,)``."""
        return self.prior + self.terms.sum(1) + self.decoder

    def rows(self) -> list[tuple[str, float, float]]:
        """(name, mean nats, standard error) of the prior, each step, the decoder and the total."""
        steps = [f"L {t:.4g} → {s:.4g}" for t, s in pairwise(self.grid[:-1].tolist())]
        last = float(self.grid[-2])
        names = [f"L_T at {float(self.grid[0]):.4g}", *steps, f"L_0 from {last:.4g}", "total"]
        values = [self.prior, *self.terms.unbind(1), self.decoder, self.nats]
        return [(name, float(value.mean()), error_of_mean(value)) for name, value in zip(names, values)]

    def __str__(self) -> str:
        rows, dim = self.rows(), self.units.dim * math.log(2)
        if len(rows) > 15:
            steps = self.terms.sum(1)
            middle = (f"L_t, {self.terms.shape[1]} steps", float(steps.mean()), error_of_mean(steps))
            rows = [rows[0], middle, *rows[-2:]]
        # The Jacobian of a density belongs to the decoder, the one term that is a density.
        shift = float(self.units.bits_per_dim(torch.zeros(())))
        lines = [f"{'term':<24}{'nats':>12}{'±':>10}{'bits/dim':>12}"]
        for i, (name, mean, error) in enumerate(rows):
            bits = mean / dim + shift * (i >= len(rows) - 2)
            lines.append(f"{name:<24}{mean:>12.4f}{error:>10.4f}{bits:>12.4f}")
        return "\n".join([*lines, f"{len(self.nats)} samples; {self.protocol['unit']}; {self.protocol['estimator']}"])

    __repr__ = __str__


@register(
    "likelihood",
    "bound",
    title="Variational bound, term by term",
    arxiv="2006.11239",
    proof="exact: tests/likelihood/test_bound.py",
)
def bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    decoder: Decoder | None = None,
    start: Distribution | None = None,
    estimator: Literal["kl", "path"] = "kl",
    samples: int = 1,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Bound:
    r"""The variational bound on −log p(x) (Ho et al. 2020, arXiv:2006.11239 eq. 5), for any process and grid.

    .. math::
        \underbrace{\mathrm{KL}(q(x_T | x_0) \,\|\, p(x_T))}_{L_T}
        + \sum \underbrace{E_q\, \mathrm{KL}(q(x_s | x_t, x_0) \,\|\, p(x_s | x_t))}_{L_{t \to s}}
        \underbrace{- E_q \log p(x_0 | x_{t_1})}_{L_0}

    p(x_s | x_t) is ``process.reverse`` of the belief, so the variance is the belief's: ``denoisers.dirac`` gives β̃,
    ``denoisers.unit`` β, a network with a learned variance its own. On any grid it is the bound of the sampler that
    takes these steps (``samplers.Ancestral``), a respaced table included.

    The estimator ``kl`` takes each expectation at x_t drawn on its own, and the divergence in closed form, or from one
    draw where there is none. The estimator ``path`` draws a whole path and takes
    :math:`\log q(x_{1:T} | x_0) - \log p(x_{0:T})`: with the true reverse and the true law at T it is −log p(x) without
    any variance, on every grid.

    Args:
        denoiser: conditions are bound with ``denoiser.given(…)``, one value or one a sample.
        x: clean data ``(N, *shape)``, in the units of the model; on its levels where the data have levels.
        steps: of the default grid for bounds, 100 if neither ``steps`` nor ``grid`` is given: ``t_max`` to ``t_min``
            evenly in log-SNR for scalar-Gaussian processes, evenly in t (over the knots of a table) for every other.
        grid: decreasing times that end at 0, or the registered name of a grid.
        decoder: ``objectives.Discretised`` for data with levels, ``Tokens`` for tokens, else ``Continuous``, if not
            given.
        start: law of the state at ``grid[0]``, the process's prior if not given.
        estimator: ``kl`` or ``path``.
        samples: draws a sample, ≥ 1.
        seed: of the draws.
        batch: how many are carried at a time; the result does not depend on it.
        progress: called as ``progress(done, total)``, counting evaluations of the denoiser, one a sample.

    Raises:
        UserError: for data that do not fit the model, and a process or belief whose steps have no density.
    """
    x = check_data(denoiser, x)
    decoder = default_decoder(denoiser) if decoder is None else decoder
    times = check_times(denoiser.process, steps, grid, decoder)
    if estimator not in ("kl", "path"):
        raise UserError(f"estimator must be 'kl' or 'path', got {estimator!r}")
    for name, value in (("samples", samples), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {value!r}")
    if isinstance(decoder, Discretised):
        check_levels(x, decoder)
    n, total = len(x), len(x) * samples * (len(times) - 1)
    noise, walk = Noise(seed, n), _terms if estimator == "kl" else _path
    done, parts = 0, []
    with torch.no_grad():
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            clean, own, part = x[rows].to(denoiser.device), denoiser.rows(rows), noise.rows(rows).to(denoiser.device)
            drawn = []
            for k in range(samples):
                terms: list[Tensor] = []
                for term in walk(own, clean, times, decoder, start, part.fold_in(k)):
                    terms.append(term.cpu())
                    done += len(clean) * (len(terms) > 1)  # the prior asks nothing of the denoiser
                    if progress is not None:
                        progress(done, total)
                drawn.append(torch.stack(terms, 1))
            parts.append(torch.stack(drawn).mean(0))
    values = torch.cat(parts)
    units = Units.of(denoiser.data, tuple(x.shape[1:]), decoder.density)
    protocol = {
        "method": "variational bound",
        "estimator": "each term on its own" if estimator == "kl" else "whole paths",
        "grid": times.tolist(),
        "decoder": repr(decoder),
        "start": "the prior of the process" if start is None else repr(start),
        "samples": samples,
        "seed": seed,
        "count": n,
        **units.protocol(),
    }
    return Bound(times, values[:, 0], values[:, 1:-1], values[:, -1], units, protocol)


def _terms(
    denoiser: Denoiser, x: Tensor, times: Tensor, decoder: Decoder, start: Distribution | None, noise: Noise
) -> Iterator[Tensor]:
    """L_T, each L_{t→s} and L_0, at states drawn each on its own."""
    process = denoiser.process
    yield prior_term(process, x, times[0], start, noise.step(0))
    for i, (t, s) in enumerate(pairwise(times), 1):
        x_t = process.marginal(x, t).sample(noise.step(i))
        belief = denoiser(x_t, t)
        last = i == len(times) - 1
        yield (
            decode(process, decoder, x, x_t, belief, t)
            if last
            else step_term(process, x, x_t, belief, t, s, noise.step(i).fold_in(Stream.TERM))
        )


def _path(
    denoiser: Denoiser, x: Tensor, times: Tensor, decoder: Decoder, start: Distribution | None, noise: Noise
) -> Iterator[Tensor]:
    """log q − log p of the start, each step and the data, along one path of q(x_{1:T} | x_0)."""
    process = denoiser.process
    x_t = process.marginal(x, times[0]).sample(noise.step(0))
    yield prior_term(process, x, times[0], start, x_t=x_t)
    for i, (t, s) in enumerate(pairwise(times[:-1]), 1):
        x_s = process.bridge(x_t, x, t, s).sample(noise.step(i))
        yield step_term(process, x, x_t, denoiser(x_t, t), t, s, x_s=x_s)
        x_t = x_s
    t = times[-2]
    yield decode(process, decoder, x, x_t, denoiser(x_t, t), t)


def check_data(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Clean data for a denoiser, in float64 unless they are tokens.

    Raises:
        UserError: for another shape, no sample, not-a-numbers, or values outside the range of the model's data.
    """
    check_is_denoiser(denoiser)
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != tuple(denoiser.shape) or x.shape[0] < 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"x must be a tensor of shape (N, {', '.join(map(str, denoiser.shape))}), got {got}")
    if isinstance(denoiser.process, Chain):
        denoiser.process.check(x, denoiser.process.classes, "x")
        return x
    if not x.is_floating_point():
        raise UserError(f"x must be floating, in the units of the model, got {x.dtype}")
    if not x.isfinite().all():
        raise UserError(f"x must be finite, got {int((~x.isfinite()).sum())} values that are not")
    data = denoiser.data
    low, high = (None, None) if data is None else (data.low, data.high)
    if low is not None and high is not None:
        rounding = 1e-5 * (high - low)
        outside = x[(x < low - rounding) | (x > high + rounding)]
        if outside.numel():
            raise UserError(f"x must lie in [{low:g}, {high:g}], the range of the data, got {float(outside[0]):g}")
    return x.to(torch.float64)


def check_levels(x: Tensor, decoder: Discretised) -> None:
    """Refuse data that do not stand on the levels of a decoder (but for the rounding of float32)."""
    place = (x - decoder.low) / decoder.width
    away = (place - place.round()).abs()
    if (away > 1e-3).any() or (place.round() < 0).any() or (place.round() > decoder.levels - 1).any():
        value = float(x.flatten()[away.flatten().argmax()])
        raise UserError(
            f"x must stand on the {decoder.levels} levels from {decoder.low:g} to {decoder.high:g}, got {value:g}; "
            "for the density of continuous data give decoder=Continuous()"
        )


def default_grid(process: Process, steps: int, decoder: Decoder) -> Tensor:
    """The grid of ``bound`` where none is named.

    For scalar-Gaussian processes evenly in log-SNR from ``t_max`` to ``t_min``, or for data with levels to where the
    noise is a tenth of a bin: nothing is left to say there. Of a table its knots, for every other process evenly in t.
    """
    if isinstance(process, (DDPM, TableChain)):
        return grids.trailing(process, min(steps, process.steps))
    if not isinstance(process, ScalarGaussian):
        return grids.uniform(process, steps)
    low = process.t_min
    if isinstance(decoder, Discretised):
        low = max(low, float(process.time(-2 * math.log(decoder.width / 10))))
    ends = process.log_snr(torch.tensor([process.t_max, low], dtype=torch.float64))
    inner = process.time(torch.linspace(0, 1, steps, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0])
    inner[0] = process.t_max
    return torch.cat((inner, torch.zeros(1, dtype=torch.float64)))


def check_times(
    process: Process, steps: int | None, grid: Tensor | list[float] | str | None, decoder: Decoder
) -> Tensor:
    """The grid that is asked for: decreasing, from above 0 to 0."""
    if steps is not None:
        check_steps(steps)
    if grid is None:
        return default_grid(process, 100 if steps is None else steps, decoder)
    if isinstance(grid, str):
        made: Tensor = lookup("grids", grid).make(process, 100 if steps is None else steps)
        return made
    times = check_grid(grid)
    if steps is not None and steps != len(times) - 1:
        raise UserError(f"steps = {steps} contradicts a grid of {len(times) - 1} steps; give one of them")
    if (times.diff() > 0).any() or float(times[-1]) != 0:
        raise UserError(f"grid must decrease to 0 at its end, got {[round(t, 6) for t in times.tolist()][:8]}")
    return times
