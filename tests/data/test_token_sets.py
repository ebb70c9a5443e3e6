"""Sets of tokens are what their pages say."""

from __future__ import annotations

import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin.data import Data


def test_heartbeat_is_five_phases() -> None:
    found = data.load("heartbeat")
    assert (found.info.shape, found.info.tokens, found.info.mean, found.info.low) == ((20,), ("0", "1"), None, None)
    for split, count in ((found.train, 10_000), (found.test, 1000)):
        x = split.all()[0]
        assert (x.shape, x.dtype) == ((count, 20), torch.int64)
        rows, times = x.unique(dim=0, return_counts=True)
        assert times.tolist() == [count // 5] * 5
        beats = {tuple(row.nonzero()[:, 0].tolist()) for row in rows}
        assert beats == {tuple(range(phase, 20, 5)) for phase in range(5)}


def test_a_description_of_tokens_travels() -> None:
    info = data.load("heartbeat").info
    assert Data.from_dict(info.to_dict()) == info
    assert "tokens=2" in repr(info)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokens": ("a",)}, "two or more names"),
        ({"tokens": ("a", "b", "a")}, "differ from each other"),
        ({"tokens": ("a", "b"), "mean": torch.zeros(20, dtype=torch.float64)}, "tokens have no moments"),
    ],
)
def test_descriptions_that_contradict_themselves(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Data("x", (20,), None, None, **settings)  # type: ignore[arg-type]


def test_what_is_for_images() -> None:
    with pytest.raises(UserError, match="heartbeat: these are sequences of tokens"):
        data.load("heartbeat", size=8)
    with pytest.raises(UserError, match="flip mirrors images"):
        data.load("heartbeat", flip=True)
