"""Changes random lines of the mathematics, one at a time, and reports those that no test notices (``make mutants``).

A mutant is one changed expression: an operator swapped, a comparison negated, a sign or a function dropped, a constant
changed, two arguments exchanged. Left alone are checks and messages, defaults, indices and shapes, and the folders in
which nothing has a closed form to be held against (networks, files, the command line).

Which tests run a line is recorded once, a test file at a time, and again when that file changes. A mutant is a fork of
a process that has collected all tests: there the functions of the changed line get their new code (where a module
computes it when it is imported, everything is imported again), and the tests that run the line are taken, those of the
mirrored file first and cheap ones first, until one fails. No file is changed. Results are kept in ``runs/mutants``:
what was caught is not tried again while its source file is the same; what survived is.

``tests/mutants.json`` lists mutants that compute the same thing, each with its reason; they are not counted.

It is one file, of more than 400 lines, so that a mutant can be followed from the expression that is changed to the test
that notices.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import copy
import functools
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "langevin"
FOLDERS = (
    "numerics",
    "distributions",
    "processes",
    "denoisers",
    "worlds",
    "guidance",
    "samplers",
    "objectives",
    "likelihood",
)
METRICS = ("crps", "frechet", "inception_score", "kernel", "memorisation", "precision_recall", "sliced")
TESTS = (*FOLDERS, "metrics", "laws", "adapters", "tasks", "test_bad_calls.py")

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mod, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
PAIRS = """exp expm1, log log1p, sin cos, sinh cosh, arctan tanh, min max, minimum maximum, amin amax,
    clamp_min clamp_max, sum mean, floor ceil, cumsum cumprod, ones_like zeros_like, ones zeros"""
SWAPPED = dict(pair.split() for pair in PAIRS.split(","))
SWAPPED |= {other: one for one, other in SWAPPED.items()}
DROPPED = {"sqrt", "square", "abs", "exp", "log", "expm1", "log1p", "tanh", "softmax", "log_softmax", "cumsum", "flip"}
SHAPES = {
    "reshape",
    "flatten",
    "expand",
    "unsqueeze",
    "squeeze",
    "view",
    "range",
    "fold",
    "at",
    "size",
    "split",
    "normal",
}
SHAPES |= {"uniform", "transpose", "movedim", "repeat", "repeat_interleave", "isinstance", "len", "lru_cache", "empty"}
SYMMETRIC = {"hypot", "maximum", "minimum", "max", "min", "logaddexp", "isclose", "equal"}
KINDS = """t s u start end begin now ahead, x y x_t x_s x0 z eps, a b c alpha sigma mean std, low high, p q, left right,
    before after first last here there, value values weights cov variance"""
TWINS = [set(kind.split()) for kind in KINDS.split(",")]
MEMORY = 8 << 30
CHECKS = {"__repr__", "__str__", "__post_init__", "check", "describe", "config"}


@dataclass(frozen=True)
class Mutant:
    """A line, what stands there and what is put in its place; ``unit`` are the lines that run when it does."""

    file: str
    line: int
    text: str
    before: str
    after: str
    span: tuple[int, int, int, int]
    unit: tuple[int, int]
    statement: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  →  {self.after}"

    @property
    def key(self) -> str:
        return " | ".join((self.file, self.text, self.before, self.after))


def changed(node: ast.AST) -> list[ast.AST]:
    """What may stand in the place of an expression."""
    found: list[ast.AST] = []

    def put(**fields: object) -> None:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        found.append(other)

    listed = (ast.List, ast.Tuple, ast.JoinedStr, ast.ListComp)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        text = any(isinstance(v, ast.Constant) and isinstance(v.value, str) for v in (node.left, node.right))
        if not text and not isinstance(node.left, listed) and not isinstance(node.right, listed):
            put(op=OPERATORS[type(node.op)]())
    elif (isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS) or isinstance(node, ast.BoolOp):
        put(op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        put(ops=[OPERATORS[type(node.ops[0])]()])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        found.append(node.operand)
    elif isinstance(node, ast.IfExp):
        put(body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float) and 1e-8 < abs(node.value or 1) < 1e8:
        put(value=node.value + 1 if isinstance(node.value, int) or not node.value else node.value * 1.25)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in SWAPPED:
            func = copy.copy(node.func)
            setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", SWAPPED[name])
            if hasattr(builtins, name) is hasattr(builtins, SWAPPED[name]) or isinstance(func, ast.Attribute):
                put(func=func)
        if (
            name in DROPPED
            and node.args
            and getattr(getattr(node.func, "value", None), "id", "") in ("torch", "np", "math")
        ):
            found.append(node.args[0])
        elif name in DROPPED and isinstance(node.func, ast.Attribute) and not node.args:
            found.append(node.func.value)
        for i, pair in enumerate(itertools.pairwise(node.args)):
            names = {getattr(v, "id", getattr(v, "attr", "")) for v in pair}
            if any(names <= kind for kind in TWINS) and name not in SHAPES | SYMMETRIC:
                put(args=[*node.args[:i], *pair[::-1], *node.args[i + 2 :]])
    return [other for other in found if ast.dump(other) != ast.dump(node)]


def worded(node: ast.AST) -> bool:
    """Whether it is about words: what a protocol says, a name compared."""
    return any(isinstance(v, ast.JoinedStr) or isinstance(getattr(v, "value", None), str) for v in ast.walk(node))


def setting(node: ast.Assign) -> bool:
    """Whether a module or a class gives a name to a number, to some, or to a record of numbers."""
    plain = (ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
    named = lambda v: isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id[0].isupper()
    kinds = {v.func for v in ast.walk(node.value) if named(v)}
    return all(isinstance(v, plain) or named(v) or v in kinds for v in ast.walk(node.value))


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a file."""
    source = path.read_text()
    lines = [line.encode() for line in source.split("\n")]
    file, found = path.relative_to(SOURCE).as_posix(), []

    def visit(node: ast.AST, unit: tuple[int, int], numbers: bool) -> None:
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.If) and all(isinstance(v, ast.Raise) for v in node.body) and not node.orelse:
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "check" in ast.unparse(node.value.func):
            return
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (node.name in CHECKS or "check" in node.name):
            return
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            unit = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno)
        if isinstance(node, ast.Lambda):
            unit = (node.lineno, node.end_lineno or node.lineno)
        if isinstance(node, (ast.IfExp, ast.AugAssign, ast.Compare)) and worded(node):
            return
        if isinstance(node, ast.Assign) and unit[0] == node.lineno and node.col_offset == 0 and setting(node):
            return
        if numbers or not isinstance(node, ast.Constant):
            for other in changed(node):
                row, last = node.lineno, node.end_lineno
                after = ast.unparse(ast.fix_missing_locations(other))
                span = (row, node.col_offset, last, node.end_col_offset)
                text = lines[row - 1].decode().strip()
                found.append(Mutant(file, row, text, ast.unparse(node), after, span, unit, isinstance(node, ast.stmt)))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in SHAPES:
            numbers = False
        for name, value in ast.iter_fields(node):
            if name in (
                "annotation",
                "returns",
                "decorator_list",
                "defaults",
                "kw_defaults",
                "keywords",
                "bases",
                "type_params",
            ):
                value = [v for v in value if v.arg not in ("dim", "keepdim", "maxsize")] if name == "keywords" else None
            if isinstance(node, ast.ClassDef):
                named = lambda v: isinstance(v, ast.AnnAssign) or (isinstance(v, ast.Assign) and setting(v))
                value = [v for v in node.body if not named(v)] if name == "body" else None
            inside = numbers and not (isinstance(node, ast.Subscript) and name == "slice")
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, unit, inside)

    visit(ast.parse(source), (0, 0), True)
    return found


