"""``langevin audit``: what is written and what is said of things that are no schedulers of diffusers."""

from __future__ import annotations

from pathlib import Path

from said import Run

REFERENCES = Path(__file__).parents[1] / "tasks" / "audit_references.py"


def test_reports_of_an_own_scheduler_are_said_to_be_none(langevin: Run, tmp_path: Path) -> None:
    """Scripts are written for schedulers of diffusers alone, and the line that is printed says so."""
    out = tmp_path / "rep"
    said = langevin("audit", f"{REFERENCES}:StateLeftOver", "--checks", "left over", "--reports", out)
    assert said.code == 1
    assert "No script was written: they are for schedulers of diffusers" in said.out
    assert "holds" not in said.out
    assert not out.exists()
