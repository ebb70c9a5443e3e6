"""The mutation tester: what it changes, what it leaves alone, and that tests see a change and the sources do not."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import mutants

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b", ["a - b"]),
        ("x ** 2", ["x * 2"]),
        ("a <= b", ["a > b"]),
        ("-a", ["a"]),
        ("p if q else r", ["r if q else p"]),
        ("0.5", ["0.625"]),
        ("1e-300", []),
        ("math.exp(x)", ["math.expm1(x)", "x"]),
        ("x.sqrt()", ["x"]),
        ("f(t, s)", ["f(s, t)"]),
        ("f(x, x)", []),
        ("[0] + rest", []),
        ("'a' + b", []),
    ],
)
def test_what_is_changed(text, expected):
    assert [ast.unparse(node) for node in mutants.changed(ast.parse(text).body[0].value)] == expected


def test_every_mutant_is_another_program():
    """Of one file in each folder: the changed source compiles, and differs from what stands there in its own lines."""
    for file in ("samplers/linear/multistep.py", "distributions/brownian.py", "metrics/crps.py"):
        path = mutants.SOURCE / file
        source = path.read_text()
        found, tree = mutants.mutants(path), ast.dump(ast.parse(source))
        assert len(found) > 10
        for mutant in found[::7]:
            changed = mutants.source_of(mutant)
            assert ast.dump(ast.parse(changed)) != tree, mutant
            lines = zip(source.split("\n"), changed.split("\n"))
            apart = {i for i, (a, b) in enumerate(lines, 1) if a != b}
            assert apart <= set(range(mutant.span[0], mutant.span[2] + 1)), mutant


def test_messages_and_checks_are_left_alone():
    source = (mutants.SOURCE / "samplers/mcmc/langevin.py").read_text().split("\n")
    lines = {mutant.line for mutant in mutants.mutants(mutants.SOURCE / "samplers/mcmc/langevin.py")}
    assert not any("raise " in source[i - 1] or "UserError(" in source[i - 1] for i in lines)
    assert not any("step_size: float" in source[i - 1] for i in lines)


def test_a_draw_is_its_seed():
    first, second, other = (mutants.drawn(seed, 30, set())[0] for seed in (1, 1, 2))
    assert first == second != other
    assert len({(m.file, m.line) for m in first}) == 30
    without, listed = mutants.drawn(1, 30, {first[3].key})
    assert first[3] in listed
    assert first[3] not in without
    assert len(without) == 30


def test_every_listed_equivalent_is_a_mutant_and_has_its_reason():
    keys = {mutant.key for some in mutants.by_line().values() for mutant in some}
    for entry in json.loads((ROOT / "tests" / "mutants.json").read_text()):
        assert entry["mutant"] in keys, f"no such mutant is left: {entry['mutant']}"
        assert len(entry["reason"]) > 20


@pytest.mark.slow
def test_caught_in_a_function_and_on_import(tmp_path):
    """On the lines of two files: what computes is caught, by a test of its file, and the sources stay as they are."""
    before = hashlib.sha256((mutants.SOURCE / "metrics" / "crps.py").read_bytes()).hexdigest()
    places = sorted((m.file, m.line) for some in mutants.by_line().values() for m in some[:1])
    places = [place for place in places if place[0] == "metrics/crps.py"][-3:]
    (constant,) = (
        m
        for m in mutants.mutants(mutants.SOURCE / "distributions" / "covariance.py")
        if "= math.log(2" in m.text and m.before.startswith("2 *")
    )
    command = [sys.executable, str(ROOT / "tests" / "mutants.py"), "--kept", str(tmp_path), "--at"]
    command += [f"{file}:{line}" for file, line in [*places, (constant.file, constant.line)]]
    command += ["--", "tests/metrics/test_crps.py", "tests/distributions/test_covariance.py"]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found[constant.key]["by"].startswith("tests/distributions/test_covariance.py::")
    caught = [result["by"].startswith("tests/metrics/test_crps.py::") for key, result in found.items() if "crps" in key]
    assert len(caught) > 10
    assert sum(caught) >= 0.9 * len(caught)
    assert before == hashlib.sha256((mutants.SOURCE / "metrics" / "crps.py").read_bytes()).hexdigest()