def source_of(mutant: Mutant) -> str:
    """The file with the change in it."""
    lines = (SOURCE / mutant.file).read_bytes().split(b"\n")
    row, column, last, end = mutant.span
    head, tail = lines[row - 1][:column], lines[last - 1][end:]
    text = mutant.after if mutant.statement else f"({mutant.after})"
    lines[row - 1 : last] = [head + text.encode() + tail, *[b""] * (last - row)]
    return b"\n".join(lines).decode()


def of_library(kind: type) -> list:
    """The library's own objects of a kind: functions, or caches."""
    return [v for v in gc.get_objects() if issubclass(type(v), kind) and (v.__module__ or "").startswith("langevin")]


def coded(code: CodeType) -> list[CodeType]:
    """A code object and all inside it, in order."""
    return [code, *(c for v in code.co_consts if isinstance(v, CodeType) for c in coded(v))]


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def record_of(kept: Path, test: str) -> Path:
    return kept / "lines" / f"{test.replace('/', '.')}.json"


def known(kept: Path, test: str, variants: int) -> dict | None:
    """What is recorded of a test file, if it still is what it was, and of as many variants of its tests."""
    path = record_of(kept, test)
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("hash") == hashed(ROOT / test) and found.get("variants", 0) >= variants else None


class Covering:
    """The tests that run a line, by the text of the line, so that it is found where it has moved."""

    def __init__(self, kept: Path, files: set[str], variants: int) -> None:
        self.cost: dict[str, float] = {}
        self.lines: dict[str, dict[str, set[str]]] = {}
        for found in filter(None, (known(kept, name, variants) for name in files)):
            self.cost.update(found["tests"])
            for file, lines in found["lines"].items():
                of_file = self.lines.setdefault(file, {})
                for text, numbers in lines.items():
                    of_file.setdefault(text, set()).update(found["tests"][i][0] for i in numbers)

    def of(self, mutant: Mutant, seconds: float) -> tuple[list[str], bool]:
        """Those of the mirrored file, of the folder, of all others; cheap ones first, ``seconds`` in all.

        And whether the line is seen to run in them: one that runs on import alone has all tests of its file.
        """
        of_file, first = self.lines.get(mutant.file, {}), mutant.unit[0]
        text = (SOURCE / mutant.file).read_text().split("\n")[max(0, first - 1) : mutant.unit[1]]
        tests = set().union(*(of_file.get(line.strip(), ()) for line in text))
        runs = bool(tests)
        tests = tests or set().union(*of_file.values())
        folder, stem = mutant.file.rsplit("/", 1)
        far = lambda name: (not name.startswith(f"tests/{folder}/")) + (f"/test_{stem}:" not in name)
        ordered = sorted(tests, key=lambda name: (far(name), self.cost[name], name))
        total = itertools.accumulate(self.cost[name] for name in ordered)
        return [name for name, spent in zip(ordered, total) if spent - self.cost[name] < seconds], runs


