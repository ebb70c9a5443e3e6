"""What progressive coding costs at best, and the times at which it is best stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError
from ...denoisers import NetworkDenoiser
from ...distributions import Noise, Stream
from ...processes import ScalarGaussian
from . import tree
from .chain import BATCH, DENSITY, Chain, checked, gap, plan
from .decoders import Progress, flow
from .pixels import Levels

HALVINGS = 7
"""Of the range of log-SNR, in the search for a quality."""


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """What a receiver has at every time of the chain, for each image.

    Attributes:
        times: ``(S + 1,)``, decreasing.
        bits: ``(S + 1, B)``, information sent so far: the sum of KL(q ‖ p), float64 bits.
        error: ``(S + 1, B)``, mean squared error of x̂_0 a coordinate, in units of the data.
        residual: ``(S + 1, B)``, −log₂ probability of the exact levels under the belief.
        estimates: ``(S + 1, B, *shape)``, x̂_0 itself.
        span: high − low of the data.
    """

    times: Tensor
    bits: Tensor
    error: Tensor
    residual: Tensor
    estimates: Tensor
    span: float

    @property
    def total(self) -> Tensor:
        """Bits of a lossless file that stops at each time, ``(S + 1, B)``."""
        return self.bits + self.residual

    @property
    def psnr(self) -> Tensor:
        """PSNR of x̂_0 in dB over all images at each time, ``(S + 1,)``."""
        return 10 * torch.log10(self.span**2 / self.error.mean(1))

    def __str__(self) -> str:
        dim = self.estimates[0, 0].numel()
        lines = ["       t   bits/dim       PSNR   lossless bits/dim"]
        for i, t in enumerate(self.times.tolist()):
            rate, whole = float(self.bits[i].mean()) / dim, float(self.total[i].mean()) / dim
            lines.append(f"{t:8.4g}  {rate:9.4f}  {float(self.psnr[i]):6.2f} dB  {whole:18.4f}")
        return "\n".join(lines)


def rate_distortion(
    model: NetworkDenoiser,
    x0: Tensor,
    *,
    end: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RateDistortion:
    r"""Rate and distortion of progressive coding (Ho et al. 2020, arXiv:2006.11239 §4.3, fig. 5).

    The states are exact samples of :math:`q(x_s | x_t, x_0)`; the rate at t is :math:`\sum KL(q ‖ p)` over the steps
    that lead there, the distortion that of x̂_0(x_t). The belief's variance is the mean squared error over the batch.

    Args:
        model: a network on a scalar-Gaussian process, of data with levels.
        x0: values at levels of the data, ``(B, *shape)``.
        end: the last time; where σ/α is a twentieth of a level's width if not given.
        seed: of the states.
        progress: called as ``progress(done, total)``.

    Raises:
        UserError: for a model that cannot code, or values of another shape or outside the range.
    """
    levels = Levels.of(checked(model))
    process = model.process
    assert isinstance(process, ScalarGaussian)
    x0 = x0.double()
    if tuple(x0.shape[1:]) != tuple(model.shape) or not len(x0):
        raise UserError(f"x0 must be (B, {', '.join(map(str, model.shape))}), got {tuple(x0.shape)}")
    if not bool(((x0 >= levels.low - 1e-6) & (x0 <= levels.high + 1e-6)).all()):
        raise UserError(f"x0 must lie in [{levels.low:g}, {levels.high:g}], got {float(x0.min())}…{float(x0.max())}")
    if end is None:
        end = max(float(process.time(-2 * math.log(levels.width / 20))), process.t_min)
    steps = plan(model, end, 64 * DENSITY**4)
    noise = Noise(seed, len(x0))
    x: Tensor | None = None
    mean, rate = torch.zeros_like(x0), torch.zeros(len(x0), dtype=torch.float64)
    rows = []
    for i, t in enumerate(steps.times):
        if x is None:
            p = steps.first(len(x0))
        else:
            p = steps.reverse(x, mean, steps.byte(float((x0 - mean).square().mean())), i)
        q = steps.forward(x, x0, i)
        rate = rate + tree.information(*gap(p, q)).flatten(1).sum(1)
        x = q.sample(noise.step(i))
        mean = steps.mean(x, t)
        error = (x0 - mean).square().flatten(1).mean(1)
        rows.append((rate, error, levels.cost(mean, levels.nearest(x0)), mean))
        if progress is not None:
            progress(i + 1, len(steps))
    bits, errors, residual, estimates = (torch.stack(part) for part in zip(*rows))
    return RateDistortion(steps.times, bits, errors, residual, estimates, levels.span)


def _some(x0: Tensor) -> Tensor:
    """At most a batch of the images, evenly taken."""
    return x0[torch.linspace(0, len(x0) - 1, min(len(x0), BATCH)).round().long()]


def time_of_levels(model: NetworkDenoiser, x0: Tensor, seed: int = 0, progress: Progress | None = None) -> float:
    """The time at which the levels are best sent themselves: where steps and residual cost least in sum."""
    process, levels = model.process, Levels.of(checked(model))
    assert isinstance(process, ScalarGaussian)
    # Where the noise is as wide as a level the levels cost little, and the noise itself is what is sent.
    end = max(float(process.time(-2 * math.log(levels.width))), process.t_min)
    curve = rate_distortion(model, _some(x0), end=end, seed=seed, progress=progress)
    return float(curve.times[curve.total.mean(1).argmin()])


def time_of_quality(
    model: NetworkDenoiser, x0: Tensor, quality: float, seed: int = 0, progress: Progress | None = None
) -> float:
    """The time at which decoding by the flow has this PSNR on (a batch of) the images, by bisection in log-SNR.

    Raises:
        UserError: for a quality that is no PSNR, or that the model does not reach.
    """
    if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 < quality < math.inf:
        raise UserError(f"quality must be a PSNR in dB, > 0, got {quality!r}")
    x0 = _some(x0)
    noise = Noise(seed, len(x0)).fold_in(Stream.RATES)
    base = plan(model, 1.0, 1)
    process, levels = base.process, base.levels

    def found(log_snr: float) -> tuple[float, float]:
        t = process.time(log_snr)
        y = flow(Chain(base.model, t.reshape(1)), process.marginal(x0, t).sample(noise), seed)
        return float(t), levels.psnr(levels.values(levels.nearest(y)), x0)

    low, high = float(process.log_snr(plan(model, process.t_min, 1).times[0])), float(process.log_snr(process.t_min))
    best = found(high)
    if best[1] < quality:
        raise UserError(f"quality must be a PSNR that this model reaches, at most {best[1]:.1f} dB, got {quality:g}")
    for i in range(HALVINGS):
        if progress is not None:
            progress(i + 1, HALVINGS + 1)
        middle = (low + high) / 2
        tried = found(middle)
        low, high = (middle, high) if tried[1] < quality else (low, middle)
        best = best if tried[1] < quality else tried
    return best[0]
