"""Beliefs about larger images by overlapping tiles: exact where tiles know all, without seams, any size."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import langevin
from langevin import Noise, UserError, denoisers, processes, samplers, worlds
from langevin.denoisers import Denoiser, tiled
from langevin.denoisers.tiled import ramp, starts
from langevin.distributions import Dirac

F64 = torch.float64
VP = processes.VP()


@dataclass(frozen=True, eq=False)
class White(Denoiser):
    """The exact belief about white images N(m, c), one mean a sample if it is bound as a label."""

    shape: tuple[int, ...]
    process: Any = VP
    c: float = 0.5
    label: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=F64))

    def conditions(self):
        return ("label",)

    def _bind(self, condition):
        return White(self.shape, self.process, self.c, torch.as_tensor(condition["label"], dtype=F64).reshape(-1))

    def rows(self, index):
        return self if len(self.label) == 1 else White(self.shape, self.process, self.c, self.label[index])

    def __call__(self, x_t, t):
        expand = processes.expand
        t = processes.as_time(t)
        m = expand(self.label, x_t)
        a, v = expand(self.process.alpha(t), x_t), expand(self.process.sigma2(t), x_t)
        return Dirac(m + a * self.c / (a**2 * self.c + v) * (x_t - a * m))


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (13, 21), (32, 16)])
def test_white_images_are_exact(size):
    """Of white noise a pixel's belief depends on the pixel alone: tiles say what the whole says, to rounding.

    Weights that sum to 1 err by a few roundings of 1e-16.
    """
    x, t = Noise(0, 3).normal((2, *size)), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    label = torch.tensor([0.3, -0.2, 0.7], dtype=F64)
    for overlap in (None, 0, 1, (3, 5)):
        for batch in (1, 7, 64):
            made = tiled(White((2, 8, 8)), (2, *size), overlap, batch=batch).given(label=label)
            whole = White((2, *size)).given(label=label)
            torch.testing.assert_close(made(x, t).mean, whole(x, t).mean, rtol=0, atol=1e-14)
            one = made.rows(torch.tensor([2]))(x[2:], 0.9).mean
            torch.testing.assert_close(one, whole(x, t).mean[2:], rtol=0, atol=1e-14)


def test_sampled_as_any_other():
    """The same samples as from the exact belief about the whole."""
    settings = {"n": 3, "steps": 6, "seed": 4}
    for rule in (samplers.DDIM(), samplers.Ancestral(), None):
        made = langevin.sample(tiled(White((1, 8, 8)), (1, 11, 14)), rule, **settings)
        torch.testing.assert_close(made, langevin.sample(White((1, 11, 14)), rule, **settings), rtol=0, atol=1e-12)


def test_tiles_cover_and_overlap():
    for size in range(8, 40):
        for overlap in (0, 2, 5, 7):
            first = starts(size, 8, overlap)
            assert first[0] == 0
            assert first[-1] == size - 8
            assert all(0 < b - a <= 8 - overlap for a, b in itertools.pairwise(first))
    assert bool((ramp(8, 3) > 0).all())
    assert ramp(8, 3)[3:5].tolist() == [1, 1]
    torch.testing.assert_close(ramp(8, 3), ramp(8, 3).flip(0))


@dataclass(frozen=True, eq=False)
class Sheets(Denoiser):
    """A belief that is one number all over its tile: the mean of the tile. Tiles disagree by what lies between them."""

    shape: tuple[int, ...]
    process: Any = VP

    def __call__(self, x_t, t):
        return Dirac(x_t.mean((2, 3), keepdim=True).expand_as(x_t))


def test_without_seams():
    """Where tiles disagree most, on a slope, the mean rises no faster across a seam than sin² does.

    Tiles say their own mean. Where two are weighted by w and 1 − w, the mean moves by the change of w from pixel to
    pixel, at most π/(2·overlap), times how far they disagree; without the windows it would jump by all of that.
    """
    overlap, tile = 8, 16
    x = torch.linspace(0, 1, 64, dtype=F64).expand(1, 1, 16, 64)
    first = starts(64, tile, overlap)
    apart = max(b - a for a, b in itertools.pairwise(first)) / 63
    mean = tiled(Sheets((1, tile, tile)), (1, 16, 64), overlap)(x, 0.5).mean
    steepest = torch.pi / 2 / overlap * apart
    assert 0.5 * steepest < float(mean.diff(dim=3).max()) < 1.1 * steepest
    torch.testing.assert_close(mean, mean[:, :, :1].expand_as(mean))


def test_conditions_that_are_pictures_are_cut():
    """Each tile is told its own part."""

    @dataclass(frozen=True, eq=False)
    class Told(White):
        picture: Any = None

        def conditions(self):
            return ("image", "label")

        def _bind(self, condition):
            return Told(self.shape, picture=condition["image"])

        def __call__(self, x_t, t):
            return Dirac(self.picture.to(x_t))

    image = Noise(0, 2).normal((1, 12, 19))
    made = tiled(Told((1, 8, 8)), (1, 12, 19)).given(image=image)
    torch.testing.assert_close(made(torch.zeros_like(image), 0.5).mean, image)
    with pytest.raises(UserError, match="image must be of the size of the tiled image, 12 × 19"):
        tiled(Told((1, 8, 8)), (1, 12, 19)).given(image=torch.zeros(2, 1, 8, 8))


def test_gradients_pass():
    x = Noise(0, 1).normal((1, 9, 9)).requires_grad_()
    tiled(White((1, 8, 8)), (1, 9, 9))(x, 0.5).mean.sum().backward()
    assert bool((x.grad > 0).all())


def test_refusals():
    white = White((1, 8, 8))
    for call, message in (
        (lambda: tiled(white, (1, 7, 8)), r"shape must be \(1, H, W\) with H of at least 8"),
        (lambda: tiled(white, (3, 16, 16)), r"shape must be \(1, H, W\)"),
        (lambda: tiled(white, (1, 16.0, 16)), "shape must be"),
        (lambda: tiled(white, (1, 16, 16), 8), "overlap must be an integer from 0 to 7"),
        (lambda: tiled(white, (1, 16, 16), batch=0), "batch must be"),
        (lambda: tiled(worlds.ring().denoiser(VP), (1, 16, 16)), "tiles are of images"),
        (lambda: tiled("model", (1, 16, 16)), "denoiser must be a denoiser"),
        (lambda: tiled(white, (1, 16, 16))(torch.zeros(2, 1, 8, 8), 0.5), "x_t must have shape"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_time_of_level_and_cut():
    """The time of σ/α, and the part of a grid below it."""
    for process in (VP, processes.EDM(), processes.RectifiedFlow(), processes.DDPM()):
        for level in (0.05, 1.0, 20.0):
            t = samplers.grids.time_of_level(process, level)
            assert float(torch.exp(-process.log_snr(t) / 2)) == pytest.approx(level, rel=1e-9)
            grid = samplers.default_grid(process, 12)
            times = samplers.grids.cut(grid, t)
            assert times[0] == t
            assert torch.equal(times[1:], grid[grid < t])
        grid = samplers.default_grid(process, 12)
        assert torch.equal(samplers.grids.cut(grid, grid[3]), grid[3:])
    with pytest.raises(UserError, match=r"strength must be a noise level σ/α from .* to .*, got 1e\+06"):
        samplers.grids.time_of_level(VP, 1e6, "strength")
    with pytest.raises(UserError, match="strength must be a finite number"):
        samplers.grids.time_of_level(VP, float("nan"), "strength")


def test_is_registered():
    assert langevin.methods("denoisers")
    assert any(m.name == "tiled" for m in langevin.methods("denoisers"))
    assert denoisers.tiled is tiled
