"""Super-resolution and blur against independent code: block means, torch's antialiased bicubic, scipy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operator_table import f64, positive
from scipy import ndimage
from torch.nn.functional import avg_pool2d, interpolate

from langevin import operators as O

CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_box_is_the_mean_of_blocks(factor):
    x = f64(2, 3, 12, 24)
    torch.testing.assert_close(O.SuperResolution(factor)(x), avg_pool2d(x, factor), **CLOSE)


def test_box_of_a_fraction_is_the_mean_of_the_area():
    """1.5: an image whose pixels are doubled, in blocks of three."""
    x = f64(2, 1, 6, 9)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(O.SuperResolution(1.5)(x), avg_pool2d(doubled, 3), **CLOSE)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(11, 25), (13, 8)])
def test_box_of_any_size(factor, size):
    """The last block is the mean of the pixels that it has; a factor of half its size does so to doubled pixels."""
    x = f64(2, 1, *size)
    small = O.SuperResolution(factor, size=size)
    assert small.measured((1, *size)) == (1, *(math.ceil(n / factor) for n in size))
    torch.testing.assert_close(small(x), avg_pool2d(x, factor, ceil_mode=True), **CLOSE)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    half = O.SuperResolution(factor / 2, size=size)
    torch.testing.assert_close(half(x), avg_pool2d(doubled, factor, ceil_mode=True), **CLOSE)


@pytest.mark.parametrize("factor", [2, 3, 2.5])
def test_bicubic_of_any_size(factor):
    """Of an image that lies in its own mirror images: torch's antialiased bicubic by the factor itself."""
    size, edge = (61, 62), 60
    x = f64(2, 1, *size)
    mirrored = np.pad(x.numpy(), ((0, 0), (0, 0), (edge, edge), (edge, edge)), mode="symmetric")
    large = interpolate(torch.from_numpy(mirrored), scale_factor=1 / factor, mode="bicubic", antialias=True)
    cut = round(edge / factor)
    rows, columns = (slice(cut, cut + math.ceil(n / factor)) for n in size)
    found = O.SuperResolution(factor, "bicubic", size=size)(x)
    torch.testing.assert_close(found, large[..., rows, columns], **CLOSE)


def test_a_factor_that_is_nearly_a_fraction():
    """1.333333 is 4/3: six pixels of eight, and not a seventh of a millionth."""
    near, exact = O.SuperResolution(1.333333), O.SuperResolution(4 / 3)
    x = f64(1, 1, 8, 8)
    assert near.measured((1, 8, 8)) == (1, 6, 6)
    torch.testing.assert_close(near(x), exact(x), **CLOSE)


@pytest.mark.parametrize("factor", [2, 3, 4, 1.5, 2.5])
def test_bicubic_with_a_mirror(factor):
    """torch's antialiased bicubic cuts the kernel off at the edge; with mirror images around it cuts nothing."""
    x = f64(2, 1, 60, 30 if factor != 4 else 120)
    edge = 60
    mirrored = np.pad(x.numpy(), ((0, 0), (0, 0), (edge, edge), (edge, edge)), mode="symmetric")
    size = tuple(round(n / factor) for n in mirrored.shape[-2:])
    large = interpolate(torch.from_numpy(mirrored), size=size, mode="bicubic", antialias=True)
    cut = round(edge / factor)
    torch.testing.assert_close(O.SuperResolution(factor, "bicubic")(x), large[..., cut:-cut, cut:-cut], **CLOSE)


def test_bicubic_does_not_alias():
    """Waves above the highest frequency of the small image leave nothing, but where the mirror breaks them.

    The transform of Keys' kernel is below 0.01 beyond twice that frequency; plain interpolation keeps most of a wave.
    """
    for frequency in (0.55, 0.7):  # of that of the large image
        wave = torch.cos(math.pi * frequency * torch.arange(64, dtype=torch.float64)).expand(1, 1, 64, 64)
        assert O.SuperResolution(4, "bicubic")(wave)[..., 2:-2].abs().max() < 0.01
        assert interpolate(wave, size=(16, 16), mode="bicubic").abs().max() > 0.5


