"""From a noisy sample to an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ... import samplers
from ...distributions import Noise, Stream
from .chain import BATCH, Chain

Progress = Callable[[int, int], None]

FLOW, ANCESTRAL = 8, 64
"""Steps of a decoder: one of first order loses a share of its variance that falls as one over their number."""


def flow(steps: Chain, x: Tensor, seed: int, progress: Progress | None = None) -> Tensor:
    """Along the probability flow (arXiv:2206.08889 §3.2, DiffC-F)."""
    return _sampled(steps, x, seed, samplers.default_sampler(steps.model), FLOW, progress)


def ancestral(steps: Chain, x: Tensor, seed: int, progress: Progress | None = None) -> Tensor:
    """By ancestral sampling (arXiv:2206.08889 §3.1, DiffC-A)."""
    return _sampled(steps, x, seed, samplers.Ancestral(), ANCESTRAL, progress)


def mean(steps: Chain, x: Tensor, seed: int, progress: Progress | None = None) -> Tensor:
    """x̂_0 itself, which has the least squared error and no texture (arXiv:2006.11239 §4.3)."""
    return steps.mean(x, steps.times[-1])


def _sampled(
    steps: Chain, x: Tensor, seed: int, sampler: samplers.Sampler, count: int, progress: Progress | None
) -> Tensor:
    """The rest of the way by a sampler, in steps uniform in log-SNR and a last one to 0."""
    process, last = steps.process, steps.times[-1]
    begin = process.log_snr(last)
    end = torch.maximum(process.log_snr(process.t_min), begin + 2)
    times = process.time(begin + (end - begin) * torch.linspace(0, 1, count, dtype=torch.float64))
    times[0] = last
    grid = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    noise = Noise(seed, len(x)).fold_in(Stream.DECODED)
    return samplers.sample(steps.model, sampler, start=x, grid=grid, noise=noise, batch=BATCH, progress=progress)


DECODERS: dict[str, Callable[[Chain, Tensor, int, Progress | None], Tensor]] = {
    "flow": flow,
    "ancestral": ancestral,
    "mean": mean,
}
"""Ways from the noisy sample of a file to an image."""
