"""Parts of a set of samples: measured one after the other, they are measured as the whole."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from functools import reduce
from operator import add

import pytest
import torch
from torch import Tensor

from langevin import UserError, data
from langevin.metrics import (
    Accuracy,
    FeatureSums,
    Parts,
    ScoreSums,
    comparison,
    evaluate,
    frechet_distance,
    inception_score,
)
from langevin.metrics import parts as module
from support import with_labels

CUTS = {"whole": [300], "two": [150, 150], "three": [1, 250, 49], "many": [7] * 42 + [6]}


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [[90], [40, 50], [1, 60, 29]])
def test_sums_of_parts_in_any_order_are_those_of_the_whole(sizes: list[int]) -> None:
    """Sums of 90 float64 terms in another order: 90·2^-53 of the sum of their sizes is 1e-14; counts are exact."""
    x, real = 3 + draws(90, 5), draws(50, 5, seed=1)
    p, hits = draws(90, 4, seed=2).softmax(1), draws(90, seed=3) > 0
    whole = FeatureSums.of(x)
    for order in itertools.permutations(range(len(sizes))):
        pieces = [[a.split(sizes)[i] for i in order] for a in (x, p, hits)]
        sums = reduce(add, map(FeatureSums.of, pieces[0]))
        assert sums.count == 90
        torch.testing.assert_close(sums.mean, whole.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(sums.scatter, whole.scatter, rtol=1e-13, atol=1e-12)
        # d² ~ 45 is a difference of terms of that size, each good to 1e-13.
        assert frechet_distance(sums, FeatureSums.of(real)) == pytest.approx(frechet_distance(x, real), rel=1e-12)
        score = reduce(add, map(ScoreSums.of, pieces[1])).score
        assert float(score) == pytest.approx(inception_score(p, splits=1).value, rel=1e-13)
        assert reduce(add, map(Accuracy.of, pieces[2])) == Accuracy(int(hits.sum()), 90)


def test_means_of_parts_would_not_do() -> None:
    """Parts of different laws: what the sums know, and an average of averages does not."""
    p = torch.eye(2, dtype=torch.float64).repeat_interleave(10, 0)
    parts = [ScoreSums.of(part) for part in p.split(10)]
    assert [float(part.score) for part in parts] == [1, 1]
    assert float((parts[0] + parts[1]).score) == pytest.approx(2, rel=1e-15)


def test_what_does_not_add_up() -> None:
    with pytest.raises(UserError, match="one set of classes"):
        ScoreSums.of(torch.eye(2)) + ScoreSums.of(torch.eye(3))
    with pytest.raises(UserError, match="sum to 1"):
        ScoreSums.of(2 * torch.eye(2))


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def pieces(x: Tensor, label: Tensor, sizes: list[int]) -> Parts:
    return Parts(len(x), lambda: zip(x.split(sizes), label.split(sizes)))


def test_figures_do_not_depend_on_the_cut(digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of the table, bit for bit, where blocks are smaller than the set and pieces fall across them."""
    x, label = with_labels(digits.train.all())
    x, label = x[:300] + 0.1 * draws(300, 1, 8, 8).float(), label[:300]
    whole = evaluate(x, label, digits, progress=False)
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(comparison, "BLOCK", 64)
    found = {name: evaluate(pieces(x, label, sizes), None, digits, progress=False) for name, sizes in CUTS.items()}
    for name, measures in found.items():
        assert measures == found["whole"], name
    # Against one block of all: other sums in float64. d² and the like come from terms some 1e3 times their size.
    for key, measure in found["two"].items():
        assert measure["value"] == pytest.approx(whole[key]["value"], rel=1e-10, abs=1e-12), key
        assert measure["protocol"] == whole[key]["protocol"]


def test_some_are_the_ones_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    x, label = torch.arange(100.0)[:, None], torch.arange(100)
    index = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:30]
    some, asked = pieces(x, label, [33, 67]).some(index)
    assert some[:, 0].tolist() == index.tolist()
    assert asked is not None
    assert asked.tolist() == index.tolist()
    assert [len(block) for block, _ in pieces(x, label, [1, 99]).blocks()] == [16] * 6 + [4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(20, 1, 8, 9)}, r"shape \(N, 1, 8, 8\)"),
        ({"x": torch.full((20, 1, 8, 8), torch.nan)}, "non-finite"),
        ({"label": torch.full((20,), 10)}, r"labels must lie in \[0, 10\), got \[10\]"),
        ({"count": 7}, "at least 8 examples; got 7"),
        ({"count": 21}, "as many as they say, 21; got 20"),
    ],
)
def test_parts_that_do_not_fit(digits: data.Dataset, change: dict, words: str) -> None:
    x, label = change.get("x", torch.zeros(20, 1, 8, 8)), change.get("label", torch.zeros(20, dtype=torch.int64))
    with pytest.raises(UserError, match=words):
        evaluate(Parts(change.get("count", 20), lambda: [(x, label)]), None, digits)


WIDE = """
import resource, sys
import numpy as np
import torch
torch.set_num_threads(1)
from langevin import data
from langevin.metrics import Parts, evaluate
np.savez(sys.argv[1] + "/wide.npz", x=np.random.default_rng(0).integers(0, 256, (400, 24, 24, 3), dtype=np.uint8))
wide, count = data.load(sys.argv[1] + "/wide.npz"), int(sys.argv[2])
def read():
    for first in range(0, count, 1000):
        yield torch.rand(1000, 3, 24, 24, generator=torch.Generator().manual_seed(first)) * 2 - 1, None
evaluate(Parts(count, read), None, wide, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


@pytest.mark.slow
def test_wide_images_are_not_held(tmp_path) -> None:
    """Of 40,000 images of 3×24×24, 264 MiB, only features, distances and 64 projections are: 20, 0.6 and 20 MiB, some
    of them two or three times over (sorted, dealt); what is measured of 5,000 needs the same blocks."""
    peak = []
    for count in (5_000, 40_000):
        words = [sys.executable, "-c", WIDE, str(tmp_path), str(count)]
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        peak.append(float(done.stdout))
    print(f"peak resident memory: {peak[0]:.0f} MiB of 5,000 images, {peak[1]:.0f} MiB of 40,000")
    assert peak[1] - peak[0] < 132
