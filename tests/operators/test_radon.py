"""The Radon transform against scikit-image's and against the integrals of a disc."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from skimage import data as phantoms
from skimage import transform

from langevin import operators as O
from langevin.operators.radon import angular_widths, covering


def phantom(size: int) -> np.ndarray:
    """Shepp and Logan's head, within the circle."""
    image = transform.resize(phantoms.shepp_logan_phantom(), (size, size), anti_aliasing=True)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return image * (np.hypot(x, y) <= (size - 1) / 2)


def batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


@pytest.mark.parametrize("angles", [12, [0.0, 10.0, 33.3, 90.0, 150.0, 275.0]])
def test_it_is_scikit_images(angles):
    """Of an odd size, where both turn about the same pixel: to rounding, angles beyond 180° too."""
    image = phantom(65)
    op = O.Radon(angles, size=65, detectors=65)
    wanted = transform.radon(image, op.angles.numpy(), circle=True)
    got = op(batch(image))[0, 0].T.numpy()
    assert np.abs(got - wanted).max() < 1e-12 * np.abs(wanted).max() * 65


@pytest.mark.parametrize("size", [32, 33])
def test_the_corners_are_seen(size):
    """Every angle sees the whole mass, of a pixel in a corner too; linear interpolation keeps it on average."""
    op = O.Radon(40)
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[0, 0, 0, -1] = 1
    mass = op(image).sum(-1)[0, 0]
    assert mass.min() > 0.7
    # A pixel that is smeared over ±1 has mass 1 averaged over where it lies between detectors and steps.
    assert abs(float(mass.mean()) - 1) < 0.02
    assert op.measured((1, size, size))[2] == covering(size) >= math.sqrt(2) * size


def test_a_disc():
    """A disc of radius R gives chords 2√(R² − s²) from every side; its edge is one pixel unsharp."""
    size, radius = 96, 30.0
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
    op = O.Radon(24, size=size, detectors=size)
    s = np.arange(size) - (size - 1) / 2
    inside = np.abs(s) < radius - 2
    chord = 2 * np.sqrt(np.clip(radius**2 - s**2, 0, None))
    error = op(batch(image))[0, 0].numpy()[:, inside] - chord[inside]
    assert np.abs(error).max() < 1.0  # half a pixel at either end
    assert np.abs(error.mean()) < 0.05


def test_directions():
    """At 0° the columns are summed, at 90° the rows: from the bottom to the top, as the ray of s goes up then."""
    image = phantom(33) + 0
    image[5, 20] = 9
    op = O.Radon([0.0, 90.0], size=33, detectors=33)
    y = op(batch(image))[0, 0].numpy()
    assert np.allclose(y[0], image.sum(0))
    assert np.allclose(y[1], image.sum(1)[::-1])


def test_filtered_back_projection_is_iradon():
    image = phantom(129)
    op = O.Radon(60, size=129, detectors=129)
    y = op(batch(image))
    ours = op.filtered_back_projection(y)[0, 0].numpy()
    theirs = transform.iradon(y[0, 0].T.numpy(), op.angles.numpy(), circle=True)
    row, column = np.mgrid[:129, :129] - 64
    inside = np.hypot(row, column) < 64
    psnr = lambda a: 20 * np.log10(image.max() / np.sqrt(((a - image)[inside] ** 2).mean()))
    assert np.abs(ours - theirs)[inside].max() < 1e-12
    assert psnr(ours) > 28
    even = O.Radon(60)
    small = phantom(64)
    rebuilt = even.filtered_back_projection(even(batch(small)))[0, 0].numpy()
    assert np.abs(rebuilt - small).mean() < 0.06


def test_limited_angles_and_more_views():
    """More views are better; a missing wedge is worse; every angle stands for what lies around it."""
    image = phantom(65)
    error = {}
    for name, angles in {"12": 12, "90": 90, "wedge": np.arange(0, 120, 2.0)}.items():
        op = O.Radon(angles, size=65, detectors=65)
        found = op.filtered_back_projection(op(batch(image)))[0, 0].numpy()
        error[name] = float(np.sqrt(((found - image) ** 2).mean()))
    assert error["90"] < 0.6 * error["12"]
    assert error["90"] < 0.8 * error["wedge"]
    widths = torch.rad2deg(angular_widths(torch.tensor([0.0, 10.0, 20.0, 40.0], dtype=torch.float64)))
    assert widths.tolist() == pytest.approx([10, 10, 15, 15])  # gaps 10, 10, 20 and one that was not measured, 10
    assert float(angular_widths(torch.tensor([30.0])).sum()) == pytest.approx(math.pi)
    assert float(angular_widths(O.Radon(7).angles).sum()) == pytest.approx(math.pi)


def test_size_from_the_measurement():
    for size in range(2, 200):
        assert O.Radon(3).domain((1, 3, covering(size))) == (1, size, size)


def test_differentiable_twice():
    op = O.Radon(4, size=6)
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, (x,))
    assert torch.autograd.gradgradcheck(lambda v: op(v).square(), (x,))


def test_a_pass_takes_less_than_a_tenth_of_a_second():
    """128 × 128, 60 angles: the best of five, so that a busy machine does not fail it."""
    op, x = O.Radon(60), torch.zeros(1, 1, 128, 128)
    y = op(x)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        op.adjoint(y)
        op(x)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2
