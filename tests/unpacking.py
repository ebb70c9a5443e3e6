"""What the playground sends to a page, read as the page reads it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor


def unpacked(array: dict[str, Any]) -> Tensor:
    """An array of a message."""
    kind = np.uint8 if array["kind"] == "uint8" else np.float32
    values = np.frombuffer(base64.b64decode(array["data"]), kind).reshape(array["shape"])
    return torch.from_numpy(values.copy())
