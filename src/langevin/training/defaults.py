"""What suits a kind of data where a run leaves it open."""

from __future__ import annotations

from dataclasses import dataclass

from ..data import DataInfo


@dataclass(frozen=True)
class Defaults:
    """Numbers of a run.

    Attributes:
        batch: examples a step.
        lr: learning rate.
        steps: optimiser steps; None where they follow the speed.
        warmup: steps over which the learning rate grows.
        every: steps from one output to the next; None where it follows the steps.
    """

    batch: int
    lr: float
    steps: int | None
    warmup: int
    every: int | None


def defaults_of(data: DataInfo) -> Defaults:
    if data.tokens and not data.is_image:
        return Defaults(batch=128, lr=2e-3, steps=4000, warmup=100, every=1000)
    if not data.is_image:
        return Defaults(batch=512, lr=2e-3, steps=4000, warmup=100, every=1000)
    if max(data.shape[1:]) <= 16:
        return Defaults(batch=128, lr=2e-3, steps=1800, warmup=100, every=300)
    # How long follows the speed of the first steps (``budget.choose``): a step may take 10 ms or 10 s.
    return Defaults(batch=64 if max(data.shape[1:]) <= 64 else 32, lr=1e-3, steps=None, warmup=200, every=None)
