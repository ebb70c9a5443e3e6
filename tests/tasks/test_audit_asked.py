"""Audits of what people hand over first: objects, functions that ask nothing, names and kinds that do not fit."""

from __future__ import annotations

import inspect
import itertools
import re
from pathlib import Path

import pytest
from torch import Tensor

import langevin
from langevin import UserError
from langevin._registry import methods
from langevin.denoisers import Denoiser
from langevin.samplers import DDIM, Sampler, create_sampler
from langevin.tasks.audit import CHECKS, audit
from langevin.tasks.audit.belief import BELIEFS
from langevin.tasks.audit.guider import GUIDES


def test_a_function_that_never_asks_the_network_is_wrong(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def sample(denoiser, x, grid):\n    return x\n")
    report = audit(f"{own}:sample", checks=["times", "wasted"])
    times, wasted = report.rows
    assert (times.verdict, "never asked" in times.figure) == ("WRONG", True), times
    assert (wasted.verdict, "see times" in wasted.figure) == ("n/a", True), wasted


MEASURED = [row.name for row in methods("samplers") if "measurement" in inspect.signature(row.make).parameters]
"""Samplers that draw given a measurement."""


@pytest.mark.parametrize("name", MEASURED)
def test_samplers_of_a_measurement_lead_to_restore(name: str) -> None:
    """The sentence names a command, and the command has a method of that name."""
    assert name in {row.name for row in methods("inverse")}
    for ask in (create_sampler, lambda name: audit(f"langevin:{name}")):
        with pytest.raises(UserError, match=f"draws given a measurement.* langevin restore --method {name}"):
            ask(name)


def test_names_of_ours_are_said_once() -> None:
    """Some names are of a sampler and of a guidance."""
    with pytest.raises(UserError, match="unknown sampler or guidance") as error:
        audit("langevin:nothing-like-it")
    said = re.search(r"Known: (.*)\.", str(error.value))
    assert said is not None
    names = said[1].split(", ")
    assert len(names) == len(set(names)) > 50


def test_a_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"kind must be sampler for langevin:ddim.*got 'denoiser'"):
        audit("langevin:ddim", kind="denoiser")
    with pytest.raises(UserError, match="kind must be guider"):
        audit("langevin:classifier-free", kind="sampler")


FEW = ["times", "left over"]


def euler(denoiser: Denoiser, x: Tensor, grid: Tensor) -> Tensor:
    """Euler's method in the scaled state, which is DDIM."""
    q = denoiser.process
    for t, s in itertools.pairwise(grid):
        x0 = denoiser(x, t).mean
        x = q.alpha(s) * x0 + q.sigma(s) / q.sigma(t) * (x - q.alpha(t) * x0)
    return x


@pytest.mark.parametrize(("thing", "title"), [(DDIM(), "DDIM(eta=0.0)"), (DDIM, "DDIM"), (euler, "euler")])
def test_things_themselves(thing: Sampler, title: str) -> None:
    """A sampler, its class and a function are taken as they are; a process too."""
    report = audit(thing, checks=FEW, process=langevin.processes.VP())
    assert (report.thing, report.kind) == (title, "sampler")
    assert [row.verdict for row in report.rows] == ["ok", "ok"], report.rows


def test_a_denoiser_itself_has_its_own_process() -> None:
    """The exact denoiser of a world by another process than the default; of another shape it is refused."""
    ring = langevin.worlds.ring()
    denoiser = ring.denoiser(langevin.processes.VE())
    report = audit(denoiser, world=ring)
    assert report.about["process"] == "VE"
    assert report.row("belief").verdict == "ok", report.rows
    with pytest.raises(UserError, match="world must have states of the denoiser's shape"):
        audit(denoiser, world="random-16")


def test_a_scheduler_and_a_guider_of_diffusers_themselves() -> None:
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    report = audit(made, checks=FEW)
    assert report.kind == "scheduler"
    assert report.row("left over").verdict == "ok"
    assert audit(diffusers.guiders.ClassifierFreeGuidance(guidance_scale=3.0)).about["guidance_scale"] == 3.0


@pytest.mark.parametrize(
    ("thing", "how", "said"),
    [
        (3, {}, "thing must be diffusers:CLASS.* or itself a scheduler .*, got 3"),
        (DDIM(), {"kinds": 3}, r"audit has no argument 'kinds'\. Did you mean 'kind'"),
        (DDIM(), {"kind": 3}, "unknown kind 3"),
        (DDIM(), {"checks": "order"}, "checks must be a list of names"),
        (DDIM(), {"checks": 3}, "checks must be a list of names"),
        (DDIM(), {"options": {"eta": 1.0}}, "options are for names and classes"),
        (euler, {"kind": "denoiser", "world": 3}, "unknown world"),
    ],
)
def test_bad_calls_are_sentences(thing: object, how: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        audit(thing, **how)


def test_a_row_that_is_not_there_is_said_with_the_nearest() -> None:
    report = audit("langevin:ddim", checks=FEW)
    with pytest.raises(UserError, match=r"unknown row 'tmes'\. Did you mean 'times'"):
        report.row("tmes")


PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def test_the_page_has_every_row_and_the_bounds_that_are_printed() -> None:
    """A row in a table for each check; the bound of the mean that is printed is the page's."""
    page = PAGE.read_text(encoding="utf-8")
    rows = {name.strip() for line in re.findall(r"^\| ([^|]+) \|", page, flags=re.M) for name in line.split(",")}
    assert {*CHECKS, *GUIDES, *BELIEFS} <= rows
    printed = audit("langevin:ddim", checks=["moments"]).rows[0].expected
    bound = re.search(r"1 ± ([\d.]+) at 1000, mean within ([\d.]+) standard", printed)
    assert bound is not None
    assert f"1 ± {bound[1]} (" in page
    assert f"within {bound[2]} standard errors" in page


def test_a_bound_of_levels_says_what_it_is_of() -> None:
    """1e-3 and what the times are off, where they are."""
    diffusers = pytest.importorskip("diffusers")
    row = audit(diffusers.EulerDiscreteScheduler, checks=["levels"]).rows[0]
    assert re.fullmatch(r"at most 0\.0011 \(0\.001, and .* for the times\)", row.expected), row
    assert audit("langevin:ddim", checks=["levels"]).rows[0].expected == "at most 0.001"
