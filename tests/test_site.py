"""The site of the documentation: every public name is described, every formula shown, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

DOCS = Path(__file__).parents[1] / "docs"
LARGEST = 500_000
"""Bytes of a page, before its pictures."""

pytest.importorskip("sphinx")


def extension(name: str):
    sys.path.insert(0, str(DOCS / "site"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS / "site"))


reference, mathml = extension("reference"), extension("mathml")


def test_every_public_name_is_described_once() -> None:
    found = reference.documented()
    homes = {home for names in found.values() for _, home in names}
    described: list[str] = []
    for package, names in found.items():
        text = reference.page(package, names, [])
        described += re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)$", text, re.M)
        module = importlib.import_module(package)
        modules = [name for name in module.__all__ if type(getattr(module, name)) is type(re)]
        homes -= {f"{package}.{name}" for name in modules}
        for name in modules:  # a package has a page of its own, a module stands on that of its package
            assert f"{package}.{name}" in text
        assert {name for name, _ in names} == set(module.__all__)
    assert sorted(described) == sorted(homes)
    assert len(described) > 500


def formulas() -> list[tuple[str, str]]:
    """Every formula of the docstrings, with the file that it is in."""
    found = []
    for file in sorted((DOCS.parent / "src").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found += [(file.name, tex) for tex in re.findall(r":math:`([^`]+)`", text)]
        for block in re.findall(r"^( *)\.\. math::\n\n?((?:\1 +\S.*\n|\n)+)", text, re.M):
            found.append((file.name, " ".join(block[1].split())))
    return found


def test_every_formula_is_shown() -> None:
    """No command of TeX is left in what a browser is given."""
    from latex2mathml.converter import convert

    found = formulas()
    assert len(found) > 300
    for file, tex in found:  # a row for each line, and no mark of alignment among the symbols
        made = convert(mathml.lines(tex))
        many = "\\\\" in tex and "\\begin" not in tex
        assert not many or made.count("<mtr") == tex.count("\\\\") + 1, (file, tex)
        assert "<mi>&</mi>" not in made, (file, tex)
    left = [(file, tex) for file, tex in found if "\\" in convert(mathml.lines(tex)).split("<annotation")[0]]
    assert left == []


def test_bars_are_norms_and_tex_is_left_alone() -> None:
    lines = ["|s − ∇log p|² of ``a|b``", ".. math::", "", "   |x|", "", "|y|"]
    reference.escape_bars(None, "", "", None, None, lines)
    assert lines == [r"\|s − ∇log p\|² of ``a|b``", ".. math::", "", "   |x|", "", r"\|y\|"]


class Page(HTMLParser):
    """The links, the loaded files and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])


@pytest.mark.slow
def test_the_site_is_whole(tmp_path: Path) -> None:
    """Built without a warning; its links and files are there, nothing is loaded from elsewhere, pages are small."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    made = subprocess.run([*command, str(DOCS), str(tmp_path / "site")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    site = tmp_path / "site"
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    assert len(pages) > 80
    dead = []
    for file, page in pages.items():
        assert file.stat().st_size < LARGEST or "_modules" in file.parts or "reference" in file.parts, file
        assert not [url for url in page.loaded if re.match(r"(https?:)?//", url)], file
        for url in (*page.links, *page.loaded):
            if re.match(r"(https?|mailto|data):", url) or file.name in ("search.html", "genindex.html"):
                continue
            path, anchor = urldefrag(url)
            target = (file.parent / unquote(path.split("?")[0])).resolve() if path else file
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (anchor and known is not None and unquote(anchor) not in known):
                dead.append((file.relative_to(site).as_posix(), url))
    assert dead == []
    llms = (site / "llms.txt").read_text(encoding="utf-8")
    assert llms.startswith("# langevin\n\n> Diffusion models turn noise into data")
    assert "(guidance.html): " in llms
