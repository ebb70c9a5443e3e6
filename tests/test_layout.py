"""The layout as a rule: imports point down the list of folders, nothing heavy at import, no row without its proof.

And no file is long without a reason.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from langevin._registry import CATEGORIES, methods

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "langevin"

FOLDERS = (
    "numerics",
    "storage",
    "distributions",
    "processes",
    "denoisers",
    "operators",
    "worlds",
    "guidance",
    "objectives",
    "likelihood",
    "samplers",
    "nn",
    "data",
    "models",
    "training",
    "calibration",
    "metrics",
    "generate",
    "adapters",
    "tasks",
    "report",
    "playground",
    "cli",
)
"""A file imports from its own folder or one above it in this list: a likelihood and an objective know no sampler."""

ANYWHERE = ("_duration", "_errors", "_registry", "_version")
"""What every file may import; these import no folder themselves."""

HEAVY = (
    "accelerate",
    "datasets",
    "diffusers",
    "matplotlib",
    "peft",
    "PIL",
    "rich",
    "scipy",
    "skimage",
    "sklearn",
    "torchdiffeq",
    "tokenizers",
    "torchmetrics",
    "transformers",
    "tyro",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


def imports(module: str, source: str) -> set[str]:
    """The modules of this package that a module imports, inside functions and for type checkers too."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:  # `from . import grids` imports the file, not its package
                whole = f"{origin}.{alias.name}"
                found.add(whole if whole in FILES else origin)
    return {name for name in found if name.split(".")[0] == "langevin" and name != module}


def test_every_folder_is_in_the_list():
    folders = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert folders == set(FOLDERS)
    filled = {path.parent.name for path in SOURCE.glob("*/*.py") if TEXTS[name_of(path)].strip()}
    assert filled == folders, "a folder in which nothing stands"
    assert set(CATEGORIES.values()) <= set(FOLDERS)


@pytest.mark.parametrize("module", [m for m in FILES if m != "langevin"])
def test_imports_point_down_the_list(module):
    """Its own folder or one above; inside functions too, where only the time of the import is another."""
    folder = module.split(".")[1]
    for target in imports(module, TEXTS[module]):
        place = target.split(".")[1] if "." in target else "langevin"
        if place in ANYWHERE:
            continue
        assert place != "langevin", f"{module} imports the package's top, which names all folders"
        if folder in ANYWHERE or folder == "__main__":
            assert folder == "__main__", f"{module} imports {target}, but stands under every folder"
        else:
            assert FOLDERS.index(place) <= FOLDERS.index(folder), f"{module} imports {target}, which stands below it"


def circle(texts: dict[str, str]) -> list[str]:
    """Files that import each other round, if there are any."""
    graph = {module: imports(module, text) & set(texts) for module, text in texts.items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_circle():
    """Files import each other in one direction: inside functions and under TYPE_CHECKING too, a package's init last."""
    assert circle(TEXTS) == []


@pytest.mark.parametrize("inside", ["if TYPE_CHECKING:", "def f():"])
def test_a_circle_is_found(inside):
    """A type or a delayed import is enough for two files to be one."""
    below = "langevin.numerics.frame"
    made = (
        TEXTS[below] + f"\n\n{inside}\n    from .quadrature import gauss\n    from ..samplers.gaussian import solver\n"
    )
    assert {below, "langevin.samplers.gaussian.solver"} <= set(circle({**TEXTS, below: made}))


def loaded(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_nothing_heavy_is_loaded():
    """The algebra needs torch alone; ``import langevin`` not even that."""
    wanted = (
        "langevin.samplers, langevin.worlds, langevin.guidance, langevin.adapters.diffusers, langevin.adapters.loading"
    )
    assert not loaded(f"import {wanted}").intersection(HEAVY) - loaded("import torch")
    top = loaded("import langevin")
    assert "langevin" in top
    assert not top & {*HEAVY, "torch", "numpy"}


ROWS = methods()


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.category}/{r.name}")
def test_rows_of_the_registry(row):
    """A title; a place that can be imported; well-formed arXiv numbers; proofs that name tests that exist."""
    assert row.title.strip()
    assert re.fullmatch(r"[a-z0-9]+([-+./][a-z0-9]+)*", row.name), row.name
    where = row.where.split(".")
    for cut in range(len(where), 0, -1):
        if ".".join(where[:cut]) in FILES:
            found = importlib.import_module(".".join(where[:cut]))
            for part in where[cut:]:
                found = getattr(found, part)
            break
    else:
        pytest.fail(f"{row.where} is in no file")
    assert found is getattr(row.make, "func", row.make)
    for number in re.split(r"[,;\s]+", row.arxiv) if row.arxiv else []:
        assert re.fullmatch(r"\d{2}(0[1-9]|1[0-2])\.\d{4,5}", number), row.arxiv
    assert row.proof, "a method without a proof"
    for claim in row.proof.split("; "):
        kind, _, rest = claim.partition(": ")
        assert kind in ("exact", "parity", "data"), row.proof
        assert rest, row.proof
        for path in re.findall(r"tests/[\w/.]+(?:::\w+)?", rest):
            file, _, test = path.partition("::")
            assert (ROOT / file).exists(), f"{file} does not exist"
            assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{path} does not exist"
        assert "tests/" in rest or kind == "data", row.proof
    files = [ROOT / path for path in re.findall(r"tests/[\w/.]+", row.proof)]
    texts = [f.read_text(encoding="utf-8") for file in files for f in ([file] if file.is_file() else file.glob("*.py"))]
    made = getattr(row.make, "func", row.make).__name__
    speaks = re.compile(rf"""\b{re.escape(made)}\b|["']{re.escape(row.name)}["']""")
    assert not files or any(map(speaks.search, texts)), f"{row.category}/{row.name}: its proof speaks of something else"


def test_names_are_unique():
    assert len({(r.category, r.name) for r in ROWS}) == len(ROWS)


def test_test_files_have_names_of_their_own() -> None:
    """Folders of tests are no packages: pytest cannot import two files of one name in one run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


LONG = 400
"""Lines of a file that needs no reason to be one."""

REASON = re.compile(rf"\bIt is one file, of more than {LONG} lines, (so that|since) \S.*\.")


def says_why(text: str) -> bool:
    """Whether the docstring of a module says why it is one file, as ``training/loop.py`` does."""
    return REASON.search(" ".join((ast.get_docstring(ast.parse(text)) or "").split())) is not None


def test_a_long_file_says_why_it_is_one() -> None:
    """In its head, so that who opens it knows; and a file that was cut since does not say it any more."""
    paths = [path for top in ("src", "tests", "benchmarks", "docs") for path in (ROOT / top).rglob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    assert {"src/langevin/training/loop.py", "tests/mutants.py", "benchmarks/peers.py", "docs/make.py"} < texts.keys()
    long = {name for name, text in texts.items() if len(text.splitlines()) > LONG}
    assert {name for name, text in texts.items() if says_why(text)} == long
