"""What the labels of a model are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser


def class_names(model: NetworkDenoiser) -> list[str]:
    """Names of the labels a model takes, none for one that takes none; numbers where the data give no names."""
    count = model.condition_sizes.get("label", 0)
    known = [] if model.output is None else list(model.output.classes)
    return known if len(known) == count else [str(k) for k in range(count)]
