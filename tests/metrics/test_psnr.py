"""The peak signal-to-noise ratio against its closed form and against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import psnr


def test_it_is_the_formula() -> None:
    x = torch.zeros(3, 1, 4, 4)
    off = torch.tensor([0.1, 0.2, 2.0]).view(-1, 1, 1, 1)
    truth = [20 * math.log10(2 / d) for d in (0.1, 0.2, 2.0)]
    torch.testing.assert_close(psnr(x + off, x), torch.tensor(truth).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(psnr(x + off, x, low=0.0, high=1.0)[0], torch.tensor(20.0).double(), rtol=0, atol=1e-6)
    assert psnr(x, x)[0] == math.inf


def test_it_is_torchmetrics_own() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = (torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    theirs = [peak_signal_noise_ratio(a[None], b[None], data_range=2.0) for a, b in zip(x, y)]
    torch.testing.assert_close(psnr(x, y), torch.stack(theirs).double(), rtol=1e-5, atol=1e-5)


def test_refusals() -> None:
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(UserError, match="originals must have the shape of samples"):
        psnr(x, x[:1])
    with pytest.raises(UserError, match="low must be below high"):
        psnr(x, x, low=1.0, high=0.0)
