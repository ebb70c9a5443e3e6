"""A data set: its description, a split to train on and a split to hold out."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, shown
from ..denoisers.conditions import check_label
from ..numerics.frame import Cosines
from . import _hash
from .degradations import Degradation
from .description import EVENT, FULL_COVARIANCE, DataInfo
from .split import Split, class_moments, leading, moments, spectrum
from .streaming import Streamed

HELD_OUT = 10
"""One example in this many is held out where a source brings no split of its own."""

FEWEST_TO_MEASURE = 8
"""Samples, training examples and held-out examples that measures of samples need."""

CLASS_NUMBERS = 2**22
"""Moments of classes are carried up to so many numbers in all: 32 MiB."""


@dataclass(frozen=True)
class Options:
    """How to read a source: the keyword arguments of :func:`langevin.data.load`."""

    size: int | None = None
    channels: int | None = None
    flip: bool = False
    crop: Literal["center", "random"] = "center"
    limit: int | None = None
    degrade: str | None = None
    text_encoder: str | None = None
    streaming: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "limit"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"{name} must be a positive integer; got {value!r}.")
        if self.channels not in (None, 1, 3):
            raise UserError(f"channels must be 1 (grey) or 3 (colour); got {self.channels!r}.")
        if self.size is not None and (self.channels or 1) * self.size**2 > EVENT:
            most = math.isqrt(EVENT // (self.channels or 1))
            raise UserError(f"size must be at most {most} (an image has at most {EVENT} numbers); got {self.size}.")
        if self.degrade is not None:
            if not isinstance(self.degrade, str):
                raise UserError(f"degrade must be text such as 'resize=16,noise=0.1', got {self.degrade!r}")
            Degradation.parse(self.degrade)
        encoder = self.text_encoder
        if encoder is not None and (not isinstance(encoder, str) or not encoder.strip() or "\0" in encoder):
            raise UserError(f"text_encoder must be a directory or owner/name of the Hub, got {shown(encoder)}")
        if self.crop not in ("center", "random"):
            raise UserError(f"crop must be 'center' or 'random'; got {self.crop!r}.")
        if self.crop == "random" and self.size is None:
            raise UserError("crop='random' needs size, the side of the window.")

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults and matters for the data."""
        names = [f.name for f in fields(self) if f.name != "progress" and getattr(self, f.name) != f.default]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Dataset:
    """Examples with their description.

    ``skipped`` lists the files that could not be used as ``(path, reason)``; they are in neither split. ``codec`` is
    what the examples are codes of, if they are (``models.encode``). Of data that are streamed, ``stream`` is what is
    trained on, and ``train`` holds the first examples, which the description is measured on.
    """

    info: DataInfo
    train: Split
    test: Split
    skipped: tuple[tuple[str, str], ...] = ()
    codec: Any = None
    stream: Streamed | None = None

    @property
    def examples(self) -> int:
        """To train on: those in memory, and of a stream all, as far as the data say how many."""
        return self.train.own if self.stream is None else self.stream.count or len(self.train)


@dataclass
class Examples:
    """One split as a loader read it: ``x``, conditions and attributes as in :class:`Split`."""

    x: Tensor | Sequence[Tensor]
    conditions: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)


