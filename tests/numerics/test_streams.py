"""Streams of noise: every one has a name, and no two that may meet have one number."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import torch

from langevin import Noise
from langevin.distributions import BrownianPath, Stream

SOURCE = Path(__file__).parents[2] / "src" / "langevin"


def test_shared_streams_lie_apart():
    """2³² or more from each other, which leaves room for the i of ``Stream.X + i``, and above every other stream."""
    shared = sorted(int(s) for s in Stream if s.owner == "shared")
    assert len(shared) > 8
    assert all(high - low >= 2**32 for low, high in itertools.pairwise(shared))
    assert max(int(s) for s in Stream if s.owner != "shared") < shared[0]


def test_no_name_stands_for_another():
    """An owner's streams differ: a name whose owner and number are another's would be an alias of it."""
    names = list(Stream.__members__)
    assert [s.name for s in Stream] == names
    assert len({s.value for s in Stream}) == len(names)


def test_the_library_folds_by_name():
    """A ``fold_in`` takes a stream, a stream and an index, or an index alone; each stream is folded somewhere."""
    used, folds = set(), 0
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fold_in"
            ):
                continue
            folds += 1
            (tag,) = node.args
            parts = list(ast.walk(tag))
            where = f"{path.relative_to(SOURCE)}:{node.lineno}: {ast.unparse(node)}"
            assert not any(isinstance(p, ast.Constant) for p in parts), f"{where} folds by a number without a name"
            names = [p.attr for p in parts if isinstance(p, ast.Attribute)]
            # A number that has a name elsewhere is no better than one without: names are those of the enumeration.
            assert names or (isinstance(tag, ast.Name) and not tag.id.strip("_").isupper()), where
            used.update(names)
    assert folds > 40
    assert used == set(Stream.__members__)


def test_a_stream_is_its_number():
    """A name gives the bits that its number gives, for plain noise and for a path."""
    for noise in (Noise(3, 4, 5), BrownianPath(3, torch.arange(4))):
        for stream in (Stream.COMPONENT, Stream.TIMES):
            assert torch.equal(noise.fold_in(stream).normal((2,)), noise.fold_in(int(stream)).normal((2,)))
            assert noise.fold_in(stream).seed == noise.fold_in(int(stream)).seed
