"""The default solver's grid: equal steps of its time warp, from one end of a process to the other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from langevin import processes
from langevin.numerics.frame import GaussianFrame
from langevin.samplers.gaussian.noise_grid import KNOWN, UNKNOWN, TimeWarp, remainder_times, time_warp

F64 = torch.float64
SPREAD = GaussianFrame.unknown(4)
FINE = GaussianFrame(torch.zeros(4, dtype=F64), torch.tensor([1.0, 0.3, 1e-2, 1e-4], dtype=F64))


@pytest.mark.parametrize("process", [processes.VP(), processes.EDM(), processes.RectifiedFlow()], ids=str)
@pytest.mark.parametrize("moments", [SPREAD, FINE], ids=["spread", "fine"])
@pytest.mark.parametrize("steps", [5, 20, 400])
def test_steps_are_equal_in_the_time_warp(process, moments, steps):
    """From t_max to where a share (1 + tail)/(n + head + tail) of the time warp is left, or to t_min.

    Newton's method and the process's own inverse leave 1e-9 of a time warp whose whole is 1.
    """
    v = time_warp(moments)
    times = remainder_times(process, steps, moments, prefix=False)
    assert len(times) == steps + 1
    assert times[0] == process.t_max
    assert times[-1] == 0
    places = v((-0.5 * process.log_snr(times[:-1])).numpy())
    np.testing.assert_allclose(np.diff(places), np.diff(places).mean(), rtol=1e-6, atol=1e-9)
    end = float(v(np.array(-0.5 * float(process.log_snr(process.t_min)))))
    left = (1 + v.tail(steps)) / (steps + v.head + v.tail(steps))
    assert float(places[-1]) == pytest.approx(max(left, end), rel=1e-6)
    if left < end:
        assert times[-2] == process.t_min


def test_inverse_and_slope():
    """v(u(v)) = v, and v grows from 0 to 1."""
    for moments in (SPREAD, FINE):
        v = time_warp(moments)
        places = np.linspace(0.02, 0.98, 41)
        np.testing.assert_allclose(v(v.inverse(places)), places, rtol=1e-10)
        assert float(v(np.array(-math.inf))) == 0
        assert float(v(np.array(math.inf))) == 1
        assert (np.diff(v(np.linspace(-30, 30, 2001))) >= 0).all()


def test_head_of_data_of_one_scale():
    """A + B/n_e: n_e is 4 for four directions alike and (Σλ)²/Σλ² otherwise; known moments add room, a spread none."""
    alike = GaussianFrame(torch.zeros(4, dtype=F64), torch.ones(4, dtype=F64))
    values = FINE.variances.numpy()
    for moments, count in ((alike, 4.0), (FINE, values.sum() ** 2 / (values**2).sum())):
        first, second = KNOWN.head
        assert time_warp(moments).effective == pytest.approx(count)
        assert time_warp(moments).head == pytest.approx(first + second / count)
    assert time_warp(SPREAD).head == pytest.approx(UNKNOWN.head[0])


def test_many_directions_are_the_time_warp_of_their_bins():
    """300 directions, which are put in bins, tell the time warp of 15 with the same shares, which are not.

    A bin is 1/95 of the range of log spreads, log(100)/95 = 0.05. A direction split between two bins is not moved in
    the mean, and by at most 0.025 either way; its slope is below 1 and bends within a unit of u or more, so
    0.025² = 6e-4 bounds what is left.
    """
    values = torch.tensor([1.0, 0.03, 1e-4], dtype=F64)
    still = dataclasses.replace(KNOWN, shift=(0.0, 0.0))
    few = TimeWarp(values.repeat_interleave(torch.tensor([1, 5, 9])).numpy(), still)
    many = TimeWarp(values.repeat_interleave(torch.tensor([20, 100, 180])).numpy(), still)
    place = np.linspace(-8, 3, 111)
    np.testing.assert_allclose(many(place), few(place), rtol=0, atol=6e-4)


def test_the_first_step_asks_nothing_where_states_are_noise_alone():
    """EDM ends at σ/α = 80: a state there is noise alone for data of less than 80/8 along their largest direction."""
    process = processes.EDM()
    for std, free in ((1e-3, True), (5.0, True), (9.9, True), (10.1, False), (50.0, False)):
        moments = GaussianFrame(torch.zeros(3, dtype=F64), torch.full((3,), std**2, dtype=F64))
        assert len(remainder_times(process, 8, moments)) == 8 + 1 + free
        assert moments.largest == pytest.approx(std, rel=1e-12)
