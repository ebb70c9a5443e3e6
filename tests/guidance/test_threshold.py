"""Static and dynamic thresholding against Imagen's rule, a sample at a time."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, UserError, processes, worlds
from langevin.denoisers import clamp
from langevin.guidance import classifier_free, threshold
from langevin.guidance.threshold import upper_quantile
from laws.table import mixture

WORLD = mixture(16)
PROCESS = processes.VP()
FREE = WORLD.denoiser(PROCESS)


@pytest.mark.parametrize(("percentile", "limit"), [(0.9, 1.0), (0.995, 1.0), (1.0, 1.0), (0.5, 0.3)])
def test_dynamic(percentile, limit):
    """s the percentile of |x̂_0|, at least the limit; clipped to ±s, divided by s (arXiv:2205.11487 §2.3)."""
    guided = classifier_free(FREE, label=1, guidance_scale=8.0)
    x = WORLD.sample(5, 1, process=PROCESS, t=0.5)
    mean, found = guided(x, 0.5).mean, threshold(guided, percentile, limit=limit)(x, 0.5).mean
    sizes = []
    for row, got in zip(mean, found):
        s = max(sorted_quantile(row.abs().tolist(), percentile), limit)
        sizes.append(s)
        torch.testing.assert_close(got, row.clamp(-s, s) / s * limit, rtol=1e-12, atol=1e-14)
    assert max(sizes) > limit  # something was clipped
    assert float(found.abs().max()) <= limit * (1 + 1e-12)


def sorted_quantile(values, share):
    """Linear interpolation between order statistics."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def test_inside_the_range_nothing_moves():
    x = 0.01 * WORLD.sample(5, 1, process=PROCESS, t=0.5)
    torch.testing.assert_close(threshold(FREE, limit=50.0)(x, 0.5).mean, FREE(x, 0.5).mean, rtol=0, atol=0)


def test_static_is_the_clamp():
    x = 3 * WORLD.sample(5, 1, process=PROCESS, t=0.5)
    found = threshold(FREE, None, limit=0.4)(x, 0.5).mean
    assert torch.equal(found, clamp(FREE, -0.4, 0.4)(x, 0.5).mean)
    assert float(found.abs().max()) == 0.4


CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: threshold(FREE, 0.0), r"percentile must lie in \(0, 1\]"),
    (lambda: threshold(FREE, 99.5), r"percentile must lie in \(0, 1\], a share such as 0.995, got 99.5"),
    (lambda: threshold(FREE, math.nan), "percentile must be a finite number"),
    (lambda: threshold(FREE, limit=0), "limit must be > 0"),
    (lambda: threshold(CHAIN), "threshold needs a process of real data, got Absorbing"),
    (lambda: threshold(3), "denoiser must be a denoiser"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("share", [1e-3, 0.25, 0.5, 0.9, 0.995, 0.9999, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 3072])
def test_the_quantile_is_that_of_torch(share: float, size: int) -> None:
    """Of the largest values alone, to the rounding of one interpolation."""
    values = Noise(0, 3).normal((size,)).abs()
    torch.testing.assert_close(upper_quantile(values, share), torch.quantile(values, share, dim=1), rtol=1e-12, atol=0)


def test_the_quantile_of_more_numbers_than_torch_takes() -> None:
    values = torch.arange(2**24 + 1.0, dtype=torch.float64)[None]
    assert float(upper_quantile(values, 0.9999)) == pytest.approx(0.9999 * 2**24, rel=1e-12)
