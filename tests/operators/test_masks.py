"""Masks: what they hide, by how much, the same for the same seed and another for another."""

from __future__ import annotations

import pytest
import torch

from langevin import Noise, UserError
from langevin import operators as O


def test_box_mask_and_uncrop():
    hidden = O.box_mask((1, 8, 10), (1, 2, 3, 4))
    assert hidden.shape == (8, 10)
    assert int((~hidden).sum()) == 12
    assert not hidden[1:4, 2:6].any()
    middle = O.box_mask((8, 8))
    assert not middle[2:6, 2:6].any()
    assert int(middle.sum()) == 48
    op = O.Uncrop((3, 8, 8), 0.5)
    assert torch.equal(op.mask, (~middle).double())
    assert torch.equal(O.Uncrop((8, 8), (1, 2, 3, 4)).mask[1:4, 2:6], torch.ones(3, 4, dtype=torch.float64))
    x = torch.ones(2, 3, 8, 8)
    assert op(x).sum() == 2 * 3 * 16


@pytest.mark.parametrize("known", [0.001, 0.3, 0.92])
def test_random_mask(known):
    mask = O.random_mask((3, 12, 10), known, seed=4)
    assert int(mask.sum()) == max(1, round(known * 120))
    assert torch.equal(mask, O.random_mask((12, 10), known, seed=4))
    assert not torch.equal(mask, O.random_mask((12, 10), known, seed=5))


def test_random_mask_is_uniform():
    """Every pixel is known equally often: 400 masks, a binomial of standard deviation 0.025 a pixel, 5 of them."""
    share = torch.stack([O.random_mask((5, 4), 0.5, seed) for seed in range(400)]).double().mean(0)
    assert (share - 0.5).abs().max() < 5 * 0.025


@pytest.mark.parametrize("shape", [(32, 32), (1, 28, 28), (3, 48, 64), (9, 30)])
@pytest.mark.parametrize("hidden", [0.05, 0.25, 0.5])
def test_free_form_mask(shape, hidden):
    """At least the share, and at most one piece of a stroke more: a quarter of the side long, an eighth wide, round."""
    side = min(shape[-2:])
    piece = (side / 4 + side / 8 + 2) * (side / 8 + 2) / (shape[-2] * shape[-1])
    shares = []
    for seed in range(6):
        mask = O.free_form_mask(shape, hidden, seed)
        assert mask.shape == shape[-2:]
        shares.append(1 - float(mask.double().mean()))
        assert torch.equal(mask, O.free_form_mask(shape, hidden, seed))
    assert min(shares) >= hidden
    assert max(shares) <= hidden + piece
    assert not torch.equal(O.free_form_mask(shape, hidden, 1), O.free_form_mask(shape, hidden, 2))


def test_strokes_are_strokes():
    """What a stroke hides hangs together: nearly every hidden pixel has two or more hidden neighbours."""
    hidden = (~O.free_form_mask((64, 64), 0.2, 3)).double()
    neighbours = torch.nn.functional.conv2d(hidden[None, None], torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
    assert ((neighbours[0, 0] > 2) & (hidden > 0)).sum() > 0.99 * hidden.sum()
    mean = torch.stack([O.free_form_mask((32, 32), 0.3, s) for s in range(40)]).double().mean(0)
    assert mean.min() < 0.75 < mean.max() + 0.2  # they go everywhere
    assert mean[:8, :8].mean() < 0.95


def test_masks_are_independent_of_the_noise_of_a_measurement():
    """The mask and the noise of one seed: pixels are not known where the noise is large."""
    mask = O.random_mask((50, 50), 0.5, seed=0)
    z = O.measure(O.Saturate(1.0), torch.zeros(1, 50, 50), 0.1, seed=0).y[0]
    plain = Noise(0, 1).uniform((50, 50))[0]
    # Means of 1250 numbers of standard deviation 0.1: 4 errors of their difference are 0.016.
    assert abs(float(z[mask].mean() - z[~mask].mean())) < 4 * 0.1 * (2 / 1250) ** 0.5
    assert abs(float(plain[mask].mean() - plain[~mask].mean())) < 4 * 0.29 * (2 / 1250) ** 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: O.box_mask((8, 8), (0, 0, 8, 8)), "box must be smaller"),
        (lambda: O.box_mask((8, 8), (4, 4, 8, 2)), "box must lie within 8 × 8"),
        (lambda: O.box_mask((8, 8), (4, 4)), "box must be"),
        (lambda: O.box_mask((8, 8), 1.0), "box must be between 0 and 1"),
        (lambda: O.Uncrop((8,), 0.5), "shape must be"),
        (lambda: O.Uncrop(8, 0.5), "shape must be"),
        (lambda: O.random_mask((8, 8), 0.0), "known must be between 0 and 1"),
        (lambda: O.free_form_mask((8, 8), 1.5), "hidden must be between 0 and 1"),
        (lambda: O.free_form_mask((8, 0)), "shape must be"),
    ],
)
def test_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
