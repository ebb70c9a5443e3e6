"""The league of solvers of inverse problems: its exact samples, its scores, and solvers of one's own."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise
from langevin.operators import Operator
from langevin.tasks.restore import Setting, league, load_solver, settings
from langevin.tasks.restore import methods as M
from langevin.tasks.restore.league import Problem, Sizes
from langevin.tasks.restore.problems import Magnitudes, given_magnitudes
from langevin.tasks.restore.scores import c2st, calibration
from support import sliced_w2


def test_exact_samples_of_magnitudes():
    """Rejection against importance resampling of the prior: W2 at the floor of the resampled, C2ST at one half.

    Of 400,000 draws of the prior, 5e4 or more count (their effective number), so 2000 of them are nearly independent.
    """
    setting = Setting(8, "magnitudes", 0.3)
    _, y = setting.measurements(1, 3)
    found = setting.truth(y, Noise(0, 2000))
    prior = setting.world.sample(400_000, 5)
    weight = torch.exp(-0.5 * ((y - setting.a(prior)) / 0.3).square().sum(1))
    assert weight.sum() ** 2 / weight.square().sum() > 5e4
    generator = torch.Generator().manual_seed(0)
    draw = lambda: prior[torch.multinomial(weight, 2000, generator=generator)]
    values = torch.tensor([sliced_w2(draw(), draw()) for _ in range(16)])
    assert sliced_w2(found, draw()) < values.mean() + 4 * values.std()
    # 5 standard errors of an accuracy over 4000 points, which neighbours in common correlate: twice that of coins
    assert abs(c2st(found, draw()) - 0.5) < 5 * 2 * 0.5 / math.sqrt(4000)
    again = given_magnitudes(setting.world, setting.a, y, 0.3, Noise(0, torch.tensor([7, 3])))
    assert torch.allclose(again, found[[7, 3]], atol=1e-10)


def test_calibration_and_c2st_tell():
    """Right laws are at their floors, wrong ones are told: too narrow, too wide, shifted."""
    noise = lambda draw, *shape: Noise(draw, shape[0]).normal(shape[1:])
    x, right = noise(0, 400, 4), noise(1, 400, 7, 4)
    distance, coverage = calibration(right, x)
    # Of 1600 independent ranks: Kolmogorov's 1.63/√n at 1 %, and 4 standard errors of a share.
    assert distance < 1.63 / math.sqrt(1600)
    assert abs(coverage - 0.5) < 4 * 0.5 / math.sqrt(1600)
    assert calibration(0.5 * right, x)[1] < 0.35
    assert calibration(2 * right, x)[1] > 0.65
    assert calibration(right + 1, x)[0] > 0.2
    a, b = noise(2, 500, 4), noise(3, 500, 4)
    assert abs(c2st(a, b) - 0.5) < 5 * 2 * 0.5 / math.sqrt(1000)
    assert c2st(0.5 * a, b) > 0.6
    assert c2st(a + 1.5, b) > 0.7


def test_a_solver_of_ones_own_joins_the_league(tmp_path):
    """A file with one function of at most twenty lines; wrong ones are told."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import langevin\n\n\n"
        "def mine(denoiser, measurement, *, noise, steps):\n"
        "    guided = langevin.guidance.moment_matching(denoiser, measurement)\n"
        "    rule = langevin.samplers.Ancestral()\n"
        "    return langevin.sample(guided, rule, noise=noise, steps=steps, batch=len(noise))\n\n\n"
        "def broken(denoiser, measurement, *, noise, steps):\n"
        "    return denoiser.process.prior(denoiser.shape).sample(noise) / 0\n"
    )
    name, mine = load_solver(f"{file}:mine")
    sizes, problems = Sizes(200, 16, 7, 4), settings((16,), ("random", "magnitudes"), (0.3,))
    seen = []
    found = league(
        {"exact": M.exact, name: mine, "broken": load_solver(f"{file}:broken")[1], "projection": M.projection},
        problems=problems,
        evaluations=(8,),
        sizes=sizes,
        progress=lambda done, total, row: seen.append((done, total)),
    )
    assert seen[-1] == (8, 8)
    exact, own, broken, projection = found[:4]
    assert exact.note == own.note == ""
    assert exact.w2 < 2 * exact.w2_floor
    assert own.w2 < 0.5 * projection.w2
    assert own.used == 8
    assert broken.note == "diverged"
    assert "must be linear" in found[5].note
    assert found[4].to_dict()["w2"] is None
    for wrong in ("mine", "mine.py:", f"{tmp_path}/none.py:mine", f"{file}:other"):
        with pytest.raises(ValueError, match="solver must be"):
            load_solver(wrong)
    for bad in ({"dim": 10}, {"operator": "blurr"}, {"std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Setting(**{"dim": 16, "operator": "random", "std": 0.3, **bad})


@pytest.mark.parametrize("operator", ["inpainting", "averages", "random"])
def test_the_truth_is_at_its_floors(operator):
    """The method ``exact`` in the league: every figure within four of the floors' own spreads."""
    problem = Problem(Setting(16, operator, 0.3), Sizes(200, 32, 7, 8), 0)
    row = problem.judge("exact", M.exact, 0)
    assert row.w2 < 2 * row.w2_floor
    assert abs(row.c2st - 0.5) < 5 * 2 * 0.5 / math.sqrt(400)
    assert row.calibration < 0.15
    assert abs(row.coverage - 0.5) < 0.15


def test_operators_of_ones_own():
    """An operator is a subclass with two functions."""
    assert issubclass(Magnitudes, Operator)