def queue(work: list, jobs: int, run: Callable[[Any], str], done: Callable[[Any, str], None]) -> None:
    """``run`` of each in a fork of its own, ``jobs`` at a time; ``done`` gets what it returned, or how it died."""
    running: dict[int, tuple[Any, int]] = {}
    for item in [*work, *[None] * jobs]:
        if item is not None:
            sys.stdout.flush()
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                quiet = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(quiet, stream)
                try:
                    os.write(write, b"=" + run(item).encode())
                except BaseException:
                    os.write(write, b"!" + traceback.format_exc().encode()[-2000:])
                os._exit(0)
            os.close(write)
            running[pid] = item, read
        if running and (item is None or len(running) == jobs):
            pid, status = os.wait()
            ended, read = running.pop(pid)
            with os.fdopen(read, "rb") as pipe:
                said = pipe.read().decode()
            if said.startswith("!"):
                raise RuntimeError(f"{ended}: {said[1:]}")
            done(ended, said[1:] if said else f"stopped by {signal.Signals(os.WTERMSIG(status)).name}")


def spread(items: list[pytest.Item], count: int) -> list[pytest.Item]:
    """At most so many of the parametrised variants of a test: by chance, for a stride would leave out whole columns."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    chance = lambda item: hashlib.sha256(item.nodeid.encode()).digest()
    kept = {v.nodeid for some in tests.values() for v in sorted(some, key=chance)[:count]}
    return [item for item in items if item.nodeid in kept]


class Plugin:
    """Instead of running the collected tests: forks of this process that do."""

    def __init__(self, work: list[Mutant], options: argparse.Namespace, done: Callable[[Mutant, str], None]) -> None:
        self.work, self.done, self.kept = work, done, options.kept
        self.jobs, self.seconds, self.variants = options.jobs, options.seconds, options.variants
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or f"import of {report.nodeid}"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if self.failed:
            raise RuntimeError(self.failed)
        self.items = {item.nodeid: item for item in session.items}
        self.caches = [v.cache_clear for v in of_library(functools._lru_cache_wrapper)]
        self.functions: dict[CodeType, list[FunctionType]] = {}
        for function in of_library(FunctionType):
            self.functions.setdefault(function.__code__, []).append(function)
        gc.freeze()
        files: dict[str, list[pytest.Item]] = {}
        for item in spread(session.items, self.variants):
            files.setdefault(item.nodeid.split("::")[0], []).append(item)
        self.source = {str(path): path.read_text().split("\n") for path in SOURCE.rglob("*.py")}
        self.hashes = {name: hashed(ROOT / name) for name in files}
        stale = [name for name in files if known(self.kept, name, self.variants) is None]
        queue(
            stale,
            self.jobs,
            lambda name: self.record(name, files[name]),
            lambda name, _: print("recorded", name, flush=True),
        )
        self.tests = Covering(self.kept, set(files), self.variants)
        queue(self.work, self.jobs, self.one, self.done)
        return True

    def run(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        for item, following in zip(items, [*items[1:], None]):
            self.failed = ""
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield item

    def record(self, name: str, items: list[pytest.Item]) -> str:
        """Notes which lines each test of a file runs, in its first hundred calls of a function."""
        calls: dict[CodeType, int] = {}
        seen: dict[CodeType, set[int]] = {}
        tracers: dict[CodeType, Callable] = {}
        ours = f"{SOURCE}{os.sep}"

        def called(frame: FrameType, event: str, arg: object) -> Callable | None:
            code = frame.f_code
            if calls.get(code, 0) >= 100:
                return None
            calls[code] = calls.get(code, 0) + 1 if code.co_filename.startswith(ours) else 100
            if calls[code] == 100:
                return None
            if code not in tracers:
                add = seen.setdefault(code, set()).add

                def line(frame: FrameType, event: str, arg: object) -> Callable:
                    add(frame.f_lineno)
                    return line

                tracers[code] = line
            return tracers[code]

        tests: list[tuple[str, float]] = []
        lines: dict[str, dict[str, list[int]]] = {}
        began = time.process_time()
        sys.settrace(called)
        for item in self.run(items):
            sys.settrace(None)
            if not self.failed:
                for code, numbers in seen.items():
                    of_file = lines.setdefault(Path(code.co_filename).relative_to(SOURCE).as_posix(), {})
                    for text in {self.source[code.co_filename][number - 1].strip() for number in numbers}:
                        of_file.setdefault(text, []).append(len(tests))
                tests.append((item.nodeid, round(time.process_time() - began, 3)))
            for clear in self.caches:
                clear()
            for code in seen:
                calls[code] = 0
                seen[code].clear()
            began = time.process_time()
            sys.settrace(called)
        sys.settrace(None)
        path = record_of(self.kept, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"hash": self.hashes[name], "variants": self.variants, "tests": tests, "lines": lines})
        )
        return ""

    def one(self, mutant: Mutant) -> str:
        """The test that catches a mutant; "" if none does."""
        tests, runs = self.tests.of(mutant, self.seconds)
        if not tests:
            return ""
        cost = 20 + int(3 * sum(self.tests.cost[name] for name in tests))
        resource.setrlimit(resource.RLIMIT_CPU, (cost, cost))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        signal.alarm(20 * cost)
        if not runs or not self.patch(mutant):
            return anew(mutant, tests)
        return next((item.nodeid for item in self.run([self.items[name] for name in tests]) if self.failed), "")

    def patch(self, mutant: Mutant) -> bool:
        """Gives the functions of a file the code of the changed source, if what changed is inside of them."""
        path, found = str(SOURCE / mutant.file), False
        old = coded(compile((SOURCE / mutant.file).read_text(), path, "exec", dont_inherit=True))
        new = coded(compile(source_of(mutant), path, "exec", dont_inherit=True))
        if len(old) != len(new) or any(a.co_freevars != b.co_freevars for a, b in zip(old, new)):
            return False
        for before, after in zip(old, new):
            for function in self.functions.get(before, ()) if before != after else ():
                function.__code__, found = after, True
        return found


class Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from the changed source."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(source_of(self.mutant), self.path, "exec", dont_inherit=True)


def anew(mutant: Mutant, tests: list[str]) -> str:
    """The test that catches a mutant after everything of this repository is imported again."""
    name = "langevin." + mutant.file[:-3].replace("/", ".").removesuffix(".__init__")
    loader = Changed(name, str(SOURCE / mutant.file))
    loader.mutant = mutant
    spec = importlib.util.spec_from_file_location(name, loader.path, loader=loader)
    ours = tuple(f"{ROOT / folder}{os.sep}" for folder in ("src", "tests"))  # an environment may lie in ROOT too
    for module, it in list(sys.modules.items()):
        if str(getattr(it, "__file__", None)).startswith(ours) and module != "__main__":
            del sys.modules[module]

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> object:
            return spec if fullname == name else None

    sys.meta_path.insert(0, Finder())
    watch = Watch()
    pytest.main(["-x", "-p", "no:cacheprovider", *tests], plugins=[watch])
    return watch.failed


class Watch:
    """The first test that fails, or file that cannot be imported."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    pytest_collectreport = pytest_runtest_logreport


