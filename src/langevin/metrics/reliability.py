"""What a count of examples can tell: intervals, noise to compare with, and what has to be said beside a figure."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import UserError
from ..data import Dataset

Z = 1.959964
"""Standard errors to either side of a 95 % interval."""

Interval = tuple[float, float]


def wilson(right: int, count: int) -> Interval:
    r"""The 95 % interval of Wilson (1927) for the probability behind ``right`` of ``count`` independent hits.

    .. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Unlike p ± z √(p(1 − p)/n) it is not of no width at p = 0 and p = 1, and it covers at a few dozen examples too.
    """
    if not 0 <= right <= count or count < 1:
        raise UserError(f"right must be in 0…count with count ≥ 1; got {right} of {count}.")
    p, a = right / count, Z**2 / count
    middle, half = (p + a / 2) / (1 + a), math.sqrt(a * p * (1 - p) + a * a / 4) / (1 + a)
    # At p = 0 and p = 1 both terms are equal, but for their rounding.
    return (0.0 if right == 0 else middle - half), (1.0 if right == count else middle + half)


def around(value: float, stderr: float) -> Interval:
    """The 95 % interval of a normal error."""
    return value - Z * stderr, value + Z * stderr


def median_interval(x: Tensor) -> Interval | None:
    """The 95 % interval of the median of the law that ``x`` ``(N,)`` are draws of, between two of them.

    The number of draws below the median is binomial(N, ½): the interval runs from the draw of rank j to that of rank
    N + 1 − j with the largest j such that P(fewer than j below) ≤ 2.5 %. There is none below six draws.
    """
    ordered, count = x.double().sort().values, len(x)
    # The binomial's quantile, by its normal approximation beyond some hundred draws.
    if count > 200:
        j = math.floor((count - Z * math.sqrt(count)) / 2)
    else:
        below, j = 0.0, 0
        while (below := below + math.comb(count, j) / 2.0**count) <= 0.025:
            j += 1
    return None if j < 1 else (float(ordered[j - 1]), float(ordered[count - j]))


def ratio_interval(above: Tensor, below: Tensor) -> Interval | None:
    """The 95 % interval of the ratio of two medians, from those of each, whose logarithms err independently."""
    one, two = median_interval(above), median_interval(below)
    if one is None or two is None or two[0] <= 0:
        return None
    a, b = (float(x.double().median()) for x in (above, below))
    if a == 0 or one[0] == 0:
        return 0.0, one[1] / two[0]
    log = math.log
    down = math.hypot(log(a / one[0]), log(two[1] / b))
    up = math.hypot(log(one[1] / a), log(b / two[0]))
    return a / b * math.exp(-down), a / b * math.exp(up)


def noise_like(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Noise of the mean and the standard deviation of all values of the training data, ``(count, *shape)``.

    Every value is drawn by itself, and clipped to the range of the data: what a sampler returns that has learned how
    bright pictures are and nothing else. A measure that ranks it with real data tells nothing.
    """
    split, info = dataset.train, dataset.info
    some = split.plain(torch.arange(min(len(split), 1000)))["x"].double()
    draws = torch.randn(count, *info.shape, generator=torch.Generator().manual_seed(seed))
    noise = float(some.mean()) + float(some.std()) * draws
    return noise if info.low is None else noise.clamp(info.low, info.high)


def frechet_excess(cov: Tensor, samples: int, real: int) -> float:
    r"""The Fréchet distance to be expected between two sets of one Gaussian law, from their counts alone.

    .. math:: \Big(\frac1N + \frac1M\Big) \Big(\frac54 \sum_i λ_i + \frac12 \sum_{ij} \frac{λ_i λ_j}{λ_i + λ_j}\Big)

    with the eigenvalues λ of its covariance, to first order in 1/N and 1/M: one sum of λ is of the means, the
    rest of the covariances (at ½ Σ E_ij²/(λ_i + λ_j) for a small error E, of variance λ_i λ_j (1 + δ_ij)/N).
    For D equal λ it is about tr Σ · D/4 · (1/N + 1/M): the count has to be well above the number of features.
    """
    values = torch.linalg.eigvalsh(cov.double()).clamp_min(0)
    values = values[values > len(values) * torch.finfo(torch.float64).eps * values.max()]
    if not len(values):
        return 0.0
    pairs = torch.outer(values, values) / (values[:, None] + values)
    # The diagonal counts twice: the variance of a variance is 2λ²/N.
    spread = 0.5 * (pairs.sum() + pairs.diagonal().sum())
    return float((1 / samples + 1 / real) * (values.sum() + spread))


def frechet_note(samples: Tensor, real: Tensor, cov: Callable[[], Tensor]) -> tuple[bool, str | None]:
    """Whether a Fréchet distance of these features can be told at all, and what has to be said of it."""
    width = int((real.std(0) > 0).sum())
    few, side = min((len(samples), "samples"), (len(real), "held-out examples"))
    if few <= width:
        return False, (
            f"Not given: the covariance of {width} features needs more than {width} examples on each side, "
            f"and there are {few} {side}."
        )
    if few >= 10 * width:
        return True, None
    excess = frechet_excess(cov(), len(samples), len(real))
    return True, (
        f"{few} {side} are few for {width} features: samples of the very law of the data would get about {excess:.2g}."
    )


def score_note(classes: int, samples: int, real: int) -> str | None:
    """What has to be said of an inception score whose parts hold so many examples.

    The entropy of the mean of n draws of K classes is too low by (K − 1)/2n nats (Miller 1955), which lowers the score
    by as much of itself at most.
    """
    few = min(samples, real)
    loss = 1 - math.exp(-(classes - 1) / (2 * few))
    if loss <= 0.05:
        return None
    return (
        f"The score is of parts of {samples} samples ({real} examples for real data), and that of {few} examples of "
        f"{classes} classes is up to {loss:.0%} too low."
    )
