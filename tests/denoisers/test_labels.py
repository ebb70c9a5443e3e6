"""What is a label, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from langevin._errors import UserError
from langevin.denoisers.conditions import as_labels


@pytest.mark.parametrize("value", [3, [0, 3], torch.tensor([1, 2], dtype=torch.int32)])
def test_integers_are(value: Any) -> None:
    assert as_labels(value).tolist() == torch.as_tensor(value).tolist()


@pytest.mark.parametrize("value", ["3", None, 1.0, [0.5], True, [[1, 2]], torch.zeros(0, dtype=torch.int64)])
def test_nothing_else_is(value: Any) -> None:
    with pytest.raises(UserError, match="label must hold integers"):
        as_labels(value)
