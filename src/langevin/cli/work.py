"""What the commands on pictures have in common: found, checked before any work, done one after another, resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._duration import duration

if TYPE_CHECKING:
    import numpy as np

    from ..report import Bar
    from ..tasks.pictures import Picture, Results


@dataclass(frozen=True)
class Done:
    """What was made of one picture.

    Args:
        made: the pictures, uint8 ``(H, W, C)``.
        columns: of the strip, with their names.
        record: what is to be said of it.
    """

    made: Sequence[np.ndarray]
    columns: Sequence[tuple[str, np.ndarray]]
    record: Mapping[str, Any]


def each(
    results: Results,
    found: Sequence[tuple[str, Path]],
    model: Any,
    verb: str,
    work: Callable[[Picture, Any, Bar], Done],
) -> str:
    """Do the pictures that are left, and say how many and how long it took.

    Args:
        results: the folder they go to, already checked.
        found: all pictures.
        model: as it was loaded; ``work`` is given one with a counter of its own.
        verb: what is being done, as in "editing".
        work: of one picture.
    """
    from ..report import Bar
    from ..storage import files
    from ..tasks import pictures

    left, begun = results.left(found), time.monotonic()
    with files.lock(results.out):
        for number, (name, path) in enumerate(left):
            counted, started = model.counted(), time.monotonic()
            of = f" ({number + 1} of {len(left)})" if len(left) > 1 else ""
            with Bar(f"{verb} {name}{of}") as bar:
                done = work(pictures.read(name, path, model), counted, bar)
            record = {
                "trained_steps": model.config.get("steps"),
                "calls": counted.counter.calls,
                "seconds": round(time.monotonic() - started, 3),
                **done.record,
            }
            results.write(name, path, done.made, done.columns, record)
    skipped = f"; {len(found) - len(left)} were there" if len(left) < len(found) else ""
    return f"{len(left)} image{'s' * (len(left) != 1)} in {duration(time.monotonic() - begun)}{skipped}"
