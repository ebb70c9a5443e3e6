"""Cut-outs: where they are taken, what is grey, and that pictures do not depend on each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin._errors import UserError
from langevin.distributions import Noise
from langevin.guidance.cutouts import GREY, Cutouts, augmented, grey, resized


def cut(overview: int = 0, innercut: int = 0, power: float = 1.0, share: float = 0.0, **changes: Any) -> Cutouts:
    return Cutouts(overview, innercut, power, share, **{"size": (8, 8), "augment": False, **changes})


def places(side: int) -> Tensor:
    """A picture whose values say where they are: rows in the first channel, columns in the second."""
    where = torch.arange(side, dtype=torch.float64)
    return torch.stack([where[:, None].expand(side, side), where.expand(side, side)])[None]


def test_overviews_are_the_picture_in_grey_and_mirrored() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    made = torch.stack(cut(4, augment=True)._overviews(x))  # before each is changed for itself
    assert made.shape == (4, 2, 3, 8, 8)
    bright = sum(share * x[:, i] for i, share in enumerate(GREY))
    for mine, known in zip(made, (x, bright[:, None].expand_as(x), x.flip(-1), bright[:, None].expand_as(x).flip(-1))):
        torch.testing.assert_close(mine, known, rtol=0, atol=1e-6)  # the shares of colours are float32's
    assert torch.equal(cut(7, augment=True)._overviews(x)[6], x)
    assert torch.equal(torch.stack(cut(2, augment=True)._overviews(x)), made[:2])


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_without_augmentations_every_overview_is_the_picture_as_it_is(count: int) -> None:
    """For writing, which is not to be mirrored."""
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(cut(count)(x, Noise(0, 1)), x.expand(count, *x.shape))


def test_an_overview_of_a_wide_picture_has_grey_borders() -> None:
    x = torch.ones(1, 1, 4, 16)
    made = cut(1, size=(16, 16))(x, Noise(0, 1))[0, 0, 0]
    assert torch.equal(made[:6], torch.zeros(6, 16))
    assert torch.equal(made[6:10], torch.ones(4, 16))


def test_inner_cuts_are_windows_of_the_law_of_sides() -> None:
    """d = ⌊8 + u^p·24⌋: with p = 3 the share below 8 + 24/8 is ½, within five standard deviations; places are uniform.

    A window of d places brought to 8 has the mean of its places in each row and column: first + (d − 1)/2.
    """
    count, side = 800, 32
    x = places(side)
    made = cut(0, count, 3.0)(x, Noise(0, 1))[:, 0]
    middle = made.mean((2, 3))
    span = made.amax((2, 3)) - made.amin((2, 3))
    sides = span * 8 / 7  # eight means, evenly spaced by d/8; at the ends the filter is cut off, by less than 10 %
    assert torch.allclose(sides[:, 0], sides[:, 1], rtol=1e-6)  # squares
    assert float(sides.min()) > 7
    assert float(sides.max()) < 33
    # A third of the windows are 8 wide, which nothing resizes: some touch each end, but with a chance of 1e-5.
    assert made.amax((0, 2, 3)).tolist() == [side - 1] * 2
    assert made.amin((0, 2, 3)).tolist() == [0, 0]
    small = float((sides[:, 0] < 11.5).double().mean())
    assert abs(small - 0.5) < 5 * math.sqrt(0.25 / count) + 0.03  # ⌊·⌋ and the filter move the edge by half a place
    assert abs(float(middle.mean()) - (side - 1) / 2) < 5 * float(middle.std()) / math.sqrt(2 * count)
    assert abs(float(torch.corrcoef(middle.T)[0, 1])) < 5 / math.sqrt(count)


def test_a_window_is_the_picture_there() -> None:
    """Where side and place are whole in the encoder's size, pixels are those of the picture: none is made up."""
    x = torch.rand(1, 1, 9, 9)
    made = cut(0, 40, 50.0, size=(5, 5))(x, Noise(3, 1))[:, 0, 0]  # a power of 50: sides are the least, 5
    windows = [x[0, 0, i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
    whole = [any(torch.equal(one, window) for window in windows) for one in made]
    assert sum(whole) >= 36  # u^50·4 < 1 for u < 0.973; the rest are resized


def test_where_the_picture_is_as_small_as_the_encoder_reads_cuts_are_half_of_it_at_least() -> None:
    made = cut(0, 200, 1.0)(places(8), Noise(0, 1))[:, 0]
    span = made.amax((2, 3)) - made.amin((2, 3))
    assert float(span.min()) < 4
    assert float(span.min()) > 2.4  # four places, resized


def test_the_first_inner_cuts_are_grey() -> None:
    x = torch.rand(1, 3, 16, 16)
    made = cut(0, 10, 1.0, 0.3)(x, Noise(0, 1))[:, 0]
    without = (made - made[:, :1]).abs().amax((1, 2, 3)) < 1e-6
    assert without.tolist() == [True] * 3 + [False] * 7


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_do_not_depend_on_each_other_and_draws_differ(augment: bool) -> None:
    x = torch.rand(3, 3, 16, 16)
    how = cut(2, 6, 1.0, 0.2, augment=augment)
    whole = how(x, Noise(0, 1))
    torch.testing.assert_close(how(x[1:2], Noise(0, 1))[:, 0], whole[:, 1])
    assert torch.equal(how(x, Noise(0, 1)), whole)
    assert (how(x, Noise(0, 1).step(1)) - whole).abs().max() > 0.1


def test_augmentations_have_their_laws() -> None:
    """Half are mirrored, a tenth grey, noise of 0.01: shares of n within five standard deviations.

    The picture is dark on the left and bright on the right, so that its slope says whether it is mirrored.
    """
    n = 600
    ramp = torch.linspace(-0.5, 0.5, 16).expand(16, 16)
    x = torch.stack([ramp, -ramp, ramp])[None, None].expand(n, 1, 3, 16, 16)
    made = augmented(x, Noise(0, 1))[:, 0]
    middle = made[:, :, 5:11, 5:11]
    slope = (middle[:, 0, :, 3:] - middle[:, 0, :, :3]).mean((1, 2))
    apart = (middle[:, 0] - middle[:, 1]).abs().mean((1, 2))
    without = apart < 0.03
    coloured = ~without
    mirrored = float((slope[coloured] < 0).double().mean())
    assert abs(mirrored - 0.5) < 5 * math.sqrt(0.25 / int(coloured.sum()))
    assert abs(float(without.double().mean()) - 0.1) < 5 * math.sqrt(0.09 / n)
    flat = augmented(torch.zeros(n, 1, 1, 16, 16), Noise(0, 1))[:, 0, 0, 4:12, 4:12]
    again = augmented(torch.zeros(n, 1, 1, 16, 16), Noise(0, 1).step(1))[:, 0, 0, 4:12, 4:12]
    centred = [(z - z.mean((1, 2), keepdim=True)).flatten() for z in (flat, again)]
    assert abs(float(torch.corrcoef(torch.stack(centred))[0, 1])) < 5 / math.sqrt(64 * n)
    noise = (flat - flat.mean((1, 2), keepdim=True)).square().mean().sqrt()
    assert abs(float(noise) - 0.01 * math.sqrt(63 / 64)) < 5 * 0.01 / math.sqrt(2 * 63 * n)
    # Brightness is (x + 1)·b − 1 of grey x = 0: b − 1, uniform in ±0.1, of standard deviation 0.1/√3.
    assert abs(float(flat.mean((1, 2)).std()) - 0.1 / math.sqrt(3)) < 5 * 0.1 / math.sqrt(3) / math.sqrt(2 * n)


def test_turns_shifts_and_colours_have_their_laws() -> None:
    """Standard deviations of uniform laws, of n draws to five times 1/√(2n), 10 %; grey ones, which say less, left out.

    A ramp from left to right in one channel and its negative in another: the direction of the slope is the angle,
    uniform in ±10°; the value in the middle is that of the shift, uniform in ±5 % of the side. A flat picture: the
    difference of two channels is multiplied by brightness, contrast and saturation, of ±10 % each.
    """
    n = 1300
    ramp = torch.linspace(-0.5, 0.5, 16).expand(16, 16)
    x = torch.stack([ramp, -ramp, ramp])[None, None].expand(n, 1, 3, 16, 16)
    made = augmented(x, Noise(0, 1))[:, 0]
    half = (made[:, 0] - made[:, 1]) / 2
    half = half[half[:, 4:12, 4:12].abs().mean((1, 2)) > 0.05]
    across = (half[:, 4:12, 8:12] - half[:, 4:12, 4:8]).mean((1, 2))
    down = (half[:, 8:12, 4:12] - half[:, 4:8, 4:12]).mean((1, 2))
    angle = torch.rad2deg(torch.atan(down / across))
    assert abs(float(angle.std()) / (10 / math.sqrt(3)) - 1) < 0.1
    middle = half[:, 7:9, 7:9].mean((1, 2))
    assert abs(float(middle.std()) / (0.5 * 16 / 15 * 0.1 / math.sqrt(3)) - 1) < 0.1
    flat = torch.tensor([0.3, -0.2, 0.1])[:, None, None].expand(n, 1, 3, 16, 16)
    made = augmented(flat, Noise(0, 1))[:, 0, :, 4:12, 4:12].mean((2, 3))
    apart = (made[:, 0] - made[:, 1]) / 0.5
    apart = apart[apart > 0.3]
    assert abs(float(apart.mean()) - 1) < 5 * 0.1 / math.sqrt(len(apart))
    assert abs(float(apart.std()) / 0.1 - 1) < 0.1  # three of 0.1/√3 each


def test_gradients_reach_the_picture() -> None:
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    cut(1, 3, augment=True)(x, Noise(0, 1)).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).flatten(1).any(1).all())


def test_small_ones() -> None:
    x = torch.rand(1, 1, 4, 4)
    assert grey(x) is x
    assert resized(x, (4, 4)) is x
    with pytest.raises(UserError, match="must not both be 0"):
        cut(0, 0)
