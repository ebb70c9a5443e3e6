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
    picture = np.asarray(training.image_grid(x, columns=3))
    scale = 96 // 3
    assert picture.shape == ((2 * 3 + 1) * scale, (3 * 4 + 1) * scale, 3)
    small = picture[::scale, ::scale, 0]
    for i, value in enumerate((0, 51, 102, 153, 204, 255)):
        top, left = 1 + i // 3 * 3, 1 + i % 3 * 4
        assert (small[top : top + 2, left : left + 3] == value).all()
    assert (small[0] == 255).all()
    assert (small[3] == 255).all()
    grey = np.asarray(training.image_grid(x, columns=3, line=160))[::scale, ::scale, 0]
    assert (grey[[0, 3]] == 160).all()
    assert (grey[1:3, 1:4] == 0).all()


def test_grid_takes_what_samples_may_hold() -> None:
    """Values out of range are clipped, colours kept, a not-a-number is shown black."""
    x = torch.zeros(1, 3, 50, 50)
    x[0, 0], x[0, 1], x[0, 2, 0, 0] = 7.0, -7.0, torch.nan
    picture = np.asarray(training.image_grid(x))
    assert picture.shape == (52, 52, 3)
    assert picture[5, 5].tolist() == [255, 0, 128]
    assert picture[1, 1].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match=r"\(N, C, H, W\)"):
        training.image_grid(torch.zeros(2, 2))


@pytest.mark.parametrize(("side", "columns", "scale"), [(8, 10, 12), (32, 16, 3), (64, 8, 1), (8, 40, 5), (200, 2, 1)])
def test_small_images_are_enlarged_to_be_looked_at(side: int, columns: int, scale: int) -> None:
    """By a whole factor, pixel by pixel: to 96 pixels, unless the sheet would be wider than 2,048."""
    x = torch.rand(2 * columns, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = np.asarray(training.image_grid(x, columns))
    assert picture.shape == ((2 * (side + 1) + 1) * scale, (columns * (side + 1) + 1) * scale, 3)
    assert picture.shape[1] <= 2048
    assert (picture == picture[::scale, ::scale].repeat(scale, 0).repeat(scale, 1)).all()


def test_grid_names_its_columns_or_the_whole() -> None:
    """Above the same picture, a line with ink over each named column, none beyond the column's edge."""
    x = torch.zeros(6, 1, 8, 8)
    plain = np.asarray(training.image_grid(x, 3))
    named = np.asarray(training.image_grid(x, 3, names=["cat", "", "a name that no column has room for"]))
    line, below = named[: -len(plain)], named[-len(plain) :]
    assert (below == plain).all()
    step, gap = 9 * 12, 12
    ink = [(line[:, gap + i * step : (i + 1) * step] < 128).any() for i in range(3)]
    assert ink == [True, False, True]
    assert (line[:, :gap] == 255).all()
    assert (line[:, -gap:] == 255).all()
    whole = np.asarray(training.image_grid(x, 3, names=["a name that one column has no room for"]))
    assert (whole[: len(line), step + gap :] < 128).any()
    with pytest.raises(UserError, match="one for each of 3 columns, or one of the whole; got 2"):
        training.image_grid(x, 3, names=["a", "b"])


def test_an_image_is_written_pixel_for_pixel() -> None:
    x = torch.tensor([[[-1.0, 0.0], [1.0, 9.0]]])
    assert np.asarray(training.image(x)).tolist() == [[0, 128], [255, 255]]
    assert training.image(x).mode == "L"
    assert np.asarray(training.image(x.expand(3, 2, 2), low=0.0)).tolist()[1] == [[255] * 3] * 2
    assert np.asarray(training.image(torch.cat([x, -x]))).tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_scatter(dim: int) -> None:
    x = torch.randn(50, dim, generator=torch.Generator().manual_seed(0))
    plain = np.asarray(training.scatter(x))
    assert plain.shape == (600, 600, 3)
    assert (np.asarray(training.scatter(x, torch.arange(50) % 3, reference=x + 1)) != plain).any()
