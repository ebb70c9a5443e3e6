"""Which nodes to interpolate on."""

from __future__ import annotations

from langevin import samplers
from langevin.numerics.quadrature import SHORT, SPARE, spread_nodes


def test_which_nodes_are_kept():
    """By hand: steps of 1 but for short ones; places newest first."""
    assert spread_nodes([0, -1, -2, -3], 1) == [0, 1, 2, 3]
    assert spread_nodes([0, -0.01, -1, -2], 1) == [0, 2, 3]  # a short step after a long one, then a long one
    assert spread_nodes([0, -1, -1.01, -2], 1) == [0, 1, 3]
    assert spread_nodes([0, -0.01, -0.02, -1], 1) == [0, 3]
    assert spread_nodes([0, -0.01, -1, -2], 0.01) == [0, 1, 2, 3]  # the next step is as short
    assert spread_nodes([0, -0.01, -0.02, -0.03], 1) == [0, 1, 2, 3]  # short steps all along
    assert spread_nodes([0, -0.01], 1) == [0, 1]  # the beginning
    assert spread_nodes([0, -1e-5], 1) == [0]
    assert spread_nodes([0, -SHORT, -2], 1) == [0, 1, 2]
    for shift in (-3.0, 0.5, 7.0):  # where the variable's 0 is does not matter
        assert spread_nodes([shift - d for d in (0, 0.01, 1, 2)], 1) == [0, 2, 3]
        assert spread_nodes([shift - d for d in (0, 1, 2, 3)], 1) == [0, 1, 2, 3]
    assert samplers.UniPC(3).history == 3 + SPARE
    assert samplers.DDIM().history == 0