class Results:
    """What became of each mutant, kept from run to run; what was caught counts while its source file is the same."""

    def __init__(self, kept: Path) -> None:
        self.path = kept / "results.json"
        kept.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, dict[str, str]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def caught(self, mutant: Mutant) -> bool:
        found = self.found.get(mutant.key, {})
        return bool(found.get("by")) and found["hash"] == hashed(SOURCE / mutant.file)

    def __call__(self, mutant: Mutant, by: str) -> None:
        self.found[mutant.key] = {"by": by, "hash": hashed(SOURCE / mutant.file)}
        print("caught  " if by else "SURVIVED", mutant, f"[{by}]" if by else "", flush=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=0))
        part.replace(self.path)


@functools.lru_cache(maxsize=1)
def by_line() -> dict[tuple[str, int], list[Mutant]]:
    """All mutants of all mathematical files."""
    paths = [p for folder in FOLDERS for p in sorted((SOURCE / folder).rglob("*.py"))]
    paths += [SOURCE / "metrics" / f"{name}.py" for name in METRICS]
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for path in paths:
        for mutant in mutants(path):
            lines.setdefault((mutant.file, mutant.line), []).append(mutant)
    return lines


def drawn(seed: int, n: int, equivalent: set[str]) -> tuple[list[Mutant], list[Mutant]]:
    """One mutant on each of n lines drawn at random, and the equivalent ones that were drawn beside them.

    Chance is a hash of seed and text, so that a change elsewhere does not make it another draw.
    """
    chance = lambda *words: hashlib.sha256("|".join((str(seed), *words)).encode()).digest()
    lines = {(some[0].file, some[0].text): some for some in by_line().values()}
    counted: list[Mutant] = []
    same: list[Mutant] = []
    for place in sorted(lines, key=lambda place: chance(*place)):
        if len(counted) == n:
            break
        mutant = min(lines[place], key=lambda mutant: chance(mutant.key))
        (same if mutant.key in equivalent else counted).append(mutant)
    return counted, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-n", type=int, default=200, help="lines")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, a core and about a gigabyte each")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the tests that are tried on a mutant")
    parser.add_argument("--variants", type=int, default=1000, help="of a parametrised test that are recorded and tried")
    parser.add_argument("--at", nargs="*", default=[], help="all mutants of these lines instead: samplers/clock.py:12")
    parser.add_argument("--within", nargs="*", default=[""], help="of the draw those in these folders or files alone")
    parser.add_argument("tests", nargs="*", default=[f"tests/{name}" for name in TESTS], help="files or folders")
    parser.add_argument("--kept", type=Path, default=Path("runs/mutants"), help="where results are kept")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    listed = json.loads((ROOT / "tests" / "mutants.json").read_text())
    work, same = drawn(options.seed, options.n, {entry["mutant"] for entry in listed})
    if options.at:
        work, same = [m for (file, line), some in by_line().items() if f"{file}:{line}" in options.at for m in some], []
    work, same = ([m for m in some if m.file.startswith(tuple(options.within))] for some in (work, same))
    results = Results(options.kept)
    todo = [mutant for mutant in work if options.at or not results.caught(mutant)]
    plugin = Plugin(todo, options, results)
    pytest.main(["-p", "no:cacheprovider", "-s", *options.tests], plugins=[plugin])
    print(f"\n{'folder':15}{'lines':>7}{'caught':>8}{'equivalent':>12}")
    for folder in (*FOLDERS, "metrics", ""):
        mine, other = ([m for m in some if m.file.startswith(folder)] for some in (work, same))
        print(f"{folder or 'all':15}{len(mine):7}{sum(map(results.caught, mine)):8}{len(other):12}")
    left = [mutant for mutant in work if not results.caught(mutant)]
    print(f"\n{1 - len(left) / max(1, len(work)):.1%} of {len(work)} lines caught, seed {options.seed}; survivors:")
    for mutant in left:
        print(mutant)


if __name__ == "__main__":
    main()
