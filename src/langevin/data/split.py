"""Examples in memory, read as a pure function of (indices, seed, draw)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, shown
from ..distributions import Noise
from ..numerics.frame import LEADING, cosines
from . import _hash
from .degradations import Degradation

_FLIP, _TOP, _LEFT = 1, 2, 3  # streams of the hash: one decision each

PICTURES = ("image", "mask")
"""Conditions that are mirrored with the image they belong to."""


class Split:
    """A training or held-out split.

    Args:
        x: ``(N, *shape)``, uint8 (0…255, read as x/127.5 − 1), float32 or int64 (tokens) as it is; or a sequence of N
            uint8 images ``(C, H_i, W_i)`` with ``crop``.
        conditions: what belongs to each example, by name, ``(N, …)``: ``label`` int64, and others as ``DataInfo`` says
            (an ``image`` in uint8 is read as x is, a ``caption`` may be held in int16, a ``sequence`` in float16).
        flip: mirror half of the images left to right, with the pictures that belong to them, drawn anew for each
            (seed, index, draw).
        crop: side of a square window, placed at random for each (seed, index, draw); the image stays whole if ``None``.
        degrade: damage whose result is the condition ``image`` (and ``mask``), drawn for each (seed, index, draw).
        attributes: what is known of each example and told to no network, N texts by name, such as its ``colour``.
    """

    def __init__(
        self,
        x: Tensor | Sequence[Tensor],
        conditions: Mapping[str, Tensor] | None = None,
        *,
        flip: bool = False,
        crop: int | None = None,
        degrade: Degradation | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if conditions is not None and not isinstance(conditions, Mapping):
            raise UserError(f"conditions must be a mapping such as {{'label': labels}}, got {shown(conditions)}")
        self.conditions = dict(conditions or {})
        for name, value in self.conditions.items():
            if value.shape[:1] != (len(x),):
                each = f"({len(x)}, …)" if value.ndim > 1 else f"({len(x)},)"
                raise UserError(f"{name} must have shape {each}, one an example; got {tuple(value.shape)}.")
            if crop is not None and name in PICTURES:
                raise UserError(f"crop cannot cut windows of images that have a condition {name!r} of their own")
        if degrade is not None and "image" in self.conditions:
            raise UserError("degrade makes the condition 'image', which these data have already")
        self.attributes = dict(attributes or {})
        for name, told in self.attributes.items():
            if len(told) != len(x):
                raise UserError(f"attribute {name!r} must have {len(x)} values, one an example; got {len(told)}.")
        self._x = x
        self.flip = flip
        self.crop = crop
        self.degrade = degrade

    @property
    def labels(self) -> Tensor | None:
        """The classes of the examples, int64 ``(N,)``, or ``None``."""
        return self.conditions.get("label")

    def __len__(self) -> int:
        return len(self._x)

    @property
    def own(self) -> int:
        """How many of the examples are the data's own."""
        return len(self)

    def __repr__(self) -> str:
        made = [f"degraded ({self.degrade})"] if self.degrade is not None else []
        return f"Split({', '.join([f'{len(self)} examples', *self.conditions, *made])})"

    def batch(self, indices: Tensor, *, seed: int = 0, draw: int = 0) -> dict[str, Tensor]:
        """The examples at ``indices``, augmented.

        Args:
            indices: int64 ``(B,)``, each in 0…N−1.
            seed: the run's seed.
            draw: counts the visits to the data (the epoch, or the step): another draw, another augmentation.

        Returns:
            ``x`` float32 (tokens: int64) ``(B, *shape)``, and the conditions by name. The same arguments give the same
            bits whatever was read before, and an example's augmentation does not depend on its batch.
        """
        self._check(indices)
        told = {name: held[indices] for name, held in self.conditions.items()}
        return self.augmented(self._take(indices), told, indices, seed=seed, draw=draw)

    def augmented(
        self, x: Any, told: Mapping[str, Tensor], indices: Tensor, *, seed: int, draw: int
    ) -> dict[str, Tensor]:
        """Examples as they are held (with ``crop`` a list) and their conditions, augmented as those at ``indices``."""
        if self.crop is not None:
            x = self._windows(x, *(_hash.uniform(seed, stream, indices.numpy(), draw) for stream in (_TOP, _LEFT)))
        mirror = self.mirrored(indices, seed, draw) if self.flip else None
        return self._with_conditions(x, told, mirror, Noise(seed, indices, draw=draw))

    def mirrored(self, indices: Tensor, seed: int, draw: int) -> Tensor:
        """Which of the examples are mirrored at a visit, bool ``(B,)``."""
        return torch.from_numpy(_hash.mix(seed, _FLIP, indices.numpy(), draw) >> np.uint64(63) == 1)

    def plain(self, indices: Tensor) -> dict[str, Tensor]:
        """The examples at ``indices`` without augmentation (windows in the centre), as ``batch``."""
        self._check(indices)
        x, half = self._take(indices), np.full(len(indices), 0.5)
        x = x if self.crop is None else self._windows(x, half, half)
        told = {name: held[indices] for name, held in self.conditions.items()}
        return self._with_conditions(x, told, None, Noise(0, indices))

    def all(self) -> dict[str, Tensor]:
        """Every example without augmentation, as ``batch``."""
        return self.plain(torch.arange(len(self)))

    def _check(self, indices: Tensor) -> None:
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise UserError(f"indices must be int64 (B,); got {indices.dtype} {tuple(indices.shape)}.")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise UserError(f"indices must be in 0…{len(self) - 1}; got {int(indices.min())}…{int(indices.max())}.")

    def _with_conditions(
        self, x: Tensor, told: Mapping[str, Tensor], mirror: Tensor | None, noise: Noise
    ) -> dict[str, Tensor]:
        found = {"x": scaled(_mirrored(x, mirror))}
        for name, value in told.items():
            value = value.long() if name == "caption" else value.float() if value.dtype == torch.float16 else value
            found[name] = scaled(_mirrored(value, mirror)) if name in PICTURES else value
        return found if self.degrade is None else {**found, **self.degrade(found["x"], noise)}

    def _take(self, indices: Tensor) -> Any:
        """The examples as they are held: stacked, but for those that windows are to be cut from."""
        if isinstance(self._x, Tensor):
            return self._x[indices]
        images = [self._x[i] for i in indices.tolist()]
        return images if self.crop is not None else torch.stack(images)

    def _windows(self, images: Tensor | Sequence[Tensor], top: np.ndarray, left: np.ndarray) -> Tensor:
        side = self.crop or 0
        windows = []
        for image, u, v in zip(images, top, left):
            y = int(u * (image.shape[-2] - side + 1))
            x = int(v * (image.shape[-1] - side + 1))
            windows.append(image[..., y : y + side, x : x + side])
        return torch.stack(windows)


