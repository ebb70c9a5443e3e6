"""Pictures of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from langevin import training
from langevin._errors import UserError


def test_grid_places_images_by_row() -> None:
    """Image i stands at row i // columns and column i % columns; −1 is black, 1 is white, the gap is white."""
    x = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 2, 3)
    picture = np.asarray(training.grid(x, columns=3))
    scale = 48 // 3
    assert picture.shape == ((2 * 3 + 1) * scale, (3 * 4 + 1) * scale, 3)
    small = picture[::scale, ::scale, 0]
    for i, value in enumerate((0, 51, 102, 153, 204, 255)):
        top, left = 1 + i // 3 * 3, 1 + i % 3 * 4
        assert (small[top : top + 2, left : left + 3] == value).all()
    assert (small[0] == 255).all()
    assert (small[3] == 255).all()


def test_grid_takes_what_samples_may_hold() -> None:
    """Values out of range are clipped, colours kept, a not-a-number is shown black."""
    x = torch.zeros(1, 3, 50, 50)
    x[0, 0], x[0, 1], x[0, 2, 0, 0] = 7.0, -7.0, torch.nan
    picture = np.asarray(training.grid(x))
    assert picture.shape == (52, 52, 3)
    assert picture[5, 5].tolist() == [255, 0, 128]
    assert picture[1, 1].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match=r"\(N, C, H, W\)"):
        training.grid(torch.zeros(2, 2))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_scatter(dim: int) -> None:
    x = torch.randn(50, dim, generator=torch.Generator().manual_seed(0))
    plain = np.asarray(training.scatter(x))
    assert plain.shape == (600, 600, 3)
    assert (np.asarray(training.scatter(x, torch.arange(50) % 3, reference=x + 1)) != plain).any()
