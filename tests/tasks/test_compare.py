"""Samplers side by side: distances computed again here, one noise for all, and a page that loads nothing."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.report.compare import compare_page
from langevin.tasks.compare import Cell, Comparison, Side, compare
from langevin.tasks.compare.run import PATHS, REFERENCE

WORLD = worlds.random_mixture(6, components=3, rank=2, rms=0.5, seed=1)
BELIEF = WORLD.denoiser(processes.VP())
RULES = ["default", "ddim", "heun", "ancestral"]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare({"mixture": BELIEF}, RULES, [4, 9], n=80)


def cell_of(found: Comparison, sampler: str, budget: int) -> Cell:
    return next(c for c in found.sides[0].cells if (c.sampler, c.budget) == (sampler, budget))


def test_distances_are_those_of_the_paths(found):
    """Drawn again one sampler at a time, with the loop itself, against the default's end in 128 steps."""
    noise = Noise(0, PATHS)
    start = BELIEF.process.prior(BELIEF.shape).sample(noise.step(0))

    def end(rule: samplers.Sampler, grid: torch.Tensor) -> torch.Tensor:
        *_, state = langevin.trajectory(BELIEF, rule, grid=grid, start=start, noise=noise)
        return state.x

    default = samplers.default_sampler(BELIEF)
    truth = end(default, default.default_grid(BELIEF.process, REFERENCE))
    unit = math.sqrt(float(torch.trace(WORLD.cov)) / 6)
    # DDIM on the process's own grid of Karras: 9 evaluations are 9 steps; Heun's last asks once, so 9 are 5 steps.
    for name, rule, steps in (("ddim", samplers.DDIM(), 9), ("heun", samplers.Heun(), 5)):
        x = end(rule, samplers.default_grid(BELIEF.process, steps))
        expected = ((x - truth) ** 2).mean(1).sqrt() / unit
        cell = cell_of(found, name, 9)
        assert cell.steps == steps
        assert cell.evaluations == 9
        # The same arithmetic in the same order but for the batch of 64 or 80: a few roundings of float64.
        torch.testing.assert_close(cell.distance, expected, rtol=1e-9, atol=1e-12)


def test_budgets_are_kept(found):
    for cell in found.sides[0].cells:
        assert cell.evaluations <= cell.budget
        assert cell.network == cell.evaluations
    assert cell_of(found, "heun", 4).steps == 2  # 2·2 − 1 evaluations


def test_the_reference_is_at_no_distance_from_itself_and_the_default_comes_near():
    """One noise for all: the default in as many steps as the reference is it; its distance falls with the steps."""
    made = compare(BELIEF, ["default"], [3, 6, 12, 24, REFERENCE], n=16)
    medians = [cell.median for cell in made.sides[0].cells]
    assert medians[-1] == 0.0
    assert all(b < a for a, b in itertools.pairwise(medians))
    assert 0 < made.sides[0].unresolved < medians[-2]


def test_a_sampler_by_name_and_as_itself_are_one():
    made = compare(BELIEF, ["ddim", samplers.DDIM()], [5], n=8)
    one, two = made.sides[0].cells
    assert torch.equal(one.shown, two.shown)
    assert torch.equal(one.distance, two.distance)


def test_noise_on_the_way_leaves_the_path(found):
    assert cell_of(found, "ancestral", 9).distance is None
    assert any("draw noise" in note and "ancestral" in note for note in found.sides[0].notes)
    assert all(cell_of(found, name, 9).distance is not None for name in ("default", "ddim", "heun"))


def test_the_advice_is_the_fewest_that_are_good_enough():
    """By hand: of those within the tolerance the fewest evaluations, of these the nearest; else the nearest of all."""

    def cell(name: str, evaluations: int, distance: float | None) -> Cell:
        each = None if distance is None else torch.full((3,), distance)
        return Cell(name, name, evaluations, evaluations, evaluations, evaluations, 0.1, each, {}, torch.zeros(1, 2))

    cells = (cell("a", 5, 0.3), cell("b", 5, 0.2), cell("a", 8, 0.04), cell("b", 8, 0.03), cell("n", 8, None))
    side = Side("m", 1.0, (*cells, cell("a", 12, 0.01)), None, None, {}, ())
    advice = side.advice(0.05)
    assert (advice.sampler, advice.evaluations) == ("b", 8)
    assert {b: name for b, (name, _) in advice.best.items()} == {5: "b", 8: "b", 12: "a"}
    assert "0.03" in advice.reason
    assert "at most 0.05" in advice.reason
    assert side.advice(1e-3).reason.startswith("a with 12 evaluations: the least")
    assert Side("m", 1.0, (cells[-1],), None, None, {}, ()).advice(0.05) is None


def test_it_prints_and_is_written(found):
    text = str(found)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(rows) == len(RULES) * 2 == len(told["sides"][0]["cells"])
    for name in RULES:
        assert re.search(rf"^{name} ", text, flags=re.M)
    assert "\nTake " in text
    assert float(rows[0]["distance"]) == cell_of(found, "default", 4).median
    assert rows[-1]["distance"] == ""
    assert {"n", "seed", "reference", "paths", "versions", "machine"} <= set(told["protocol"])


def test_the_page_loads_nothing_and_names_all(found):
    """No address outside of it but the names of XML's own namespaces, no script, every picture inside."""
    page = compare_page(found)
    assert set(re.findall(r"https?://[^\"'<> ]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)", page)
    assert all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)"', page))
    for name in RULES:
        assert page.count(name) >= 3  # chart, table, pictures
    assert page.count("<svg") == 1
    assert "converged" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)


def test_tokens_have_no_paths_and_no_pictures():
    tokens = worlds.TokenTable(torch.ones(3, 3) / 9).denoiser(processes.Absorbing(3))
    made = compare(tokens, ["default"], [4], n=8)
    assert made.sides[0].cells[0].distance is None
    assert made.sides[0].advice(0.05) is None
    assert "default" in compare_page(made)


def test_what_cannot_keep_a_budget_is_left_out():
    made = compare(BELIEF, ["default", "rk45"], [2], n=8)
    assert [cell.sampler for cell in made.sides[0].cells] == ["default"]
    assert ("rk45", 2) in made.sides[0].left_out
    assert "left out: rk45, 2" in str(made)
    with pytest.raises(UserError, match="no sampler keeps any"):
        compare(BELIEF, ["rk45"], [2], n=8)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"samplers": ["ddmi"]}, "unknown sampler"),
        ({"samplers": []}, "samplers must hold at least one"),
        ({"samplers": [3]}, "samplers must be names or samplers"),
        ({"samplers": ["sscs"]}, "velocities"),
        ({"steps": [0]}, "steps must be an integer"),
        ({"n": 4}, "n must be an integer"),
        ({"tolerance": 0}, "tolerance must be a number > 0"),
        ({"tolerance": math.nan}, "tolerance must be a finite number"),
        ({"guidance_scale": [3.0]}, "needs a trained model with conditions"),
        ({"models": {}}, "at least one"),
        ({"models": [BELIEF, 3]}, "models must be a denoiser"),
    ],
)
def test_bad_requests(change, match):
    with pytest.raises(UserError, match=match):
        compare(**{"models": BELIEF, "samplers": ["ddim"], "steps": [5], "n": 8, **change})