MODES = {"circular": "wrap", "reflect": "reflect", "zero": "constant"}


@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("size", [(3, 3), (3, 5), (4, 2), (1, 6), (9, 7)])
@pytest.mark.parametrize("product", [False, True])
def test_blur_is_scipys_convolution(boundary, size, product):
    kernel = positive(*size)
    if product:
        kernel = kernel.sum(1, keepdim=True) * kernel.sum(0)
    x = f64(2, 2, 9, 10)
    wanted = [[ndimage.convolve(c.numpy(), kernel.numpy(), mode=MODES[boundary]) for c in s] for s in x]
    torch.testing.assert_close(O.Blur(kernel, boundary)(x), torch.from_numpy(np.array(wanted)), **CLOSE)


def test_kernel_larger_than_the_image():
    """It is wound round, or mirrored again."""
    x, kernel = f64(1, 1, 4, 5), positive(13, 11)
    for boundary, mode in MODES.items():
        wanted = ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=mode)
        torch.testing.assert_close(O.Blur(kernel, boundary)(x)[0, 0], torch.from_numpy(wanted), **CLOSE)


@pytest.mark.parametrize("std", [0.3, 0.8, 2.0])
def test_gaussian_blur_is_scipys(std):
    x = f64(1, 1, 20, 15)
    for boundary, mode in MODES.items():
        wanted = ndimage.gaussian_filter(x[0, 0].numpy(), std, mode=mode, radius=max(1, int(4 * std + 0.5)))
        torch.testing.assert_close(O.gaussian_blur(std, boundary)(x)[0, 0], torch.from_numpy(wanted), **CLOSE)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135, 200])
@pytest.mark.parametrize("length", [1.0, 5.0, 8.5])
def test_motion_blur_is_a_line(length, angle):
    """Mass 1, centred; the second moment along the line L²/12, across 0, each with that of linear interpolation.

    Linear interpolation of a point between pixels at f adds f(1 − f) along each axis: 0 to ¼, and nothing between axes.
    """
    kernel = O.motion_blur(length, angle).kernel
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    rows = (kernel.shape[0] // 2 - torch.arange(kernel.shape[0], dtype=torch.float64))[:, None]  # upwards
    columns = torch.arange(kernel.shape[1], dtype=torch.float64) - kernel.shape[1] // 2
    assert abs(float((kernel * rows).sum())) < 1e-9
    assert abs(float((kernel * columns).sum())) < 1e-9
    across, along = float((kernel * rows**2).sum()), float((kernel * columns**2).sum())
    both = float((kernel * rows * columns).sum())
    wanted, turn = length**2 / 12, math.radians(angle)
    assert -2e-3 <= along - wanted * math.cos(turn) ** 2 <= 0.25
    assert -2e-3 <= across - wanted * math.sin(turn) ** 2 <= 0.25
    assert abs(both - wanted * math.sin(turn) * math.cos(turn)) < 2e-3 * wanted + 2e-3


def test_straight_motions_are_products():
    """Across and upwards the kernel is one line of pixels, with singular values for every boundary."""
    assert O.motion_blur(5, 0).kernel.shape[0] == 1
    assert O.motion_blur(5, 90).kernel.shape[1] == 1
    assert O.motion_blur(5, 90, "reflect").svd((1, 8, 8)) is not None
    assert O.motion_blur(5, 30, "reflect").svd((1, 8, 8)) is None


def test_brightness_is_kept():
    """Kernels that sum to 1 keep a constant image, but where nothing lies beyond the edge."""
    x = torch.full((1, 1, 8, 8), 0.7, dtype=torch.float64)
    for op in (
        O.SuperResolution(4),
        O.SuperResolution(2, "bicubic"),
        O.gaussian_blur(2.0),
        O.motion_blur(5, 20, "reflect"),
    ):
        torch.testing.assert_close(op(x), torch.full_like(op(x), 0.7), **CLOSE)
    assert O.gaussian_blur(2.0, "zero")(x)[0, 0, 0, 0] < 0.4
