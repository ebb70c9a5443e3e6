"""A tiny data set and a tiny run for the tests of training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from langevin.data import DataInfo, Dataset, Split
from langevin.nn import encode_texts
from langevin.training import BudgetConfig, Config, Learner, NetworkConfig, OutputConfig
from langevin.training.loop import Run


def points(count: int = 90, classes: int = 3) -> Dataset:
    """Three blobs in the plane."""
    generator = torch.Generator().manual_seed(7)
    label = torch.arange(count) % max(classes, 1)
    centre = torch.stack((torch.cos(2.1 * label), torch.sin(2.1 * label)), 1)
    x = centre + 0.1 * torch.randn(count, 2, generator=generator)
    labels = label if classes else None
    train, test = slice(0, count * 2 // 3), slice(count * 2 // 3, count)
    flat = x[train].double()
    info = DataInfo(
        name="blobs",
        shape=(2,),
        low=None,
        high=None,
        classes=tuple("abc"[:classes]),
        mean=flat.mean(0),
        cov=flat.T.cov(correction=0),
    )
    pick = lambda part: None if labels is None else {"label": labels[part]}
    return Dataset(info, Split(x[train], pick(train)), Split(x[test], pick(test)))


def captioned(count: int = 90) -> Dataset:
    """The three blobs, each point with a caption that says which."""
    plain = points(count)
    words = encode_texts(["east", "north", "south west"], 12)
    made = [Split(part._x, {"caption": words[part.labels]}) for part in (plain.train, plain.test)]
    info = replace(plain.info, classes=(), conditions={"caption": (12,)})
    return Dataset(info, *made)


def tiny(steps: int = 12, **changes: Any) -> Config:
    """A run of a second: an MLP of a thousand parameters."""
    config = Config(
        batch=8,
        network=NetworkConfig("mlp", {"width": 16, "depth": 2}),  # type: ignore[dict-item]
        budget=BudgetConfig(steps=steps),
        output=OutputConfig(log_every=3, validate_every=6, validate_on=20, sample_every=0, checkpoint_every=4),
    )
    return replace(config, **changes)


def same_files(a: Path, b: Path, but: tuple[str, ...] = ()) -> None:
    """Two runs have left the same files, equal byte for byte (atol = 0).

    All of them: weights, average, optimiser, state, metrics, pictures, configuration. ``clock.json`` alone tells the
    time, and the logs of TensorBoard and Weights & Biases do.
    """
    apart = {"clock.json", *but}
    names = [{p.relative_to(run) for p in run.rglob("*") if p.is_file()} for run in (a, b)]
    assert names[0] == names[1]
    assert names[0]
    for name in sorted(names[0]):
        if name.name not in apart:
            assert (a / name).read_bytes() == (b / name).read_bytes(), name


class Killed(BaseException):
    """What nothing catches: as a SIGKILL, but that the test goes on."""


@contextmanager
def killed(step: int, part: int = 0) -> Iterator[None]:
    """The run ends without a word in the given step, before its micro-batch ``part`` is taken."""
    plain, seen = Learner._backward, [0]

    def backward(self: Learner, *given: Any) -> Any:
        if seen[0] == (step - 1) * self.parts + part:
            raise Killed
        seen[0] += 1
        return plain(self, *given)

    with mock.patch.object(Learner, "_backward", backward), pytest.raises(Killed):
        yield


@contextmanager
def interrupted(step: int) -> Iterator[None]:
    """Ctrl-C in the given step; what is raised then is in ``value`` of what is yielded."""
    plain = Run._step

    def stepping(self: Run) -> Any:
        if self.progress.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self)

    with mock.patch.object(Run, "_step", stepping), pytest.raises(KeyboardInterrupt) as caught:
        yield caught