def assemble(
    name: str,
    parts: Sequence[Examples],
    options: Options,
    *,
    classes: Sequence[str] = (),
    levels: int | None = None,
    bounded: bool = True,
    tokens: Sequence[str] = (),
    source: str | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> Dataset:
    """Check what a loader read (the training and the held-out part), measure it and describe it.

    Raises:
        UserError: for an empty split, non-finite values, labels outside 0…K−1, or mirroring of what is no image.

    Tokens are int64 in 0…K−1 for K names; they have no moments, and a range only where they are ``levels``.
    """
    train, test = parts
    for split, part in (("training", train), ("held-out", test)):
        if len(part.x) == 0:
            raise UserError(f"{name}: the {split} split is empty.")
        if isinstance(part.x, Tensor) and part.x.is_floating_point() and not torch.isfinite(part.x).all():
            raise UserError(f"{name}: x holds {count_nonfinite(part.x)} non-finite values (NaN or infinity).")
        if "label" in part.conditions:
            check_label(part.conditions["label"], len(classes), f"{name}: labels")
        if part.conditions.keys() != train.conditions.keys():
            raise UserError(f"{name}: both splits must have the same conditions, got {list(part.conditions)}")
        for key, value in part.conditions.items():
            if value.shape[1:] != (own := train.conditions[key].shape[1:]):
                raise UserError(f"{name}: {key} is {tuple(own)} to train on, and {tuple(value.shape[1:])} held out")
    ragged = not isinstance(train.x, Tensor)
    window = options.size if options.crop == "random" else None
    shape = tuple(train.x[0].shape)
    if window is not None:
        shape = (shape[0], window, window)
    if tuple(test.x[0].shape) != shape:
        raise UserError(f"{name}: training examples are {shape}, held-out ones {tuple(test.x[0].shape)}.")
    if options.flip and len(shape) != 3:
        raise UserError(f"{name}: flip mirrors images; these are points of shape {shape}.")
    degrade = None if options.degrade is None else Degradation.parse(options.degrade)
    learn = Split(
        train.x,
        train.conditions,
        flip=options.flip,
        crop=window if ragged else None,
        degrade=degrade,
        attributes=train.attributes,
    )
    low, high = (0.0, len(tokens) - 1.0) if tokens else (-1.0, 1.0)
    ranged = levels is not None if tokens else bounded
    info = DataInfo(
        name=name,
        shape=shape,
        low=low if ranged else None,
        high=high if ranged else None,
        classes=tuple(classes),
        tokens=tuple(tokens),
        levels=levels,
        conditions=_shapes(train, shape, degrade, tokens),
        source={"source": source or name, **options.changed()},
    )
    known = {}
    if not tokens:
        mean, cov = moments(learn, full=info.dim <= FULL_COVARIANCE)
        known = {"mean": mean, "cov": cov}
        if cov.ndim == 1 and info.is_image:
            known["colours"], known["spectrum"] = spectrum(learn, mean)
        elif cov.ndim == 1:
            known["directions"], known["spectrum"] = leading(learn, mean)
        known |= _of_classes(learn, info, known)
    info = DataInfo(**{**{f.name: getattr(info, f.name) for f in fields(info)}, **known})
    if skipped:
        path, reason = skipped[0]
        warnings.warn(f"{name}: {len(skipped)} files skipped (first: {path}: {reason})", stacklevel=3)
    held = Split(test.x, test.conditions, degrade=degrade, attributes=test.attributes)
    return Dataset(info, learn, held, tuple(skipped))


def _shapes(
    part: Examples, shape: tuple[int, ...], degrade: Degradation | None, tokens: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The shape of each condition."""
    shapes = {key: tuple(value.shape[1:]) for key, value in part.conditions.items() if key != "label"}
    if degrade is None:
        return shapes
    if tokens:
        raise UserError("degrade is for images of real numbers, got tokens")
    made = degrade.shapes(shape)
    for name in shapes.keys() & made.keys():
        raise UserError(f"degrade makes the condition {name!r}, which these data have already")
    return {**shapes, **made}


def _of_classes(learn: Split, info: DataInfo, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moments of each class, where there are labels and the numbers are not too many to carry."""
    mean, spectrum = known["mean"], known.get("spectrum")
    if len(info.classes) < 2 or learn.labels is None or "directions" in known:
        return {}
    cov = known["cov"] if spectrum is None else spectrum
    if len(info.classes) * cov.numel() > CLASS_NUMBERS:
        return {}
    turn = None
    if spectrum is not None:
        channels, height, width = info.shape
        turn = Cosines((channels, height, width), known["colours"]).to
    means, covs = class_moments(learn, len(info.classes), mean, cov, turn)
    return {"class_mean": means, "class_cov": covs}


def with_classes(dataset: Dataset, classes: Sequence[str], whose: str) -> Dataset:
    """The data with the classes of a model, of which they have some; each keeps its name and gets the model's number.

    Args:
        dataset: with labels.
        classes: names, in the model's order.
        whose: these are, for messages.

    Raises:
        UserError: for a class that the model does not have.
    """
    names = dataset.info.classes
    if tuple(classes) == tuple(names):
        return dataset
    if strange := [name for name in names if name not in classes]:
        some = f"{', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}"
        raise UserError(
            f"the class {strange[0]!r} of these data is none of {whose} ({some}); name the folders as those, or put "
            "all images into one folder, which has no classes"
        )
    place = torch.tensor([list(classes).index(name) for name in names])
    splits = []
    for split in (dataset.train, dataset.test):
        some_split = copy.copy(split)
        some_split.conditions = {**split.conditions, "label": place[split.conditions["label"]]}
        splits.append(some_split)
    info = replace(dataset.info, classes=tuple(classes), class_mean=None, class_cov=None)
    return replace(dataset, info=info, train=splits[0], test=splits[1])


def count_nonfinite(x: Tensor) -> int:
    """How many values are NaN or infinite."""
    return int((~torch.isfinite(x)).sum())


def held_out(keys: Sequence[str]) -> np.ndarray:
    """Bool ``(N,)``: which examples are held out, each decided by its own key, so that more examples move none."""
    return np.array([_hash.text(key) % HELD_OUT == 0 for key in keys], dtype=bool)


def adjust_split(keys: Sequence[str], test: np.ndarray, labels: np.ndarray | None, name: str) -> np.ndarray:
    """``test`` with the fewest moves that leave each class an example to train on and hold out at least one.

    Raises:
        UserError: if there are too few examples for that.
    """
    test = test.copy()
    order = np.argsort([_hash.text(key) for key in keys])
    groups = [order] if labels is None else [order[labels[order] == k] for k in np.unique(labels)]
    for members in groups:
        if test[members].all():
            test[members[-1]] = False
    if not test.any():
        spare = [members[0] for members in groups if len(members) > 1]
        if not spare:
            each = "" if labels is None else " a class"
            raise UserError(f"{name}: {len(keys)} examples; at least 2{each} are needed, as one is held out.")
        test[min(spare, key=lambda i: _hash.text(keys[i]))] = True
    return test


def limited(keys: Sequence[str], test: np.ndarray, limit: int | None) -> np.ndarray:
    """Indices, in order, of at most ``limit`` examples of each split: a fixed draw, not the first of the alphabet."""
    if limit is None:
        return np.arange(len(keys))
    rank = np.array([_hash.text("limit/" + key) for key in keys], dtype=np.uint64)
    chosen = [part[np.argsort(rank[part])][:limit] for part in (np.flatnonzero(test), np.flatnonzero(~test))]
    return np.sort(np.concatenate(chosen))


def subset(part: Examples, limit: int | None) -> Examples:
    """At most ``limit`` of the examples (see :func:`limited`)."""
    if limit is None or len(part.x) <= limit:
        return part
    keep = limited([str(i) for i in range(len(part.x))], np.zeros(len(part.x), dtype=bool), limit)
    index = torch.from_numpy(keep)
    x = part.x[index] if isinstance(part.x, Tensor) else [part.x[i] for i in keep]
    return Examples(
        x,
        {name: value[index] for name, value in part.conditions.items()},
        {name: [value[i] for i in keep] for name, value in part.attributes.items()},
    )
