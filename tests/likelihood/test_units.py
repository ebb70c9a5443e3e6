"""Bits a dimension of laws whose bits are known without any formula."""

from __future__ import annotations

import json
import math

import pytest
import torch

from langevin import UserError
from langevin.data import DataInfo
from langevin.likelihood import Units

IMAGES = DataInfo("images", (1, 4, 4), levels=256)


def test_uniform_law_has_eight_bits():
    """Each of 256 levels alike: P = 256⁻ᴰ. As a density: 1 over its 256 bins of width Δ = 2/255."""
    nats = torch.tensor([16 * math.log(256)], dtype=torch.float64)
    assert Units.of(IMAGES, (1, 4, 4), density=False).bits_per_dim(nats).item() == pytest.approx(8, abs=1e-13)
    nats = torch.tensor([16 * math.log(256 * 2 / 255)], dtype=torch.float64)
    assert Units.of(IMAGES, (1, 4, 4), density=True).bits_per_dim(nats).item() == pytest.approx(8, abs=1e-13)


def test_range_of_the_data_does_not_matter():
    """The density of y = a·x is p/aᴰ; the bits of a level are the same."""
    nats = torch.tensor([3.0, -2.0], dtype=torch.float64)
    unit = Units(dim=4, density=True, levels=17, low=0.0, high=1.0)
    wide = Units(dim=4, density=True, levels=17, low=-8.0, high=8.0)
    torch.testing.assert_close(wide.bits_per_dim(nats + 4 * math.log(16)), unit.bits_per_dim(nats))


def test_points_keep_their_density():
    units = Units.of(DataInfo("points", (2,), low=None, high=None), (2,), density=True)
    assert units.bits_per_dim(torch.tensor([2 * math.log(2)])).item() == pytest.approx(1, abs=1e-7)
    assert units.width is None
    assert "no Jacobian" in units.protocol()["unit"]


def test_continuous_data_with_a_range_have_no_bins():
    """A range alone is no level: nothing may be divided by it."""
    assert Units.of(DataInfo("x", (2,)), (2,), density=True) == Units(2, density=True)


def test_protocol_is_plain_json_and_names_the_levels():
    protocol = Units.of(IMAGES, (1, 4, 4), density=True).protocol()
    assert json.loads(json.dumps(protocol)) == protocol
    assert (protocol["of"], protocol["levels"], protocol["low"], protocol["high"]) == ("density", 256, -1.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": 2, "levels": 1, "low": 0.0, "high": 1.0}, "levels"),
        ({"dim": 2, "levels": 2}, "low, high"),
        ({"dim": 2, "levels": 2, "low": 1.0, "high": 1.0}, "low, high"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        Units(**settings)
