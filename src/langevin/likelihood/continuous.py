"""The bound of a score model in continuous time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Noise, Stream, kl
from ..objectives import LikelihoodImportance, TimestepDistribution, Uniform
from ..objectives.weights import likelihood
from ..processes import ScalarGaussian, require
from .units import Measured, Units


@dataclass(frozen=True)
class ContinuousBound(Measured):
    """Upper bounds of −log p(x) in nats, one a sample, and what they are made of.

    Attributes:
        prior: KL(q(x_1|x) ‖ p(x_1)), exact.
        path: the weighted denoising loss.
        data: E[−log p(x|x_ε)].
        stderr: of ``nats``, from the spread over draws as if they were independent; not-a-number with one.
        units: what ``bits_per_dim`` counts in.
        protocol: how it was estimated.
    """

    prior: Tensor
    path: Tensor
    data: Tensor
    stderr: Tensor
    units: Units
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def nats(self) -> Tensor:
        """An unbiased estimate of each bound, float64 ``(B,)``."""
        return self.prior + self.path + self.data

    def __repr__(self) -> str:
        parts = ", ".join(f"{k} {float(getattr(self, k).mean()):.4f}" for k in ("prior", "path", "data"))
        return f"ContinuousBound({float(self.nats.mean()):.4f} nats a sample, of {len(self.nats)}: {parts})"


@register(
    "likelihood",
    "continuous-bound",
    title="The bound of likelihood weighting, in continuous time",
    arxiv="2101.09258",
    proof="exact: tests/objectives/test_likelihood_weighting.py::test_the_bound",
)
def continuous_bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    draws: int = 32,
    times: TimestepDistribution | None = None,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> ContinuousBound:
    r"""−log p(x) of the reverse SDE with the denoiser's score is at most (arXiv:2101.09258 thm 3; thm 1 is its mean)

    .. math::
        KL(q(x_1|x) \,\|\, p(x_1)) - \int_ε^1 \tfrac12 \tfrac{d}{dt}\mathrm{SNR}(t)\, E|\hat x_0(x_t) - x|^2 dt
        + E\big[-\log N(x; \hat x_0(x_ε), \tfrac{σ_ε^2}{α_ε^2} I)\big]

    The middle term is the denoising loss with likelihood weighting λ = g². Averaged over data, the bound exceeds their
    entropy by ½∫ g² E|s − ∇log p_t|² dt, KL(p_1 ‖ prior), and what the normal law at ε misses, of order (σ_ε/α_ε)⁴.

    Args:
        denoiser: on a scalar-Gaussian process.
        x: clean data ``(B, *shape)``.
        draws: K ≥ 1 times a sample, spread evenly over their law.
        times: their law; ``LikelihoodImportance`` if not given, which has the least variance.
        seed: of times and noise; sample i has the same whatever the batch.
        batch: samples at a time.
        progress: called as ``progress(done, total)`` in evaluations.

    Raises:
        UserError: for another process, data of another shape or not finite, or no draws.
    """
    check_is_denoiser(denoiser)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "the continuous-time bound")
    if tuple(x.shape[1:]) != tuple(denoiser.shape) or not len(x) or not x.isfinite().all():
        raise UserError(f"x must be finite data (B, {', '.join(map(str, denoiser.shape))}), got {tuple(x.shape)}")
    check_integer("draws", draws, 1)
    law = LikelihoodImportance() if times is None else times
    if not isinstance(law, (LikelihoodImportance, Uniform)):
        raise UserError(f"times must be LikelihoodImportance or Uniform, got {type(law).__name__}")
    law.check(process)
    low = process.t_min if law.low is None else law.low
    high = law.high if law.high is not None else process.t_max
    x, noise = x.to(torch.float64), Noise(seed, len(x))
    dim, found = x[0].numel(), []
    with torch.no_grad():
        for first in range(0, len(x), batch):
            rows = slice(first, first + batch)
            some, stream, bound = x[rows], noise.rows(rows), denoiser.rows(rows)
            start, terms = stream.fold_in(Stream.QUANTILE).uniform(()), []
            for k in range(draws):
                t = law.quantile(process, u := (start + (k + 0.5) / draws) % 1)
                size = likelihood(denoiser, t) * law.ratio(process, u) * (high - low)
                path = size * _miss(bound, process, some, t, stream.fold_in(Stream.PATH_TERM).step(k))
                end = torch.full_like(t, low)
                precision = (process.alpha(end) / process.sigma(end)) ** 2
                miss = _miss(bound, process, some, end, stream.fold_in(Stream.DATA_TERM).step(k))
                data = (precision * miss + dim * torch.log(2 * torch.pi / precision)) / 2
                terms.append(torch.stack((path, data), 1))
                if progress is not None:
                    progress((first * draws) + len(some) * (k + 1), len(x) * draws)
            found.append(torch.stack(terms))
    every = torch.cat(found, 1)
    ends = kl(process.marginal(x, high), process.prior(denoiser.shape))
    path, data = every.mean(0).unbind(1)
    error = every.sum(2).std(0) / draws**0.5
    made = {"bound": "continuous time, reverse SDE", "draws": draws, "times": law.to_dict(), "from": high, "to": low}
    units = Units.of(denoiser.data, tuple(denoiser.shape), density=True)
    protocol = {**made, "seed": seed, **units.protocol()}
    return ContinuousBound(ends, path, data, error, units, protocol)


def _miss(denoiser: Denoiser, process: ScalarGaussian, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
    """|x̂_0 − x|² at one draw of x_t."""
    x_t = process.marginal(x, t).sample(noise).to(denoiser.device)
    return (denoiser(x_t, t).mean.to(x) - x).square().flatten(1).sum(1)
