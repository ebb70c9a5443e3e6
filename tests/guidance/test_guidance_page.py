"""docs/guidance.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guidance.md"


@pytest.mark.filterwarnings("ignore")
def test_it_runs_as_printed():
    text = PAGE.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 140
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M))
    assert "class Segmenter" in code
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
