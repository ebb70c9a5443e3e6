"""A time more in a grid, however close to its neighbour, costs a multistep method nothing but that step."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import processes, samplers
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import Multistep
from laws.table import SAMPLERS, mixture
from support import flow_reference, thinned

FRACTIONS = (0.1, 0.01, 1e-3, 1e-6)

TABLE = {
    name: law.sampler
    for name, law in SAMPLERS.items()
    if law.order and isinstance(law.sampler, (Multistep, samplers.GaussianRemainder, samplers.HeavyBall))
}
MULTISTEP = {
    **TABLE,
    "remainder-unknown": samplers.GaussianRemainder(GaussianFrame.unknown(2)),
    "unipc-1": samplers.UniPC(1),
    "unipc-2-eps": samplers.UniPC(2, "eps"),
    "unipc-2-b1": samplers.UniPC(2, b="B1"),
    "unipc-3": samplers.UniPC(3),
    "unipc-3-eps-b1": samplers.UniPC(3, "eps", "B1"),
    "unipc-3-corrected": samplers.UniPC(3, start="corrected"),
    "unipc-4": samplers.UniPC(4),
    "reach-2": Multistep("x0", "log-snr", 2, corrector=2, reach=2),
    "reach-3": Multistep("x0", "log-snr", 3, corrector=3, reach=3),
    "v-corrected": Multistep("v", "angle", 3, corrector=3),
    "deis-4": samplers.DEIS(4),
    "pndm": samplers.PNDM(),
}
"""Every multistep method of the table of laws, and settings of them."""

STEPS = 20


def inserted(times: torch.Tensor, knot: int, fraction: float, before: bool) -> torch.Tensor:
    """The grid with one time more, a fraction of the step after a knot, or as much before the next knot."""
    first, second = times[knot], times[knot + 1]
    new = second + fraction * (first - second) if before else first + fraction * (second - first)
    return torch.cat((times[: knot + 1], new[None], times[knot + 1 :]))


def crowded(times: torch.Tensor, fraction: float) -> torch.Tensor:
    """One time more after the knots 3, 7, 11 and 15, two after the last of these."""
    for knot in (15, 11, 7, 3):
        times = inserted(times, knot, fraction, False)
    return inserted(times, 19, fraction, False)


@pytest.fixture(scope="module")
def problem():
    """A mixture under EDM, a start at σ = 40, the exact flow to σ = 0.04, and Karras grids between."""
    process, world = processes.EDM(), mixture(2)
    ends = process.time(torch.tensor([-2 * math.log(40.0), -2 * math.log(0.04)], dtype=torch.float64))
    start = world.sample(64, 1, process=process, t=ends[0])
    denoiser = world.denoiser(process)
    reference = flow_reference(denoiser, start, float(ends[0]), float(ends[1]))

    def grid(steps):
        ratio = torch.linspace(40 ** (1 / 7), 0.04 ** (1 / 7), steps + 1, dtype=torch.float64) ** 7
        return process.time(-2 * torch.log(ratio))

    def error(sampler, times):
        *_, last = langevin.trajectory(denoiser, sampler, grid=times, start=start)
        return float((last.x - reference).square().sum(-1).sqrt().median())

    return grid, error


@pytest.mark.parametrize("name", thinned(MULTISTEP, 2))
def test_a_short_step_costs_no_accuracy(problem, name):
    """At most five times the error without it, at any length, after a knot, before one, and at several places.

    Where the older of two near values is left out, the nodes are those of the grid without the new time, moved by a
    fraction of a step. Where it is not, the short step is at least 1/8 of a neighbour: a correction δ of the long step,
    whose own mistake is JδL, enters the next one by Jδ L²/2g ≤ 4 JδL: with its own, five times. A solver's error
    on one grid may be small by chance; the error without is therefore the largest of 19, 20 and 21 steps.
    """
    grid, error = problem
    sampler, times = MULTISTEP[name], grid(STEPS)
    plain = max(error(sampler, grid(steps)) for steps in (STEPS - 1, STEPS, STEPS + 1))
    for fraction in FRACTIONS:
        grids = [inserted(times, knot, fraction, before) for knot in (0, 6, 13) for before in (False, True)]
        found = [error(sampler, each) for each in (*grids, crowded(times, fraction))]
        assert max(found) < 5 * plain, (fraction, [e / plain for e in found])


@pytest.mark.parametrize("name", ["unipc-3", "reach-2", "remainder", "remainder-unknown"])
def test_step_by_step_too(problem, name):
    """Without a plan the same nodes are at hand: equal to a plan's result but for rounding, an ulp a step grown < 1e3.

    The crowded grid has two short steps in a row, so that two values are left out at once.
    """
    process, world = processes.EDM(), mixture(2)
    grid, _ = problem
    sampler, times = MULTISTEP[name], crowded(grid(STEPS), 1e-3)
    denoiser, start = world.denoiser(process), world.sample(5, 1, process=process, t=times[0])
    *_, planned = langevin.trajectory(denoiser, sampler, grid=times, start=start)
    state = samplers.State(start, times[0])
    for i, s in enumerate(times[1:], 1):
        state = sampler.step(state, s, denoiser, langevin.Noise(0, 5).step(i))
    # q is divided by up to 1e-3 of a step where it is differenced along the short ones: 1e3 more.
    torch.testing.assert_close(state.x, planned.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "sampler", [samplers.DPMSolverPPSDE(), samplers.DPMSolverPP3MSDE(), samplers.DEIS(4), samplers.UniPC(3)]
)
@pytest.mark.parametrize("knot", [0, 9])
def test_values_are_not_magnified(sampler, knot):
    """Noise and rounding of two near values are not divided by their distance: Σ|w_j| stays below thrice the plain one.

    Weights of e⁻¹/2 = 5e5 would be there otherwise. The nodes that are left stand a whole step apart, so these are the
    plain grid's weights, moved by a fraction of a step; the new time shifts by one step which order or which
    correction is joined to which step, hence thrice.
    """
    process = processes.EDM()
    times = samplers.grids.karras(process, 20)[:-1]
    size = lambda grid: max(sum(map(abs, c.weights)) for c in sampler.tabulate(process, tuple(grid.tolist())).values())
    assert size(inserted(times, knot, 1e-6, False)) < 3 * size(times)
