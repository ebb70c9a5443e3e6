"""Audits of what people hand over first: objects, functions that ask nothing, names and kinds that do not fit."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from langevin import UserError
from langevin._registry import methods
from langevin.samplers import create_sampler
from langevin.tasks.audit import audit


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
