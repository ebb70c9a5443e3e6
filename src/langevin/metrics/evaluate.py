"""All measures of a set of samples, each with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError
from ..data import DataInfo, Dataset, Split
from ..data._progress import track
from ..data.dataset import FEWEST_TO_MEASURE
from ._inputs import labels_of, rows
from .features import Features, feature_space, parse
from .frechet import FeatureSums, frechet_distance
from .inception_score import ScoreSums, deal, inception_score, over_splits
from .kernel import Estimate, kernel_distance
from .memorisation import against, nearest_neighbours
from .parts import BLOCK, Parts
from .precision_recall import precision_recall
from .readers import MOST, WIDEST, Accuracy, Classifier, rate, svc
from .reliability import Interval, around, frechet_note, noise_like, ratio_interval, score_note, wilson
from .sliced import sliced_between, sliced_floor, sliced_wasserstein

FEW = 200
"""Held-out examples below which it is said how few they are."""

PROJECTIONS = 256
NEIGHBOUR = 3

Result = dict[str, Any]


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
    context = _Context(samples, asked, dataset, seed, dataset if trained_on is None else trained_on)
    jobs: list[Callable[[], Iterator[tuple[str, Result]]]] = [partial(context.in_features, name) for name in names]
    jobs += [context.sliced, context.memory]
    if asked:
        jobs.append(context.reading)
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
    if int(asked.max()) >= len(info.classes):
        raise UserError(f"labels must be in 0…{len(info.classes) - 1}; got {int(asked.max())}.")
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


@dataclass
class _Context:
    """Both sides of every comparison."""

    samples: Parts
    labels: set[int]
    dataset: Dataset
    seed: int
    trained_on: Dataset | Literal["unknown"]

    def __post_init__(self) -> None:
        self.test, self.test_labels = _some(self.dataset.test, MOST, self.seed)
        # As many training examples as samples: what the same measure gives for fresh real data.
        self.stand_in, _ = _some(self.dataset.train, len(self.samples), self.seed)
        self.noise = noise_like(self.dataset, min(len(self.samples), MOST), self.seed)

    def protocol(self, **more: Any) -> Result:
        info = self.dataset.info
        return {
            "data": info.name,
            "features": "pixels",
            "features_sha256": None,
            "samples": len(self.samples),
            "real": len(self.test),
            "split": "test",
            "resize": None,
            "range": [info.low, info.high],
            "seed": self.seed,
            **more,
        }

    def in_features(self, asked: str | Features) -> Iterator[tuple[str, Result]]:
        space = asked if isinstance(asked, Features) else feature_space(asked, self.dataset, seed=self.seed)
        about = {"features": space.name, "features_sha256": space.sha256, "feature_settings": space.settings}
        about["resize"] = space.settings.get("resize")
        ours, real, stand_in = self.samples.through(space), space(self.test), space(self.stand_in)
        noise = space(self.noise)
        floor = {"real_with": len(stand_in), "noise_with": len(noise)}
        about_frechet = self.protocol(**about, **floor, covariance="1/(N-1)")
        told, note = frechet_note(ours, real, lambda: FeatureSums.of(stand_in).cov)
        if told:
            # As sums of blocks: a copy of all features around their mean would be as large as they are.
            sums = reduce(add, map(FeatureSums.of, ours.split(BLOCK)))
            other = FeatureSums.of(real)
            value, fresh_distance, noisy = (frechet_distance(x, other) for x in (sums, stand_in, noise))
            row: Result = {"value": value, "real": fresh_distance, "noise": noisy}
        else:
            row = {"value": None}
        yield f"frechet/{space.name}", _noted(row, note, about_frechet)
        found, fresh, noisy_kernel = (kernel_distance(x, real, seed=self.seed) for x in (ours, stand_in, noise))
        yield (
            f"kernel/{space.name}",
            {
                "value": found.value,
                "stderr": found.stderr,
                "interval": list(around(*found)),
                "real": fresh.value,
                "noise": noisy_kernel.value,
                **_blind(around(*fresh), around(*noisy_kernel)),
                "protocol": self.protocol(
                    **about,
                    **floor,
                    kernel="(x·y/D + 1)^3",
                    subsets=100,
                    subset_size=min(1000, _least(ours, real) // 2),
                ),
            },
        )
        if space.classify is not None:
            splits = min(10, _least(ours, real, stand_in) // 8) or 1
            score = self._score(space.classify, splits)
            seen = space.classify(_shuffled(self.test, len(self.samples), self.seed))
            fresh_score = inception_score(seen, splits=splits, seed=self.seed)
            about_score = self.protocol(**about, splits=splits, deviation="over splits", real_with=len(self.test))
            scored: Result = {
                "value": score.value,
                **({"stderr": score.stderr} if splits > 1 else {}),
                "real": fresh_score.value,
                "noise": inception_score(space.classify(self.noise), splits=splits, seed=self.seed).value,
            }
            note = score_note(seen.shape[1], len(ours) // splits, len(seen) // splits)
            yield f"inception-score/{space.name}", _noted(scored, note, about_score)
        # Equal counts, as published: the radii of both manifolds shrink with their counts.
        n = _least(ours, real, stand_in, noise)
        one, two, three, four = (_shuffled(x, n, self.seed) for x in (ours, real, stand_in, noise))
        found_pr, fresh_pr, noisy_pr = (precision_recall(x, two, k=NEIGHBOUR) for x in (one, three, four))
        for side in ("precision", "recall"):
            about_pr = self.protocol(**about, k=NEIGHBOUR, **{"samples": n, "real": n, "real_with": n, "noise_with": n})
            value, real_value, noise_value = (float(getattr(x, side)) for x in (found_pr, fresh_pr, noisy_pr))
            yield (
                f"{side}/{space.name}",
                {**_covered(side, value, real_value, noise_value, n), "protocol": about_pr},
            )

    def _score(self, classify: Callable[[Tensor], Tensor], splits: int) -> Estimate:
        """The inception score of the samples."""
        hands = deal(len(self.samples), splits, self.seed).split(BLOCK)
        sums: list[ScoreSums | None] = [None] * splits
        for hand, (x, _) in zip(hands, self.samples.blocks()):
            p = classify(x)
            for i in range(splits):
                part, before = ScoreSums.of(p[hand == i]), sums[i]
                sums[i] = part if before is None else before + part
        return over_splits([part for part in sums if part is not None])

    def sliced(self) -> Iterator[tuple[str, Result]]:
        # Halves no larger than the smaller side of the comparison: how much its figure changes with what was drawn.
        halves, _ = _some(self.dataset.train, 2 * _least(self.test, self.stand_in), self.seed)
        floor = sliced_floor(halves, projections=PROJECTIONS, seed=self.seed)
        real, noise = (
            sliced_wasserstein(x, self.test, projections=PROJECTIONS, seed=self.seed)
            for x in (self.stand_in, self.noise)
        )
        yield (
            "sliced-wasserstein",
            {
                "value": sliced_between(self.samples, self.test, projections=PROJECTIONS, seed=self.seed),
                "real": real,
                "noise": noise,
                "floor": {"mean": floor.value, "sd": floor.stderr, "halves_of": len(halves), "halvings": 8},
                **_blind(around(real, floor.stderr), around(noise, floor.stderr)),
                "protocol": self.protocol(
                    projections=PROJECTIONS, p=2, real_with=len(self.stand_in), noise_with=len(self.noise)
                ),
            },
        )

    def memory(self) -> Iterator[tuple[str, Result]]:
        if self.trained_on == "unknown":
            note = "Not given: it compares with the data the model was trained on, and these are other data."
            yield "memorisation", {"value": None, "note": note, "protocol": self.protocol(statistic="median")}
            return
        split = self.trained_on.train
        train, mirrored = split.all()["x"], split.flip
        # Of the same data where enough are held out, since their distance is what samples are compared with.
        own = self.trained_on is not self.dataset and len(self.trained_on.test) >= FEWEST_TO_MEASURE
        heldout = self.trained_on.test.all()["x"] if own else self.test
        # A mirrored copy is a copy, where training mirrors.
        train = torch.cat([train, train.flip(-1)]) if mirrored else train
        about = self.protocol(statistic="median", distance="Euclidean", train=len(train), mirrored=mirrored)
        near = [nearest_neighbours(x, train) for x, _ in self.samples.blocks()]
        distance, index = (torch.cat(column) for column in zip(*near))
        try:
            found = against(distance, index, train, heldout)
        except UserError as reason:
            yield "memorisation", {"value": None, "note": str(reason), "protocol": about}
            return
        interval = ratio_interval(distance, found.heldout_distances)
        yield (
            "memorisation",
            {
                "value": found.ratio,
                **({} if interval is None else {"interval": list(interval)}),
                "distance": {"samples": found.samples, "heldout": found.heldout},
                "protocol": about,
            },
        )

    def reading(self) -> Iterator[tuple[str, Result]]:
        train, train_labels = _some(self.dataset.train, MOST, self.seed)
        assert train_labels is not None
        assert self.test_labels is not None
        if len(train_labels.unique()) < 2:
            return
        reader = svc(train, train_labels, seed=self.seed)
        known = Accuracy.of(reader.read(self.test) == self.test_labels)
        real = known.rate.value
        # What calling everything by the commonest class would get.
        chance = float(self.test_labels.bincount().max()) / len(self.test_labels)
        hits = [Accuracy() for _ in self.dataset.info.classes]
        for x, asked in self.samples.blocks():
            assert asked is not None
            right = reader.read(x) == asked
            hits = [before + Accuracy.of(right[asked == k]) for k, before in enumerate(hits)]
        whole = sum(hits, Accuracy())
        agreement = whole.rate
        blind = wilson(known.right, known.count)[0] <= chance
        note = (
            f"Not given: a classifier taught with real data reads {real:.0%} of {known.count} held-out examples right, "
            f"and would have to exceed the share of the commonest class, {chance:.0%}, with 95 % certainty."
        )
        if blind:
            for name in ("label-agreement", "train-synthetic-test-real"):
                refused = {"value": None, "real": real}
                yield name, _noted(refused, note, self._reader_protocol(reader, "train"))
            return
        classes = torch.tensor(sorted(self.labels))
        noise = self.noise[:256]
        asked_of_noise = classes[torch.arange(len(noise)) % len(classes)]
        yield (
            "label-agreement",
            {
                "value": agreement.value,
                "stderr": agreement.stderr,
                "interval": list(wilson(whole.right, whole.count)),
                "real": real,
                "noise": rate(reader.read(noise) == asked_of_noise).value,
                "by_class": [part.rate.value if part.count else None for part in hits],
                "protocol": self._reader_protocol(reader, "train"),
            },
        )
        if len(self.labels) < 2:
            return
        # More would not be learned from: which of them is drawn here, so that they need not all be held.
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(self.seed))
        keep = order[:MOST] if len(self.samples) > MOST else torch.arange(len(self.samples))
        x, asked = self.samples.some(keep)
        assert asked is not None
        taught = svc(x, asked, seed=self.seed)
        tested = Accuracy.of(taught.read(self.test) == self.test_labels)
        accuracy = tested.rate
        yield (
            "train-synthetic-test-real",
            {
                "value": accuracy.value,
                "stderr": accuracy.stderr,
                "interval": list(wilson(tested.right, tested.count)),
                "real": real,
                "protocol": self._reader_protocol(taught, "samples"),
            },
        )

    def _reader_protocol(self, reader: Classifier, trained: str) -> Result:
        return self.protocol(**reader.protocol, trained_from=trained)


def _noted(row: Result, note: str | None, protocol: Result) -> Result:
    return {**row, **({} if note is None else {"note": note}), "protocol": protocol}


def _blind(real: Interval, noise: Interval) -> Result:
    """A note on a distance by which real data and noise cannot be told apart."""
    if real[1] < noise[0]:
        return {}
    return {"note": "At these counts it cannot tell noise from real data, so a good figure says nothing."}


def _covered(side: str, value: float, real: float, noise: float, n: int) -> Result:
    """Precision or recall with its interval; no precision where noise is as precise as real data.

    Balls around few examples, in many dimensions, reach over the middle of the data; noise, which features of pictures
    hardly answer to, lies there.
    """
    interval, fresh, noisy = (wilson(round(x * n), n) for x in (value, real, noise))
    row: Result = {"value": value, "interval": list(interval), "real": real, "noise": noise}
    if noisy[1] < fresh[0]:
        return row
    if side == "recall":
        note = f"Noise covers {noise:.0%} of the held-out examples, real data {real:.0%}: read it beside the precision."
        return {**row, "note": note}
    if noise >= real:
        row.pop("interval")
        note = (
            f"Not given: with {n} held-out examples and these features noise gets {noise:.0%} and real data "
            f"{real:.0%}, so it does not tell good samples from bad."
        )
        return {**row, "value": None, "note": note}
    return {**row, "note": f"With {n} examples it cannot tell noise from real data with 95 % certainty."}


def _some(split: Split, most: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """At most ``most`` examples of a split, a random choice if there are more, without augmentation."""
    index = torch.arange(len(split))
    if len(index) > most:
        index = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return split.plain(index)["x"], None if split.labels is None else split.labels[index]


def _shuffled(x: Tensor, n: int, seed: int) -> Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]]


def _least(*sides: Tensor) -> int:
    return min(len(side) for side in sides)
