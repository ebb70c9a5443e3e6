"""How long a run took, kept apart from what is equal for equal runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLOCK, SECONDS = "clock.json", "seconds"
"""Where a run keeps what depends on the clock, and under which name a model's ``config`` has it."""


def timeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was made, as its directory tells it: without the clock, so that equal runs leave equal files."""
    return {key: value for key, value in config.items() if key != SECONDS}
