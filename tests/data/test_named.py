"""Data by name: the scans and the point sets are what their pages say."""

import hashlib
import math

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin._registry import methods
from langevin.data.loading import CAPTIONED
from langevin.data.toys import RING_MEANS, RING_STD
from support import with_labels

POINTS = ("moons", "swissroll", "checkerboard", "mixture")


def test_registry_and_load_agree() -> None:
    assert {m.name for m in methods("data")} == {
        *("digits", "digits-17", "mnist", "heartbeat", "brain-mri", "ellipses", "words"),
        *("avatars", "emoji", "formulas", "glyphs", "glyphs-system"),
        *POINTS,
    }


def test_sets_with_captions_are_those_that_take_a_text_encoder() -> None:
    """By their titles, which say so."""
    assert set(CAPTIONED) == {m.name for m in methods("data") if "caption" in m.title} | {"glyphs-system"}


def test_digits_are_scikit_learns_scans_split_once_for_all() -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    (x, y), (x_test, y_test) = with_labels(digits.train.all()), with_labels(digits.test.all())
    assert (len(x), len(x_test)) == (1438, 359)
    assert torch.bincount(y).tolist() == [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]
    # Every scan is in exactly one split: equal as multisets of (pixels, label).
    pixels = torch.cat([x, x_test]).add(1).mul(8).flatten(1).numpy()
    rows = sorted(map(tuple, np.column_stack([pixels, torch.cat([y, y_test])]).astype(int).tolist()))
    bunch = load_digits()
    assert rows == sorted(map(tuple, np.column_stack([bunch.data, bunch.target]).astype(int).tolist()))
    # The held-out scans never change: a model trained yesterday must not have seen today's test split.
    held = hashlib.sha256(x_test.add(1).mul(8).to(torch.uint8).numpy().tobytes()).hexdigest()
    assert held == "42b380342710415a9b90070dc0725318a2ac269b2e95c7fe3178c45705f1d236"


def test_digits_description() -> None:
    info = data.load("digits").info
    x = data.load("digits").train.all()["x"].double().flatten(1)
    assert (info.shape, info.low, info.high, info.levels) == ((1, 8, 8), -1.0, 1.0, 17)
    assert info.classes == tuple("0123456789")
    torch.testing.assert_close(info.mean, x.mean(0), atol=1e-13, rtol=0)
    torch.testing.assert_close(info.cov, torch.cov(x.T, correction=0), atol=1e-13, rtol=0)
    assert info.std == pytest.approx(math.sqrt(x.var(0, correction=0).mean()), abs=1e-12)


@pytest.mark.parametrize("name", POINTS)
def test_points_are_fixed_and_of_unit_size(name: str) -> None:
    one, two = data.load(name), data.load(name)
    x = one.train.all()["x"]
    assert (len(one.train), len(one.test), one.info.shape, x.dtype) == (20_000, 5_000, (2,), torch.float32)
    assert torch.equal(x, two.train.all()["x"])
    assert one.info == two.info
    assert one.info.low is None
    assert one.info.levels is None
    assert 0.9 < x.square().mean().sqrt() < 1.2
    # No test point is a training point.
    assert len(torch.cat([x, one.test.all()["x"]]).unique(dim=0)) == 25_000


def test_moons_lie_on_their_half_circles() -> None:
    x, label = with_labels(data.load("moons").train.all())
    raw = x.double() / math.sqrt(2) + torch.tensor([0.5, 0.25])
    centre = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)[label]
    radius = (raw - centre).norm(dim=1)
    # radius = 1 + 0.05 ε to first order; second order adds 0.05²/2.
    assert abs(float(radius.mean()) - 1 - 0.05**2 / 2) < 4 * 0.05 / math.sqrt(len(x))
    assert float(radius.std()) == pytest.approx(0.05, rel=4 / math.sqrt(2 * len(x)))
    assert abs(float(label.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(len(x))


def test_swissroll_lies_on_its_spiral() -> None:
    x = 7 * data.load("swissroll").train.all()["x"].double()
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    # r = u on the noiseless spiral, u ≡ angle (mod 2π): what is left is the 0.5 noise across the arm.
    across = torch.remainder(radius - angle + math.pi, 2 * math.pi) - math.pi
    assert abs(float(across.mean())) < 0.05
    assert float(across.std()) == pytest.approx(0.5, rel=0.05)


def test_checkerboard_fills_even_squares_evenly() -> None:
    x = data.load("checkerboard").train.all()["x"].double()
    square = x.floor().long()
    assert (square.sum(1) % 2 == 0).all()
    counts = torch.bincount((square[:, 0] + 2) * 4 + square[:, 1] + 2, minlength=16)
    filled = counts[counts > 0].double()
    assert len(filled) == 8
    # Binomial counts of p = 1/8, each within 4 standard deviations.
    assert (filled - 2500).abs().max() < 4 * math.sqrt(20_000 * 7 / 64)


def test_mixture_is_its_published_constants() -> None:
    x, label = with_labels(data.load("mixture").train.all())
    for k in range(8):
        part = x[label == k].double()
        assert (part.mean(0) - torch.from_numpy(RING_MEANS[k])).abs().max() < 5 * RING_STD / math.sqrt(len(part))
        assert float(part.std(0).mean()) == pytest.approx(RING_STD, rel=5 / math.sqrt(4 * len(part)))
    assert np.linalg.norm(RING_MEANS, axis=1) == pytest.approx(np.full(8, math.sqrt(2)))


def test_limit_is_a_spread_subset_of_each_split() -> None:
    whole, part = data.load("digits"), data.load("digits", limit=200)
    assert (len(part.train), len(part.test)) == (200, 200)
    rows = {tuple(row) for row in whole.train.all()["x"].flatten(1).tolist()}
    assert all(tuple(row) in rows for row in part.train.all()["x"].flatten(1).tolist())
    assert torch.bincount(part.train.labels).min() > 8
    assert part.info.source == {"source": "digits", "limit": 200}
    assert data.load(**part.info.source).info == part.info


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("digts", {}, r"unknown data 'digts'.*no such file.*Did you mean 'digits'"),
        ("no/such/place", {}, "unknown data 'no/such/place'"),
        ("digits", {"size": 16}, "1×8×8"),
        ("digits", {"channels": 3}, "1×8×8"),
        ("moons", {"size": 16}, "points of shape"),
        ("moons", {"flip": True}, "flip mirrors images"),
        ("digits", {"size": 0}, "size must be a positive integer; got 0"),
        ("digits", {"limit": -1}, "limit must be"),
        ("digits", {"channels": 2}, "channels must be 1"),
        ("digits", {"crop": "middle"}, "crop must be"),
        ("digits", {"crop": "random"}, "needs size"),
    ],
)
def test_refusals(source: str, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        data.load(source, **options)


def test_a_mistyped_path_gives_its_neighbour(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"Did you mean '.*/photos'"):
        data.load(tmp_path / "phtos")
