"""Files that are read by others than people: they say what the package says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from langevin import __version__

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["version"] == __version__
    assert said["cff-version"] == "1.2.0"
    assert f'license = "{said["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert said["repository-code"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_issue_forms(file: Path) -> None:
    """As GitHub asks for them: a name, a description, fields each with an id of its own and a label."""
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 0
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in form["body"])
