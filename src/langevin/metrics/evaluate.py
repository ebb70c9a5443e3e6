"""All measures of a set of samples, each with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from .._errors import UserError
from ..data import DataInfo, Dataset
from ..data._progress import track
from ..data.dataset import FEWEST_TO_MEASURE
from ..denoisers.conditions import check_label
from ._inputs import labels_of, rows
from .classifiers import WIDEST
from .comparison import Comparison, Result
from .features import Features, parse
from .parts import Parts

FEW = 200
"""Held-out examples below which it is said how few they are."""


def evaluate(
    samples: Tensor | Parts,
    labels: Tensor | None,
    dataset: Dataset,
    *,
    seed: int = 0,
    features: str | Features | Sequence[str | Features] | None = None,
    trained_on: Dataset | Literal["unknown"] | None = None,
    progress: bool = True,
) -> dict[str, Result]:
    """Measure samples against the held-out split of a data set.

    Args:
        samples: ``(N, *shape)`` in the range of the data, N ≥ 8; or parts of them, of which a few thousand are held at
            a time, with what is small of each: its features, its distances, its projections. The figures are those of
            the whole, bit for bit, however it is cut.
        labels: the labels they were asked for, integer ``(N,)``, or ``None``; parts have their own.
        dataset: data with a split that was held out; those the model was trained on, unless ``trained_on`` says
            otherwise.
        seed: of every random choice made here: projections, subsets, fitted features.
        features: feature spaces for the Fréchet and the kernel distance, precision/recall and (of a classifier) the
            inception score: names (see :func:`feature_space`) or maps of your own. By default ``pixels`` (``pca:64``
            above 1,024 coordinates) and, for labelled data, ``classifier``.
        trained_on: the data the model was trained on, if ``dataset`` is other data: memorisation is measured against
            them, and left out where they are ``"unknown"``.
        progress: show a bar if it takes longer than two seconds.

    Returns:
        ``{metric: {"value": …, "stderr"?: …, "interval"?: …, "real"?: …, "noise"?: …, "note"?: …, "protocol": {…}}}``,
        JSON-able. Metrics in a feature space are called ``frechet/pixels`` and so on. ``interval`` is at 95 %, of the
        measure's own counts. ``real`` is the same measure with training data in the samples' place (as many, as far as
        there are): what a perfect sampler would get; ``noise`` is that of noise as bright as the data. ``note`` is a
        sentence without which the figure would mislead; where ``value`` is None it says why there is none. The
        protocol holds what is needed to compute the number again: features and their SHA-256, counts of both sides,
        split, resizing, range, seed, settings.

    Raises:
        UserError: shapes or labels that do not fit the data, non-finite samples, unknown features, fewer than 8
            training or held-out examples; before any work.
    """
    if isinstance(samples, Tensor):
        samples = Parts.of(samples.detach().cpu().float(), _checked(samples, labels, dataset))
    asked = _classes(samples, dataset)
    names = _spaces(features, dataset)
    comparison = Comparison(samples, asked, dataset, seed, dataset if trained_on is None else trained_on)
    jobs: list[Callable[[], Iterator[tuple[str, Result]]]] = [partial(comparison.in_features, name) for name in names]
    jobs += [comparison.sliced, comparison.memory]
    if asked:
        jobs.append(comparison.label_measures)
    return {key: value for job in track(jobs, len(jobs), "evaluate", progress) for key, value in job()}


def few(dataset: Dataset) -> str | None:
    """What has to be said of all measures against so few held-out examples."""
    count = len(dataset.test)
    if count >= FEW:
        return None
    return (
        f"There are only {count} held-out examples, so these figures are rough: models whose intervals overlap are not "
        "told apart. Measure against more data of the same kind with --data."
    )


def check_counts(dataset: Dataset) -> None:
    """Refuse data that hold out too little to measure anything by."""
    for name, split in (("held-out", dataset.test), ("training", dataset.train)):
        if len(split) < FEWEST_TO_MEASURE:
            raise UserError(
                f"data {dataset.info.name!r} have {len(split)} {name} examples, and measures need at least "
                f"{FEWEST_TO_MEASURE}; measure against more data of the same kind (langevin evaluate MODEL --data DATA)"
            )


def _classes(samples: Parts, dataset: Dataset) -> set[int]:
    """The labels that were asked for, none if there are none, once every block fits the data."""
    check_real(dataset.info)
    check_counts(dataset)
    if len(samples) < FEWEST_TO_MEASURE:
        raise UserError(f"samples must hold at least {FEWEST_TO_MEASURE} examples; got {len(samples)}.")
    found, count = set(), 0
    for x, label in samples.blocks():
        asked = _checked(x, label, dataset, least=1)
        count += len(x)
        found |= set() if asked is None else set(asked.unique().tolist())
    if count != len(samples):
        raise UserError(f"samples must be as many as they say, {len(samples)}; got {count}.")
    return found


def _checked(samples: Tensor, labels: Tensor | None, dataset: Dataset, least: int = FEWEST_TO_MEASURE) -> Tensor | None:
    """Labels as int64, if there are any, once everything fits the data."""
    info = dataset.info
    check_real(info)
    rows("samples", samples, least=least)
    if tuple(samples.shape[1:]) != info.shape:
        raise UserError(f"samples must have shape (N, {', '.join(map(str, info.shape))}); got {tuple(samples.shape)}.")
    if labels is None:
        return None
    if not info.classes:
        raise UserError(f"labels were given, but data {info.name!r} has no classes.")
    asked = labels_of("labels", labels, len(samples))
    check_label(asked, len(info.classes), "labels")
    return asked


def check_real(info: DataInfo) -> None:
    """Refuse tokens: these are measures of pictures and points."""
    if info.tokens:
        raise UserError(f"data {info.name!r} are tokens: distances are measured between real numbers, not names")


def _spaces(features: str | Features | Sequence[str | Features] | None, dataset: Dataset) -> list[str | Features]:
    if features is not None:
        asked = [features] if isinstance(features, (str, Features)) else list(features)
        names = [space.name if isinstance(space, Features) else space for space in asked]
        if len(set(names)) < len(names):
            raise UserError(f"features must differ in their names; got {', '.join(names)}.")
        for space in asked:
            if not isinstance(space, Features):
                parse(space)
        return asked
    wide = dataset.info.dim > WIDEST
    most = min(len(dataset.train), 64)
    labelled = dataset.train.labels is not None and len(dataset.train.labels.unique()) > 1
    usual: list[str | Features] = [f"pca:{most}" if wide else "pixels"]
    return usual + (["classifier"] if labelled and dataset.info.is_image else [])
