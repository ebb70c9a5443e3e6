"""``llms.txt``: what each page is about, for programs that read documentation (llmstxt.org)."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def about(document: nodes.document) -> tuple[str, str]:
    """The title of a page, and its first paragraph."""
    title = next(iter(document.findall(nodes.title)), None)
    first = next(iter(document.findall(nodes.paragraph)), None)
    said = lambda node: "" if node is None else " ".join(node.astext().split())
    return said(title), said(first)


def write(app: Sphinx, error: Exception | None) -> None:
    """The file, beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    pages = {name: about(app.env.get_doctree(name)) for name in sorted(app.env.found_docs)}
    home, intro = pages.pop("index")
    lines = [f"# {home}", "", f"> {intro}"]
    for heading, inside in (
        ("Pages", lambda name: not name.startswith(("reference/", "how-to/"))),
        ("How to add", lambda name: name.startswith("how-to/")),
        ("Reference", lambda name: name.startswith("reference/")),
    ):
        lines += ["", f"## {heading}", ""]
        lines += [f"- [{title}]({name}.html): {said}" for name, (title, said) in pages.items() if inside(name)]
    Path(app.outdir, "llms.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
