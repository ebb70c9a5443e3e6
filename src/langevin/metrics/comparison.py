"""What every measure compares, and each measure with its protocol, as a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError
from ..data import Dataset, Split
from ..data.dataset import FEWEST_TO_MEASURE
from .classifiers import MOST, Accuracy, Classifier, rate, svc
from .features import Features, feature_space
from .frechet import FeatureSums, frechet_distance
from .inception_score import ScoreSums, deal, inception_score, over_splits
from .kernel import Estimate, kernel_distance
from .memorisation import against, nearest_neighbours
from .parts import BLOCK, Parts
from .precision_recall import precision_recall
from .reliability import Interval, around, frechet_note, noise_like, ratio_interval, score_note, wilson
from .sliced import sliced_between, sliced_floor, sliced_wasserstein

PROJECTIONS = 256
NEIGHBOUR = 3

Result = dict[str, Any]


@dataclass
class Comparison:
    """Samples, training data and noise, each beside held-out data: a method a group of measures."""

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

    def label_measures(self) -> Iterator[tuple[str, Result]]:
        train, train_labels = _some(self.dataset.train, MOST, self.seed)
        assert train_labels is not None
        assert self.test_labels is not None
        if len(train_labels.unique()) < 2:
            return
        classifier = svc(train, train_labels, seed=self.seed)
        known = Accuracy.of(classifier.predict(self.test) == self.test_labels)
        real = known.rate.value
        # What calling everything by the commonest class would get.
        chance = float(self.test_labels.bincount().max()) / len(self.test_labels)
        hits = [Accuracy() for _ in self.dataset.info.classes]
        for x, asked in self.samples.blocks():
            assert asked is not None
            right = classifier.predict(x) == asked
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
                yield name, _noted(refused, note, self._classifier_protocol(classifier, "train"))
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
                "noise": rate(classifier.predict(noise) == asked_of_noise).value,
                "by_class": [part.rate.value if part.count else None for part in hits],
                "protocol": self._classifier_protocol(classifier, "train"),
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
        tested = Accuracy.of(taught.predict(self.test) == self.test_labels)
        accuracy = tested.rate
        yield (
            "train-synthetic-test-real",
            {
                "value": accuracy.value,
                "stderr": accuracy.stderr,
                "interval": list(wilson(tested.right, tested.count)),
                "real": real,
                "protocol": self._classifier_protocol(taught, "samples"),
            },
        )

    def _classifier_protocol(self, classifier: Classifier, trained: str) -> Result:
        return self.protocol(**classifier.protocol, trained_from=trained)


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
