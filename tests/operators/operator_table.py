"""All operators by name, each with the shape of data that it measures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from langevin import operators as O
from langevin import worlds
from linear_codec import linear_codec


def f64(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(*shape: int) -> torch.Tensor:
    values = f64(*shape).abs() + 0.1
    return values / values.sum()


@dataclass(frozen=True)
class Row:
    """An operator and data for it; whether its singular values are known in closed form."""

    operator: O.Operator
    shape: tuple[int, ...]
    svd: bool = True


LINES = O.cartesian_mask(8, 2, centre=0.25, seed=3)
PIXELS = O.random_mask((6, 9), 0.4, seed=1)

LINEAR = {
    "inpaint": Row(O.Inpaint(PIXELS), (2, 6, 9)),
    "inpaint-channels": Row(O.Inpaint(f64(3, 4, 4) > 0), (3, 4, 4)),
    "uncrop": Row(O.Uncrop((6, 8), 0.5), (1, 6, 8)),
    "matrix-wide": Row(O.Matrix(f64(5, 12), (1, 3, 4)), (1, 3, 4)),
    "matrix-tall": Row(O.Matrix(f64(9, 6)), (6,)),
    "matrix-deficient": Row(O.Matrix(f64(6, 2) @ f64(2, 8, seed=1)), (8,)),
    "compressed-sensing": Row(O.compressed_sensing((2, 4, 4), 10), (2, 4, 4)),
    "separable": Row(O.Separable(f64(3, 5), f64(8, 6, seed=1)), (2, 5, 6)),
    "separable-deficient": Row(O.Separable(f64(4, 2) @ f64(2, 5, seed=1), f64(3, 3, seed=2)), (1, 5, 3)),
    "super-resolution-2": Row(O.SuperResolution(2), (1, 6, 8)),
    "super-resolution-3": Row(O.SuperResolution(3), (2, 6, 9)),
    "super-resolution-1.5": Row(O.SuperResolution(1.5), (1, 6, 9)),
    "super-resolution-2.5": Row(O.SuperResolution(2.5, "bicubic"), (1, 5, 10)),
    "super-resolution-all": Row(O.SuperResolution(6), (1, 6, 6)),
    "super-resolution-1": Row(O.SuperResolution(1), (1, 3, 4)),
    "super-resolution-beyond": Row(O.SuperResolution(2.5), (1, 7, 5)),  # ⌊3·2.5⌋ = 7
    "super-resolution-size": Row(O.SuperResolution(2, size=(7, 9)), (2, 7, 9)),
    "super-resolution-2.5-size": Row(O.SuperResolution(2.5, size=(8, 9)), (1, 8, 9)),
    "bicubic-size": Row(O.SuperResolution(3, "bicubic", size=(7, 8)), (1, 7, 8)),
    "bicubic-2.5-size": Row(O.SuperResolution(2.5, "bicubic", size=(8, 6)), (1, 8, 6)),
    "bicubic-2": Row(O.SuperResolution(2, "bicubic"), (1, 8, 6)),
    "bicubic-4": Row(O.SuperResolution(4, "bicubic"), (2, 8, 8)),
    "blur-even": Row(O.Blur(positive(3, 4)), (2, 6, 8)),
    "blur-odd": Row(O.Blur(positive(4, 3)), (1, 5, 7)),
    "blur-one-even": Row(O.Blur(positive(9, 2)), (1, 7, 6)),
    "blur-zeros": Row(O.Blur(torch.full((1, 2), 0.5)), (1, 4, 6)),  # nothing of the highest frequency
    "blur-signed": Row(O.Blur(f64(3, 3)), (1, 5, 6)),
    "blur-reflect": Row(O.Blur(positive(3, 4), "reflect"), (2, 5, 6), svd=False),
    "blur-zero": Row(O.Blur(positive(3, 3), "zero"), (1, 5, 6), svd=False),
    "gaussian-circular": Row(O.gaussian_blur(0.7), (1, 6, 7)),
    "gaussian-reflect": Row(O.gaussian_blur(0.7, "reflect"), (2, 6, 7)),
    "gaussian-zero": Row(O.gaussian_blur(0.7, "zero"), (1, 6, 7)),
    "motion-across": Row(O.motion_blur(3, 0, "reflect"), (1, 6, 8)),
    "motion": Row(O.motion_blur(4, 30), (1, 7, 8)),
    "colourise": Row(O.Colourise(), (3, 4, 5)),
    "colourise-own": Row(O.Colourise((1.0, -0.5, 0.0)), (3, 3, 3)),
    "fourier": Row(O.Fourier(LINES), (1, 6, 8)),
    "fourier-odd": Row(O.Fourier(f64(5, 7) > 0.3), (1, 5, 7)),
    "fourier-even": Row(O.Fourier(f64(6, 8) > 0.3), (1, 6, 8)),
    "fourier-complex": Row(O.Fourier(LINES, channels=2), (2, 6, 8)),
    "fourier-complex-odd": Row(O.Fourier(f64(5, 7) > 0, channels=2), (2, 5, 7)),
    "coils": Row(O.Fourier(LINES, O.coil_maps(3, (6, 8))), (1, 6, 8), svd=False),
    "coils-complex": Row(O.Fourier(LINES, O.coil_maps(4, (6, 8)), 2), (2, 6, 8), svd=False),
    "radon": Row(O.Radon(5), (1, 6, 6), svd=False),
    "radon-limited": Row(O.Radon([10.0, 20.0, 100.0], size=7, detectors=7), (1, 7, 7), svd=False),
    "chain": Row(O.SuperResolution(2) @ O.gaussian_blur(0.7), (1, 6, 8), svd=False),
    "reshaped": Row(O.Reshaped(O.SuperResolution(2), (1, 4, 6)), (24,)),
    "reshaped-chain": Row(O.Reshaped(O.Inpaint(PIXELS) @ O.gaussian_blur(0.5), (1, 6, 9)), (54,), svd=False),
    "dense": Row(O.Dense(O.Radon(4), (1, 5, 5)), (1, 5, 5)),
    "dense-coils": Row(O.Dense(O.Fourier(LINES, O.coil_maps(2, (4, 8)), 2), (2, 4, 8)), (2, 4, 8)),
}

SMALL_LINES = O.cartesian_mask(4, 2, centre=0.25, seed=3)

SMALL = {
    "inpaint": Row(O.Inpaint(O.random_mask((4, 4), 0.4)), (1, 4, 4)),
    "uncrop": Row(O.Uncrop((4, 4), 0.5), (1, 4, 4)),
    "super-resolution": Row(O.SuperResolution(2), (1, 4, 4)),
    "super-resolution-1.5": Row(O.SuperResolution(1.5, size=(4, 4)), (1, 4, 4)),
    "bicubic": Row(O.SuperResolution(2, "bicubic"), (1, 4, 4)),
    "blur": Row(O.gaussian_blur(0.8, "reflect"), (1, 4, 4)),
    "motion": Row(O.motion_blur(3, 45.0), (1, 4, 4)),
    "colourise": Row(O.Colourise(), (3, 2, 2)),
    "compressed-sensing": Row(O.compressed_sensing((1, 4, 4), 6), (1, 4, 4)),
    "fourier": Row(O.Fourier(SMALL_LINES), (1, 4, 4)),
    "coils": Row(O.Fourier(SMALL_LINES, O.coil_maps(2, (4, 4))), (1, 4, 4)),
    "radon": Row(O.Radon(3), (1, 4, 4)),
    "radon-limited": Row(O.Radon([0.0, 15.0, 30.0]), (1, 4, 4)),
    "chain": Row(O.SuperResolution(2) @ O.gaussian_blur(0.7), (1, 4, 4)),
}
"""The linear operators, on pictures of so few numbers that their laws are known by samples."""


def small(name: str) -> tuple[worlds.GaussianMixture, O.Operator, float]:
    """A mixture of data of that size, the operator for its vectors, and the unit of its noise.

    A measurement of Radon is a sum of four pixels: noise is the same share of it as of a pixel.
    """
    row = SMALL[name]
    size = math.prod(row.shape)
    world = worlds.random_mixture(size, components=4, rms=0.5, seed=1)
    return world, O.Reshaped(row.operator, row.shape), 3.0 if name.startswith("radon") else 1.0


NONLINEAR = {
    "jpeg": Row(O.JPEG(30), (3, 12, 17)),
    "jpeg-grey": Row(O.JPEG(10, straight_through=False), (1, 8, 8)),
    "jpeg-444": Row(O.JPEG(90, "4:4:4"), (3, 8, 9)),
    "phase": Row(O.Phase(2), (1, 4, 6)),
    "phase-3/2": Row(O.Phase(1.5), (2, 4, 6)),
    "saturate": Row(O.Saturate(3), (2, 5)),
    "nonlinear": Row(O.Nonlinear(lambda x: x.square().sum(1), lambda s: s[1:]), (3, 4)),
    "chain-nonlinear": Row(O.Saturate(2) @ O.SuperResolution(2), (1, 4, 4)),
    "decoded": Row(O.Decoded(O.SuperResolution(2), linear_codec(f64(16, 6), shape=(1, 4, 4))), (6,)),
    "reshaped-nonlinear": Row(O.Reshaped(O.Phase(1), (1, 3, 4)), (12,)),
}
