"""Ellipse phantoms against the areas of ellipses."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, UserError, data
from langevin.data.ellipses import inside, phantoms


def one(a, b, x, y, angle, size=128):
    at = (torch.arange(size) + 0.5) * (2 / size) - 1
    return inside(at, size, *(torch.tensor([v]) for v in (a, b, x, y, angle)))


@pytest.mark.parametrize(("a", "b", "x", "y", "angle"), [(0.5, 0.5, 0.0, 0.0, 0.0), (0.6, 0.2, 0.1, -0.3, 0.7)])
def test_the_area_of_an_ellipse(a, b, x, y, angle):
    """πab; the edge is a pixel wide, so the area is right to second order in its width over the radius of curvature.

    The smallest radius of curvature is b²/a = 0.067, 4.3 pixels: (1/4.3)²/12 = 0.5 % of the area of the edge's band.
    """
    size = 128
    area = float(one(a, b, x, y, angle).sum()) * (2 / size) ** 2
    assert abs(area / (math.pi * a * b) - 1) < 0.005
    image = one(a, b, x, y, angle)[0]
    at = (torch.arange(size) + 0.5) * (2 / size) - 1
    assert abs(float((image.sum(0) * at).sum() / image.sum()) - x) < 0.005  # x runs along the width
    assert abs(float((image.sum(1) * at).sum() / image.sum()) - y) < 0.005


def test_each_phantom_is_its_own():
    """A sample of the noise, whatever batch it stands in; densities lie in the range of data."""
    whole = phantoms(Noise(0, 6), 32)
    assert whole.shape == (6, 1, 32, 32)
    torch.testing.assert_close(phantoms(Noise(0, torch.tensor([4, 2])), 32), whole[[4, 2]], rtol=0, atol=0)
    assert whole.min() == -1
    assert -1 < whole.amax((1, 2, 3)).min() <= whole.max() <= 1
    assert (whole[:, :, 0] == -1).all(), "a body touches the border"


def test_data():
    found = data.load("ellipses", size=32, limit=50)
    assert (len(found.train), len(found.test)) == (50, 50)
    assert found.info.shape == (1, 32, 32)
    x, held = (split.batch(torch.arange(50))["x"] for split in (found.train, found.test))
    assert torch.cdist(x.flatten(1), held.flatten(1)).min() > 1
    for wrong in ({"size": 8}, {"channels": 3}):
        with pytest.raises(UserError, match="ellipses"):
            data.load("ellipses", **wrong)
