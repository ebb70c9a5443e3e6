"""The reference: a page for each package with public names, all of them from their docstrings.

A name is described once, in the package nearest to ``langevin``; others that have it too point there. Names in the
pages of the documentation lead to the reference, and a package's page to those that speak of it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import langevin

CODE = re.compile(r"(`+[^`]*`+)")
"""What stands between backquotes, which is left as it is."""

BACK = re.compile(r"reference/(?P<package>langevin[\w.]*)\.html#(?P<anchor>langevin\.[\w.]+)")
"""A link from a page of code to what is described."""


def packages() -> list[str]:
    """Every package that says what is public in it, those nearest to ``langevin`` first."""
    found = ["langevin"]
    for each in pkgutil.walk_packages(langevin.__path__, "langevin."):
        hidden = any(part.startswith("_") for part in each.name.split("."))
        if each.ispkg and not hidden and getattr(importlib.import_module(each.name), "__all__", None):
            found.append(each.name)
    return sorted(found, key=lambda name: (name.count("."), name))


def documented() -> dict[str, list[tuple[str, str]]]:
    """The public names of each package, each with where it is described: its own full name, or another's."""
    homes: dict[int, str] = {}
    found: dict[str, list[tuple[str, str]]] = {}
    for package in packages():
        module = importlib.import_module(package)
        found[package] = []
        for name in module.__all__:
            value, full = getattr(module, name), f"{package}.{name}"
            shared = inspect.isclass(value) or inspect.isroutine(value)  # constants may be one object by chance
            found[package].append((name, homes.setdefault(id(value), full) if shared else full))
    return found


def page(package: str, names: list[tuple[str, str]], guides: list[tuple[str, str]]) -> str:
    """A package's page, reStructuredText."""
    module = importlib.import_module(package)
    own = [name for name, home in names if home == f"{package}.{name}" and not _is_module(module, name)]
    lines = [
        package,
        "=" * len(package),
        "",
        f".. py:module:: {package}",
        "",
        *inspect.cleandoc(module.__doc__ or "").splitlines(),
        "",
    ]
    if guides:
        links = ", ".join(f":doc:`{title} </{guide}>`" for guide, title in guides)
        lines += [f"Pages that speak of it: {links}.", ""]
    if modules := [name for name, _ in names if _is_module(module, name)]:
        lines += ["Packages: " + ", ".join(_package(package, name) for name in modules) + ".", ""]
    if others := [(name, home) for name, home in names if home != f"{package}.{name}"]:
        told = ", ".join(f":py:obj:`{name} <{home}>`" for name, home in others)
        lines += [f"Described elsewhere: {told}.", ""]
    if own:
        lines += [".. list-table::", ""]
        for name in own:
            first = " ".join(doc_of(name, getattr(module, name)).strip().split("\n\n")[0].split())
            lines += [f"   * - :py:obj:`{name} <{package}.{name}>`", f"     - {escaped(first)}"]
        lines.append("")
    for name in own:
        lines += [*_directive(package, name, getattr(module, name)), ""]
    return "\n".join(lines)


@functools.cache
def _attributes(module: str) -> dict[tuple[str, str], list[str]]:
    """The strings behind assignments of a module."""
    return ModuleAnalyzer.for_module(module).find_attr_docs()


def doc_of(name: str, value: Any) -> str:
    """The docstring of something public; of a constant, the string behind its assignment, wherever that is.

    Raises:
        LookupError: for a constant without one.
    """
    if inspect.isclass(value) or inspect.isroutine(value):
        return inspect.getdoc(value) or ""
    for found, module in list(sys.modules.items()):
        if (
            found.startswith("langevin.")
            and vars(module).get(name) is value
            and ("", name) in (told := _attributes(found))
        ):
            return "\n".join(told["", name])
    raise LookupError(f"no docstring behind the assignment of {name}")


def _is_module(module: ModuleType, name: str) -> bool:
    return inspect.ismodule(getattr(module, name))


def _package(package: str, name: str) -> str:
    full = f"{package}.{name}"
    return f":doc:`{full}`" if full in packages() else f"``{full}``"


def _directive(package: str, name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f".. autoclass:: {package}.{name}"
        yield "   :members:"
    elif inspect.isroutine(value):
        yield f".. autofunction:: {package}.{name}"
    else:
        yield f".. py:data:: {package}.{name}"
        yield ""
        yield from (f"   {escaped(line)}" for line in doc_of(name, value).splitlines())


def _guides(source: Path) -> dict[str, list[tuple[str, str]]]:
    """The pages that name something of each package, with their titles."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(source.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), file.stem)
        for package in packages()[1:]:
            short = package.removeprefix("langevin.")
            if re.search(rf"(?<![\w.])(?:langevin\.)?{re.escape(short)}\.[A-Za-z_]", text):
                found.setdefault(package, []).append((file.stem, title))
    return found


def write_pages(app: Sphinx) -> None:
    """All pages, where they differ from what is there."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    names, guides = documented(), _guides(Path(app.srcdir))
    pages = {f"{package}.rst": page(package, names[package], guides.get(package, [])) for package in names}
    toc = "\n".join(f"   {package}" for package in sorted(names))
    head = "Reference\n=========\n\nEvery public name, by package, from its docstring."
    pages["index.rst"] = f"{head}\n\n.. toctree::\n   :maxdepth: 1\n\n{toc}\n"
    for file in folder.glob("*.rst"):
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def escaped(line: str) -> str:
    """A line whose bars are norms and conditions, and no substitutions of reStructuredText."""
    return "".join(p if k % 2 else p.replace("|", "\\|") for k, p in enumerate(CODE.split(line)))


def escape_bars(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """The same for a docstring, but for its formulas."""
    inside: int | None = None  # the indentation of a formula's directive, whose lines are TeX
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and indent <= inside:
            inside = None
        if line.lstrip().startswith(".. math::"):
            inside = indent
        elif inside is None:
            lines[i] = escaped(line)


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Code that names something public leads to its description; in the reference, also by its name in the package."""
    objects = app.env.domaindata["py"]["objects"]
    package = docname.removeprefix("reference/") if docname.startswith("reference/langevin") else ""
    for literal in list(doctree.findall(nodes.literal)):
        name = re.sub(r"\(.*\)$", "", literal.astext())
        known = [name, f"langevin.{name}"] if "." in name else []
        known += [f"{package}.{name}"] if package else []
        found = next((objects[full] for full in known if full in objects), None)
        if found is None or isinstance(literal.parent, nodes.reference):
            continue
        assert app.builder is not None
        target = app.builder.get_relative_uri(docname, found.docname) + f"#{found.node_id}"
        reference = nodes.reference("", "", internal=True, refuri=target)
        literal.replace_self(reference)
        reference += literal


def mend_links(app: Sphinx, error: Exception | None) -> None:
    """Pages of code lead back to the names as their package's page has them.

    sphinx.ext.viewcode takes all names of a module to be of the one package that was the first to describe one.
    """
    if error is None and app.builder.format == "html":
        for file in Path(app.outdir, "_modules").rglob("*.html"):
            text = file.read_text(encoding="utf-8")
            if (right := BACK.sub(_home, text)) != text:
                file.write_text(right, encoding="utf-8")


def _home(link: re.Match[str]) -> str:
    package, anchor = link["package"], link["anchor"]
    name = anchor if anchor.startswith(f"{package}.") else f"{package}.{anchor.removeprefix('langevin.')}"
    return f"reference/{package}.html#{name}"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("doctree-resolved", link_names)
    app.connect("build-finished", mend_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
