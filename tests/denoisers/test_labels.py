"""What is a label, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from langevin._errors import UserError
from langevin.denoisers.conditions import as_labels, check_label


@pytest.mark.parametrize("value", [3, [0, 3], torch.tensor([1, 2], dtype=torch.int32)])
def test_integers_are(value: Any) -> None:
    assert as_labels(value).tolist() == torch.as_tensor(value).tolist()


@pytest.mark.parametrize("value", ["3", None, 1.0, [0.5], True, [[1, 2]], torch.zeros(0, dtype=torch.int64)])
def test_nothing_else_is(value: Any) -> None:
    with pytest.raises(UserError, match="label must hold integers"):
        as_labels(value)


@pytest.mark.parametrize(
    ("label", "count", "absent", "said"),
    [
        (3, 3, False, r"label must lie in \[0, 3\), got 3"),
        (-1, 3, False, r"label must lie in \[0, 3\), got -1"),
        (-2, 3, True, r"label must lie in \[0, 3\) \(-1 is none\), got -2"),
        (torch.tensor([4, 0, -1, 4]), 3, False, r"label must lie in \[0, 3\), got \[-1, 4\]"),
        (torch.tensor([4, 0, -1, 4]), 3, True, r"got \[4\]"),
        (torch.arange(20), 3, False, r"got \[3, 4, 5, 6, 7, 8, 9, 10\]$"),
        (torch.tensor([0, -1]), None, False, r"label must be at least 0, got \[-1\]"),
    ],
)
def test_labels_out_of_range(label: Any, count: int | None, absent: bool, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_label(label, count, absent=absent)


def test_labels_in_range() -> None:
    """Both ends are, −1 where none is accepted, any where the count is unknown, and no labels at all."""
    check_label(torch.tensor([0, 2]), 3)
    check_label(torch.tensor([[-1, 2]]), 3, absent=True)
    check_label(10**6, None)
    check_label(torch.zeros(0, dtype=torch.int64), 3)
