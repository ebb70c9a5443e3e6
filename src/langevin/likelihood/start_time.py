"""How far to diffuse: the bound as a function of the time T it starts from, and a start fitted there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, Density
from ..distributions import Dense, Diagonal, Distribution, Noise, Normal, Stream
from ..objectives.bound import Decoder, prior_term
from ..processes import Process, ScalarGaussian, as_time, require
from .bound import bound, check_data
from .units import Units

Start = Literal["prior", "diagonal", "full"]


@register(
    "likelihood",
    "fitted-start",
    title="Normal start fitted at T",
    arxiv="2206.05173",
    proof="exact: tests/likelihood/test_start_time.py::test_fitted_start",
)
def fitted_start(process: Process, t: Tensor | float, mean: Tensor, cov: Tensor) -> Normal:
    r"""The normal law of least KL from that of x_t: an auxiliary model at T (arXiv:2206.05173 §3, in closed form).

    .. math:: N(α_t m, α_t^2 C + σ_t^2 I)

    Draw from it to start there: ``sample(denoiser, grid=grid, start=fitted_start(…).sample(Noise(seed, n)))``.

    Args:
        process: scalar-Gaussian.
        t: T > 0.
        mean: m of the data, any shape of D numbers (it becomes the event).
        cov: C, ``(D, D)`` or the variances of D coordinates.
    """
    gaussian: ScalarGaussian = require(process, ScalarGaussian, "a fitted start")
    t, mean, cov = as_time(t), mean.to(torch.float64), cov.to(torch.float64)
    alpha, sigma2 = gaussian.alpha(t), gaussian.sigma2(t)
    if cov.shape == (mean.numel(), mean.numel()) and mean.numel() > 1:
        return Normal(alpha * mean[None], Dense(alpha**2 * cov[None]).add(sigma2))
    if cov.numel() != mean.numel():
        raise UserError(f"cov must be ({mean.numel()}, {mean.numel()}) or {mean.numel()} variances, got {cov.shape}")
    return Normal(alpha * mean[None], Diagonal(alpha**2 * cov.reshape(1, *mean.shape) + sigma2))


@dataclass(frozen=True, eq=False, repr=False)
class StartTime:
    r"""Means over data of the bound from each T of a grid, in nats an event; ``print`` shows a table.

    .. math:: \mathrm{total}(T) = L_T(T) + \mathrm{path}(T)
              = \underbrace{-E \log p(x)}_{\text{entropy}} + \mathrm{KL}(p_T \,\|\, \mathrm{start}_T) + G(T)

    The mismatch KL falls with T and the gap G, the errors of the denoiser and of the steps below T, grows with it
    (arXiv:2206.05173 §2). Entropy, mismatch and gap are known only where the law of the data is.

    Attributes:
        grid: times T, decreasing, and 0.
        prior: L_T = E KL(q(x_T | x_0) ‖ start), ``(n,)`` for each T of the grid but 0.
        path: the terms below T, L_0 included, ``(n,)``.
        entropy, mismatch: of an exact world, else None; ``(n,)`` for the mismatch.
        units: what nats are counted in.
        protocol: how it was measured, as plain JSON.
    """

    grid: Tensor
    prior: Tensor
    path: Tensor
    entropy: float | None
    mismatch: Tensor | None
    units: Units
    protocol: Mapping[str, Any]

    @property
    def total(self) -> Tensor:
        """The bound from each T, ``(n,)``."""
        return self.prior + self.path

    @property
    def gap(self) -> Tensor | None:
        """G(T), ``(n,)``, of an exact world."""
        return None if self.entropy is None or self.mismatch is None else self.total - self.entropy - self.mismatch

    @property
    def best(self) -> float:
        """The T of the least bound."""
        return float(self.grid[int(self.total.argmin())])

    def below(self, t: float) -> Tensor:
        """The grid from T = t on, for ``sample`` and ``bound``."""
        return self.grid[self.grid <= t + 1e-12]

    def __str__(self) -> str:
        known = self.gap is not None
        lines = [f"{'T':>10}{'L_T':>12}{'path':>12}{'total':>12}" + f"{'mismatch':>12}{'gap':>12}" * known]
        best = int(self.total.argmin())
        shown = sorted({*range(0, len(self.prior), max(1, len(self.prior) // 10)), best})
        for i in shown:
            row = [self.prior[i], self.path[i], self.total[i]]
            if self.mismatch is not None and self.gap is not None:
                row += [self.mismatch[i], self.gap[i]]
            lines.append(
                f"{float(self.grid[i]):>10.4g}" + "".join(f"{float(v):>12.4f}" for v in row) + " *" * (i == best)
            )
        return "\n".join([*lines, f"nats; {self.protocol['count']} samples; start: {self.protocol['start']}"])

    __repr__ = __str__


@register(
    "likelihood",
    "start-time",
    title="Diffusion time: the bound from every T",
    arxiv="2206.05173",
    proof="exact: tests/likelihood/test_start_time.py",
)
def start_time(
    denoiser: Denoiser,
    x: Tensor,
    *,
    start: Start = "prior",
    truth: Denoiser | None = None,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    decoder: Decoder | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> StartTime:
    """The bound as a function of the time it starts from, from one pass over the whole grid (arXiv:2206.05173).

    Args:
        denoiser: as for ``bound``.
        x: clean data ``(N, *shape)``.
        start: at each T, ``prior`` for the process's own (what is done when T is simply cut), or the normal law fitted
            there, with the variances (``diagonal``) or the full covariance (``full``) of the data the model carries.
        truth: the denoiser of the exact world of the data, which splits the bound in three.
        steps, grid, decoder, samples, seed, batch, progress: as for ``bound``.

    Raises:
        UserError: as for ``bound``, and where the model does not carry the moments that are asked for.
    """
    if start not in ("prior", "diagonal", "full"):
        raise UserError(f"start must be 'prior', 'diagonal' or 'full', got {start!r}")
    fit = _moments(denoiser, start)
    if truth is not None and not isinstance(truth, Density):
        raise UserError(f"truth must be the denoiser of an exact world, got {type(truth).__name__}")
    given = {"steps": steps, "grid": grid, "decoder": decoder, "samples": samples, "seed": seed, "batch": batch}
    whole = bound(denoiser, x, **given, progress=progress)  # type: ignore[arg-type]
    process, clean, times = denoiser.process, check_data(denoiser, x), whole.grid[:-1]
    starts = [None if fit is None else fitted_start(process, t, *fit) for t in times]
    prior = torch.stack([prior_term(process, clean, t, law).mean() for t, law in zip(times, starts)])
    below = torch.cat((whole.terms, whole.decoder[:, None]), 1).mean(0)
    entropy = mismatch = None
    if truth is not None:
        entropy = -float(truth.log_density(clean, 0.0).mean())
        mismatch = torch.stack(
            [_mismatch(truth, clean, t, law, seed + i) for i, (t, law) in enumerate(zip(times, starts))]
        )
    protocol = {**whole.protocol, "method": "bound from every T", "start": start}
    return StartTime(whole.grid, prior, below.flip(0).cumsum(0).flip(0), entropy, mismatch, whole.units, protocol)


def _moments(denoiser: Denoiser, start: str) -> tuple[Tensor, Tensor] | None:
    if start == "prior":
        return None
    data = denoiser.data
    mean, cov = (None, None) if data is None else (data.mean, data.cov)
    if mean is None or cov is None:
        raise UserError(f"start {start!r} needs a model that carries the moments of its data")
    if start == "full" and cov.ndim == 1:
        raise UserError("start 'full' needs the full covariance of the data, which this model does not carry")
    return mean.reshape(denoiser.shape), cov.diagonal() if start == "diagonal" and cov.ndim == 2 else cov


def _mismatch(truth: Denoiser, x: Tensor, t: Tensor, start: Distribution | None, seed: int) -> Tensor:
    """KL(p_T ‖ start) = E[log p_T − log start] over x_T of the data."""
    process = truth.process
    law = process.prior(truth.shape) if start is None else start
    x_t = process.marginal(x, t).sample(Noise(seed, len(x)).fold_in(Stream.TRUTH))
    return (truth.log_density(x_t, t) - law.log_prob(x_t)).mean()  # type: ignore[attr-defined]
