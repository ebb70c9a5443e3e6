"""Structural similarity against scikit-image."""

from __future__ import annotations

import pytest
import torch

from langevin import UserError
from langevin.metrics import ssim

skimage = pytest.importorskip("skimage.metrics")


@pytest.mark.parametrize(("shape", "window"), [((3, 1, 8, 8), 7), ((2, 3, 17, 12), 5)])
def test_parity(shape, window):
    """Equal to scikit-image's, for grey and colour, to the rounding of sums of squares."""
    g = torch.Generator().manual_seed(0)
    y = torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1
    x = (y + 0.3 * torch.randn(shape, generator=g, dtype=torch.float64)).clamp(-1, 1)
    known = [
        skimage.structural_similarity(a.numpy(), b.numpy(), data_range=2.0, channel_axis=0, win_size=window)
        for a, b in zip(x, y)
    ]
    torch.testing.assert_close(ssim(x, y, window=window), torch.tensor(known), rtol=1e-10, atol=1e-12)


def test_ends():
    """1 for equal pictures; a range twice as wide with pictures twice as large changes nothing."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 4, 1, 9, 9, generator=g, dtype=torch.float64)
    torch.testing.assert_close(ssim(x, x), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(ssim(x, y), ssim(2 * x, 2 * y, low=-2, high=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"originals": torch.zeros(1, 1, 8, 7)}, "of one shape"),
        ({"window": 4}, "odd"),
        ({"window": 9}, "from 3 to 8"),
        ({"low": 1.0}, "low must be below high"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(UserError, match=message):
        ssim(**{"samples": torch.zeros(1, 1, 8, 8), "originals": torch.zeros(1, 1, 8, 8), **change})
