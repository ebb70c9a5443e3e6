"""The package's metadata, as an index shows them: who, where, and a page whose links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def metadata() -> ProjectMetadata:
    """What the build writes into the wheel, made by the build's own code."""
    return ProjectMetadata(str(ROOT), PluginManager())


def test_author_and_addresses_are_given(metadata: ProjectMetadata) -> None:
    assert metadata.core.authors == [{"name": "langevin contributors"}]
    urls = metadata.core.urls
    assert list(urls) == ["Homepage", "Source", "Documentation", "Changelog"]
    assert all(url.startswith(urls["Source"]) for url in urls.values())


def test_long_description_has_no_relative_link(metadata: ProjectMetadata) -> None:
    """Every link and picture of README.md is there, leads into the repository, and names a file that exists."""
    source = metadata.core.urls["Source"]
    text = metadata.core.readme
    assert metadata.core.readme_content_type == "text/markdown"
    relative = re.findall(r"(!?)\[[^\]]*\]\((?!https?:|#)([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(relative) > 20
    assert not re.search(r"\]\((?!https?:|#)", text)
    for picture, path in relative:
        assert (ROOT / path.partition("#")[0]).exists(), path
        # A page of GitHub shows a file; a picture needs the bytes themselves.
        assert f"]({source}/{'raw' if picture else 'blob'}/HEAD/{path})" in text
