"""Moments of a model's data, from samples of the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import check_integer
from ..denoisers import Denoiser
from ..denoisers.frames import FLOOR
from ..numerics.frame import LEADING, Basis, Cosines, GaussianFrame
from .gaussian.solver import GaussianRemainder
from .sampling import sample

FULL = 512
"""Events of up to this many coordinates get a full covariance."""


def estimate_moments(
    denoiser: Denoiser, n: int = 512, steps: int = 12, seed: int = 0, batch: int = 256
) -> GaussianFrame:
    """Mean and covariance of what a model draws, from n of its own samples: once, for a model that carries none.

    Up to 512 coordinates the covariance is full, shrunk towards a multiple of the identity as far as n samples ask for
    (Ledoit & Wolf 2004). Larger images get the variances of their cosine transform, a channel at a time, those of
    neighbouring frequencies averaged; other large events their leading principal directions, one for every eight
    samples and 64 at most, and one variance for the rest. The solver converges to the model's own flow whatever the
    moments: they decide how fast.

    Args:
        denoiser: the model, with its condition if the moments are to be of a class.
        n: samples, at least 2.
        steps: evaluations for each.
        seed: of the noise.
        batch: samples at a time.

    Returns:
        The frame to give as ``GaussianRemainder(frame=…)``.
    """
    check_integer("n", n, 2)
    unknown = GaussianRemainder(frame=GaussianFrame.unknown(math.prod(denoiser.shape)))
    x = sample(denoiser, unknown, n=n, steps=steps, seed=seed, batch=batch).flatten(1).to("cpu", torch.float64)
    return moments_from(x, denoiser.shape)


def moments_from(x: Tensor, shape: tuple[int, ...]) -> GaussianFrame:
    """The moments of events ``(n, D)`` of a shape, as ``estimate_moments`` takes them of its samples."""
    mean = x.mean(0)
    centred = x - mean
    if x.shape[1] <= FULL:
        from sklearn.covariance import ledoit_wolf_shrinkage

        share = float(ledoit_wolf_shrinkage(centred.numpy(), assume_centered=True)) if x.shape[1] > 1 else 0.0
        cov = centred.mT @ centred / len(x)
        shrunk = (1 - share) * cov + share * cov.diagonal().mean() * torch.eye(len(mean), dtype=x.dtype)
        return GaussianFrame.from_covariance(mean, shrunk, FLOOR)
    if len(shape) == 3:
        basis: Basis = Cosines((shape[0], shape[1], shape[2]))
        return GaussianFrame(mean, _smooth(basis.to(centred).square().mean(0), shape), basis, floor=FLOOR)
    count = max(1, min(LEADING, len(x) // 8))
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    values = sizes.square() / len(x)
    rest = values[count:].sum() / (len(mean) - count)
    return GaussianFrame.from_leading(mean, torch.cat((values[:count], rest[None])), rows[:count].mT, FLOOR)


def _smooth(variances: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The geometric mean over a frequency and its eight neighbours, a channel at a time: nine times the samples."""
    log = torch.log(variances.clamp_min(1e-6 * float(variances.mean()))).reshape(shape)[:, None]
    padded = torch.nn.functional.pad(log, (1, 1, 1, 1), mode="replicate")
    smooth = torch.nn.functional.avg_pool2d(padded, 3, stride=1)
    # The lowest frequencies differ too much from their neighbours to be averaged with them.
    smooth[..., :2, :2] = log[..., :2, :2]
    return torch.exp(smooth).reshape(-1)
