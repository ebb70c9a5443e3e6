"""Tables of figures in the docs are those of the recorded runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import guidance
import record

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tables_are_those_of_their_records(page):
    """What `make figures` would write is what stands there; the page names the benchmark of every table."""
    text = page.read_text(encoding="utf-8")
    blocks = record.BLOCK.findall(text)
    assert len(blocks) == text.count("<!-- figures:") == text.count("<!-- /figures -->")
    assert record.filled(text) == text, "a table differs from its record: run `make figures`"
    for _, name, _ in blocks:
        script = record.script_of(record.read(name)["command"])
        assert (ROOT / script).is_file()
        assert script in text, f"{page.name} does not say that {script} printed {name}"


def test_every_record_is_shown_and_whole():
    shown = [name for page in PAGES for _, name, _ in record.BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert sorted(set(shown)) == sorted(path.stem for path in record.RECORDS.glob("*.json"))
    for name in shown:
        found = record.read(name)
        assert set(found) == {"command", "date", "machine", "versions", "digest", "columns", "rows"}
        assert all(len(row) == len(found["columns"]) for row in found["rows"]), name


def test_a_run_records_its_table(tmp_path, monkeypatch, capsys):
    """The command without ``--record``, the day, the digest of the code, the cells; a page then shows them."""
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    table = Table("", "median s")
    table.add_row("import torch", "1.25")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "import_time.py")])
    record.show("some", table)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--rounds", "3", "--record"])
    record.show("some", table)
    assert "`make figures`" in capsys.readouterr().out
    found = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert found["command"] == "python benchmarks/import_time.py --rounds 3"
    assert found["digest"] == record.digest("benchmarks/import_time.py")
    text = "<!-- figures: some -->\nstale\n<!-- /figures -->"
    assert record.filled(text) == text.replace("stale\n", "| | median s |\n|---|---|\n| import torch | 1.25 |\n")


def test_a_guided_step_costs_its_network_calls(monkeypatch):
    """Every guidance of the benchmark is in the record, at most 1.03 times the time of its network calls.

    Of classifier-free guidance these are one call of the network, of energy guidance one forward and one backward.
    """
    monkeypatch.setattr(torch.autograd, "grad", torch.autograd.grad)  # a watch takes its place
    found = record.read("guidance-overhead")
    rows = {row[0]: dict(zip(found["columns"], row)) for row in found["rows"]}
    assert set(rows) == set(guidance.cases(1, guidance.Watch()))
    assert all(float(row["ratio"]) <= 1.03 for row in rows.values())
    assert (rows["classifier-free"]["forward"], rows["classifier-free"]["backward"]) == ("1", "0")
    assert (rows["energy"]["forward"], rows["energy"]["backward"]) == ("1", "1")
