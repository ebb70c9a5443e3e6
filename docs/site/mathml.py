"""Formulas as MathML, made while the site is built: a page needs no script and no network to show them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def lines(text: str) -> str:
    """Several lines, with or without marks to align them by, as one array that LaTeX takes."""
    one = text.startswith("\\begin") or ("\\\\" not in text and "&" not in text)
    return text if one else rf"\begin{{align*}}{text}\end{{align*}}"


def inline(self: Any, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(self: Any, node: nodes.math_block) -> None:
    made = convert(lines(node.astext().strip()), display="block")
    self.body.append(f'<div class="math">{made}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
