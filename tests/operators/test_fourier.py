"""Masked Fourier transforms: numpy's transform, the lines of a mask, coils."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_table import f64

from langevin import UserError
from langevin import operators as O


def test_it_is_numpys_transform():
    x = f64(2, 2, 6, 9)
    z = x[:, 0].numpy() + 1j * x[:, 1].numpy()
    wanted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(z, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    got = torch.view_as_complex(O.Fourier(torch.ones(9), channels=2)(x))[:, 0].numpy()
    assert np.abs(got - wanted).max() < 1e-14
    real = torch.view_as_complex(O.Fourier(torch.ones(6, 9))(x[:, :1]))[:, 0].numpy()
    z = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(z.real, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    assert np.abs(real - z).max() < 1e-14


def test_the_mean_stands_in_the_middle():
    y = O.Fourier(torch.ones(8))(torch.ones(1, 1, 6, 8, dtype=torch.float64))
    assert torch.nonzero(y.abs() > 1e-12).tolist() == [[0, 0, 3, 4, 0]]


def test_everything_measured_gives_the_image_back():
    x = f64(2, 2, 7, 8)
    for coils in (None, O.coil_maps(5, (7, 8))):
        op = O.Fourier(torch.ones(8), coils, 2)
        torch.testing.assert_close(op.adjoint(op(x)), x, rtol=0, atol=1e-13)  # Σ|c|² = 1: A is an isometry
        torch.testing.assert_close(op.pseudo_inverse(op(x), tolerance=1e-12), x, rtol=0, atol=1e-10)


def test_coils_fill_what_the_mask_leaves_out():
    """Half of the lines through four coils determine the image; through one they do not."""
    x = f64(1, 2, 8, 16)
    mask = O.cartesian_mask(16, 2, kind="equispaced", seed=1)
    many = O.Fourier(mask, O.coil_maps(4, (8, 16)), 2)
    one = O.Fourier(mask, channels=2)
    torch.testing.assert_close(many.pseudo_inverse(many(x), tolerance=1e-12), x, rtol=0, atol=1e-7)
    assert (one.pseudo_inverse(one(x)) - x).norm() > 0.3 * x.norm()


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize(("width", "acceleration"), [(64, 4), (63, 8), (28, 4), (320, 8), (16, 1)])
def test_cartesian_mask(kind, width, acceleration):
    mask = O.cartesian_mask(width, acceleration, kind=kind, seed=2)
    assert int(mask.sum()) == round(width / acceleration)
    centre = round(width * 0.32 / acceleration)
    low = width // 2 - centre // 2
    assert mask[low : low + centre].all()
    assert torch.equal(mask, O.cartesian_mask(width, acceleration, kind=kind, seed=2))
    if acceleration > 1:
        others = [O.cartesian_mask(width, acceleration, kind=kind, seed=s) for s in range(3, 12)]
        assert not all(torch.equal(mask, other) for other in others)


def test_the_middle_is_symmetric():
    """Of an odd number of lines about the lowest frequency, for odd and even widths."""
    for width in (32, 33):
        mask = O.cartesian_mask(width, 6, centre=5 / width, seed=0)
        assert mask[width // 2 - 2 : width // 2 + 3].all()


def test_equispaced_lines_are():
    lines = torch.nonzero(O.cartesian_mask(200, 4, centre=0.01, kind="equispaced", seed=3))[:, 0]
    gaps = lines.diff()
    assert set(gaps[(gaps > 1)].tolist()) <= {3, 4, 5, 6}


def test_coil_maps():
    maps = O.coil_maps(6, (3, 20, 24))
    assert maps.shape == (6, 20, 24)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(20, 24, dtype=torch.float64))
    # The first coil stands to the right: it is strongest there, and smooth.
    assert maps[0, 10, -1].abs() > maps[0, 10, 0].abs() * 2
    assert maps.diff(dim=-1).abs().max() < 0.25  # 24 pixels across
    # Turned by 60° coil j is coil j + 1; by 180°, three on.
    torch.testing.assert_close(maps[0].abs().flip(0, 1), maps[3].abs())
    torch.testing.assert_close(O.coil_maps(1, (4, 4)).abs(), torch.ones(1, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: O.cartesian_mask(0, 4), "width must be"),
        (lambda: O.cartesian_mask(16, 0.5), "acceleration must be >= 1"),
        (lambda: O.cartesian_mask(16, 4, centre=0.5), "centre must leave room"),
        (lambda: O.cartesian_mask(16, 4, kind="spiral"), "unknown kind"),
        (lambda: O.coil_maps(0, (4, 4)), "coils must be"),
        (lambda: O.coil_maps(2, (4,)), "shape must be"),
    ],
)
def test_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
