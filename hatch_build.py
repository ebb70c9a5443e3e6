"""README as a package index shows it: links and pictures lead to the repository, wherever the page is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def absolute(text: str, source: str) -> str:
    """Markdown whose relative links and pictures lead into the repository at ``source``, at its default branch."""
    links = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")
    return links.sub(lambda m: f"{m[1]}[{m[2]}]({source}/{'raw' if m[1] else 'blob'}/HEAD/{m[3]})", text)


class Readme(MetadataHookInterface):
    """Enters README.md into the metadata of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """As hatchling asks of a hook: change the ``[project]`` table in place."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}
