"""Classifiers of samples, and what they say of these."""

import math

import pytest
import torch
from sklearn.svm import SVC

from langevin import data
from langevin._errors import UserError
from langevin.metrics import classifiers, label_agreement, svc, train_on_synthetic
from support import with_labels


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def test_agreement_counts_what_was_mislabelled(digits: data.Dataset) -> None:
    x, y = with_labels(digits.train.all())
    classifier = svc(x, y)
    assert float((classifier.predict(x) == y).double().mean()) == 1  # C = 10 separates the training split
    asked = y.clone()
    asked[:100] = (asked[:100] + 1) % 10
    found = label_agreement(x, asked, classifier)
    p = 1 - 100 / len(x)
    assert found.value == pytest.approx(p, abs=1e-12)
    assert found.stderr == pytest.approx(math.sqrt(p * (1 - p) / len(x)), rel=1e-12)


def test_training_on_real_digits_is_the_ceiling(digits: data.Dataset) -> None:
    (x, y), (x_test, y_test) = with_labels(digits.train.all()), with_labels(digits.test.all())
    found = train_on_synthetic(x, y, x_test, y_test)
    own = SVC(C=10, gamma="scale").fit(x.flatten(1).double(), y).score(x_test.flatten(1).double(), y_test)
    assert found.value == pytest.approx(own, abs=1e-12)
    assert round(found.value * 359) == 356
    # Labels that say nothing teach nothing: chance is 1/10, 4 binomial deviations.
    noise = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert abs(train_on_synthetic(x, noise, x_test, y_test).value - 0.1) < 4 * math.sqrt(0.09 / 359)


def test_wide_events_are_read_by_principal_components() -> None:
    g = torch.Generator().manual_seed(0)
    label = torch.arange(200) % 2
    x = 0.1 * torch.randn(200, 3, 32, 32, generator=g) + label.view(-1, 1, 1, 1)
    classifier = svc(x, label)
    assert classifier.protocol["features"] == "pca:64"
    assert (classifier.predict(x) == label).all()
    assert svc(x[..., :16, :16], label).protocol["features"] == "pixels"


def test_large_sets_are_drawn_from(monkeypatch) -> None:
    monkeypatch.setattr(classifiers, "MOST", 50)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    classifier = svc(x, (x[:, 0] > 0).long())
    assert classifier.protocol["trained_on"] == 50
    assert classifier.protocol["C"] == 10


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(8, dtype=torch.int64), "at least two classes"),
        (torch.zeros(7, dtype=torch.int64), r"integer tensor \(8,\); got torch.int64 \(7,\)"),
        (torch.zeros(8), "integer tensor"),
        (torch.arange(8) - 1, "≥ 0; got -1"),
    ],
)
def test_refusals(labels: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        svc(torch.randn(8, 2), labels)
