"""Classifiers of samples: do these show what was asked for, and can one learn from them?"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import labels_of, rows
from .kernel import Estimate

WIDEST = 1024
"""Events of up to this many coordinates are read as pixels, larger ones by ``COMPONENTS`` principal components."""
COMPONENTS = 64
SEEDS = 2**32
"""scikit-learn takes seeds below this: larger ones, which everything else takes, are wrapped."""
MOST = 10_000
"""Examples a support-vector machine learns from at most: its cost grows with their square."""


@dataclass(frozen=True)
class Classifier:
    """A support-vector classifier of flattened events, with what it was trained on.

    ``protocol`` is JSON-able: features, number of training examples, C, gamma.
    """

    classifier: Any
    front: Any | None
    protocol: dict[str, Any]

    def predict(self, x: Tensor) -> Tensor:
        """The class of each example ``(N, ...)``, int64 ``(N,)``."""
        flat = rows("x", x, least=1).numpy()
        seen = flat if self.front is None else self.front.transform(flat)
        return torch.from_numpy(self.classifier.predict(seen).astype(np.int64))


def svc(x: Tensor, labels: Tensor, *, seed: int = 0) -> Classifier:
    """Train scikit-learn's SVC (RBF kernel, C = 10, gamma = "scale") on ``(N, ...)`` and labels ``(N,)``.

    Above 1,024 coordinates it sees the first 64 principal components of ``x``; beyond 10,000 examples it learns from
    that many, drawn by ``seed``. Both are in ``Classifier.protocol``.

    Raises:
        UserError: labels that do not fit, or fewer than two classes.
    """
    from sklearn.svm import SVC

    flat, target = rows("x", x), labels_of("labels", labels, len(x))
    if len(target.unique()) < 2:
        raise UserError("a classifier needs examples of at least two classes; labels hold one.")
    if len(flat) > MOST:
        keep = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:MOST]
        flat, target = flat[keep], target[keep]
    front = front_end(flat, seed)
    seen = flat.numpy() if front is None else front.transform(flat.numpy())
    classifier = SVC(C=10, gamma="scale").fit(seen, target.numpy())
    protocol = {
        "classifier": "sklearn.svm.SVC",
        "C": 10,
        "gamma": "scale",
        "features": "pixels" if front is None else f"pca:{front.n_components_}",
        "trained_on": len(flat),
    }
    return Classifier(classifier, front, protocol)


def front_end(flat: Tensor, seed: int) -> Any | None:
    """Nothing up to 1,024 coordinates, else the first 64 principal components (a fitted scikit-learn PCA)."""
    if flat.shape[1] <= WIDEST:
        return None
    from sklearn.decomposition import PCA

    return PCA(min(COMPONENTS, len(flat)), random_state=seed % SEEDS).fit(flat.numpy())


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays, their shapes and types."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@register(
    "metrics",
    "label-agreement",
    title="Agreement of a classifier of real data with the asked label",
    proof="exact: tests/metrics/test_classifiers.py::test_agreement_counts_what_was_mislabelled",
)
def label_agreement(samples: Tensor, labels: Tensor, classifier: Classifier) -> Estimate:
    r"""The fraction of samples that ``classifier`` (trained on real data) reads as the label they were asked for.

    The standard error is binomial, :math:`\sqrt{p(1-p)/N}`; the classifier's own errors bound the value.

    Args:
        samples: ``(N, ...)``.
        labels: asked labels, integer ``(N,)``.
        classifier: from :func:`svc` on the real training split.
    """
    asked = labels_of("labels", labels, len(samples))
    return rate(classifier.predict(samples) == asked)


@register(
    "metrics",
    "train-synthetic-test-real",
    title="Accuracy on real data after training on samples alone",
    arxiv="1706.02633",
    proof="data: tests/metrics/test_classifiers.py::test_training_on_real_digits_is_the_ceiling",
)
def train_on_synthetic(
    samples: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, *, seed: int = 0
) -> Estimate:
    """The accuracy on real held-out data of an :func:`svc` trained on samples alone (TSTR, arXiv:1706.02633).

    Args:
        samples: ``(N, ...)`` with their asked ``labels`` ``(N,)``, of at least two classes.
        labels: integer ``(N,)``.
        real: held-out real data ``(M, ...)``.
        real_labels: integer ``(M,)``.
        seed: of a subset, if there are more than 10,000 samples.
    """
    return rate(svc(samples, labels, seed=seed).predict(real) == labels_of("real_labels", real_labels, len(real)))


@dataclass(frozen=True)
class Accuracy:
    """How many of how many: parts of a set, on any machines, add up to the whole."""

    right: int = 0
    count: int = 0

    @classmethod
    def of(cls, hits: Tensor) -> Accuracy:
        """Those of truth values ``(N,)``."""
        return cls(int(hits.sum()), len(hits))

    def __add__(self, other: Accuracy) -> Accuracy:
        """The accuracy over two parts of a set together."""
        return Accuracy(self.right + other.right, self.count + other.count)

    @property
    def rate(self) -> Estimate:
        """The fraction and its binomial standard error; there must be one at least."""
        p = self.right / self.count
        return Estimate(p, math.sqrt(p * (1 - p) / self.count))


def rate(hits: Tensor) -> Estimate:
    """A fraction and its binomial standard error."""
    return Accuracy.of(hits).rate