def _mirrored(x: Tensor, mirror: Tensor | None) -> Tensor:
    """The images of some samples left to right."""
    return x if mirror is None else torch.where(mirror.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def scaled(x: Tensor) -> Tensor:
    """uint8 0…255 to float32 −1…1; all else as it is."""
    return x.float().div_(127.5).sub_(1.0) if x.dtype == torch.uint8 else x


def _pieces(split: Split, most: int) -> Sequence[Tensor]:
    """Indices of all examples, at most so many at a time, and of large events so few that they are 2^24 numbers."""
    numbers = split.plain(torch.arange(1))["x"].numel()
    return torch.arange(len(split)).split(max(1, min(most, 2**24 // numbers)))


def moments(split: Split, full: bool) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and covariance (``(D, D)`` if ``full``, else ``(D,)``) of what training sees, float64.

    Two passes, so that nothing cancels. A mirrored half counts exactly; random windows by one draw of each.
    """

    plain = Split(split._x, crop=split.crop)

    def chunks() -> Iterator[Tensor]:
        for indices in _pieces(split, 4096):
            x = plain.batch(indices)["x"].double()
            yield (torch.cat([x, x.flip(-1)]) if split.flip else x).flatten(1)

    count = len(split) * (2 if split.flip else 1)
    mean = sum_of(x.sum(0) for x in chunks()) / count
    centred = (x - mean for x in chunks())
    return mean, sum_of(x.T @ x if full else x.square().sum(0) for x in centred) / count


def spectrum(split: Split, mean: Tensor) -> tuple[Tensor, Tensor]:
    """(colours ``(C, C)``, variances ``(D,)``) of images: principal directions of the channels, then DCTs, float64."""
    shape = tuple(split.plain(torch.arange(1))["x"].shape[1:])
    plain = Split(split._x, crop=split.crop)

    def chunks() -> Iterator[Tensor]:
        for indices in _pieces(split, 1024):
            x = plain.batch(indices)["x"].double()
            x = torch.cat([x, x.flip(-1)]) if split.flip else x
            yield x - mean.reshape(shape)

    between = sum_of(torch.einsum("bchw,bdhw->cd", x, x) for x in chunks())
    colours = torch.linalg.eigh(between)[1].flip(-1)
    rows, columns = cosines(shape[1]), cosines(shape[2])
    turned = (rows @ torch.einsum("bchw,cd->bdhw", x, colours) @ columns.mT for x in chunks())
    count = len(split) * (2 if split.flip else 1)
    return colours, sum_of(c.square().sum(0) for c in turned).flatten() / count


def leading(split: Split, mean: Tensor, count: int = LEADING) -> tuple[Tensor, Tensor]:
    """(directions ``(D, k)``, variances ``(k + 1,)``) of events: the k ≤ count leading principal directions, float64.

    By subspace iteration from normal directions (Halko, Martinsson and Tropp 2011, arXiv:0909.4061 alg. 4.4), a pass
    over the data each time. The last variance is the mean one of the directions that are left.
    """
    plain = Split(split._x, crop=split.crop)

    def chunks() -> Iterator[Tensor]:
        for indices in _pieces(split, 1024):
            yield plain.batch(indices)["x"].double().flatten(1) - mean

    size = len(mean)
    count = max(1, min(count, len(split) - 1, size - 1))
    wide = min(size, count + 8)
    basis = torch.linalg.qr(Noise(0, size).normal((wide,)))[0]
    for _ in range(4):
        basis = torch.linalg.qr(sum_of(x.mT @ (x @ basis) for x in chunks()))[0]
    within = sum_of((x @ basis).mT @ (x @ basis) for x in chunks()) / len(split)
    values, vectors = torch.linalg.eigh(within)
    total = sum_of(x.square().sum() for x in chunks()) / len(split)
    values = values.flip(0)[:count].clamp_min(0)
    rest = ((total - values.sum()) / (size - count)).clamp_min(0)
    return basis @ vectors.flip(1)[:, :count], torch.cat((values, rest[None]))


ENOUGH = 8
"""Examples of a class below which nothing is said of it."""


def class_moments(
    split: Split, classes: int, mean: Tensor, cov: Tensor, turn: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Means ``(K, D)`` and covariances ``(K, D, D)`` of classes; with ``turn`` variances ``(K, D)`` of turned events.

    The covariance of a class is drawn towards the one within classes, by the share that it is uncertain: of n examples
    n/(n + 2D) is its own, of variances n/(n + 10). Classes of fewer than eight examples get ``mean`` and ``cov`` (the
    variances of all, with ``turn``).
    """
    plain, labels = Split(split._x, crop=split.crop), split.labels
    assert labels is not None
    size = len(mean)

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        for indices in _pieces(split, 1024):
            x, label = plain.batch(indices)["x"].double(), labels[indices]
            if split.flip:
                x, label = torch.cat([x, x.flip(-1)]), label.repeat(2)
            yield x.flatten(1), label

    count, means = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, size, dtype=torch.float64)
    for x, label in chunks():
        count += torch.bincount(label, minlength=classes)
        means.index_add_(0, label, x)
    known = count >= ENOUGH * (2 if split.flip else 1)
    means = torch.where(known[:, None], means / count.clamp_min(1)[:, None], mean)
    each = torch.zeros(classes, *cov.shape, dtype=torch.float64)
    for x, label in chunks():
        centred = x - means[label]
        if turn is not None:
            each.index_add_(0, label, turn(centred).square())
            continue
        for k in label.unique().tolist():
            own = centred[label == k]
            each[k] += own.mT @ own
    wide = (-1, *[1] * cov.ndim)
    seen = (count * known).reshape(wide)
    within = (each * known.reshape(wide)).sum(0) / seen.sum().clamp_min(1)
    share = seen / (seen + (2 * size if turn is None else 10))
    mixed = share * each / count.clamp_min(1).reshape(wide) + (1 - share) * within
    return means, torch.where(known.reshape(wide), mixed, cov)


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum, one term in memory at a time."""
    return functools.reduce(torch.add, terms)
