"""The inception score."""

import math

import pytest
import torch
from torch import nn

from langevin._errors import UserError
from langevin.metrics import inception_score


def test_sure_and_even() -> None:
    """Certain and evenly spread over K classes: K. One class alone, or no idea at all: 1."""
    sure = torch.eye(5, dtype=torch.float64).repeat(8, 1)
    found = inception_score(sure, splits=1)
    assert found.value == pytest.approx(5, rel=1e-14)
    assert math.isnan(found.stderr)
    assert inception_score(sure[:1].repeat(40, 1), splits=4).value == pytest.approx(1, rel=1e-14)
    assert inception_score(torch.full((40, 5), 0.2), splits=4).value == pytest.approx(1, rel=1e-6)
    # Two beliefs mixed evenly: exp of the mutual information, by hand.
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64).repeat(10, 1)
    h = lambda *q: -sum(v * math.log(v) for v in q)
    known = math.exp(h(0.6, 0.4) - (h(0.9, 0.1) + h(0.3, 0.7)) / 2)
    assert inception_score(p, splits=1).value == pytest.approx(known, rel=1e-13)


def test_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same features through both, dealt in the same order."""
    peer = pytest.importorskip("torchmetrics.image.inception")

    class Logits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.double().flatten(1)[:, :7] / 40

    images = torch.randint(0, 255, (60, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    network = Logits()
    metric = peer.InceptionScore(feature=network, splits=4)
    metric.update(images)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: order)
    value, spread = (float(v) for v in metric.compute())
    found = inception_score(network(images).softmax(1), splits=4, seed=5)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.stderr == pytest.approx(spread, rel=1e-10)


@pytest.mark.parametrize(
    ("p", "splits", "words"),
    [
        (torch.full((3, 2), 0.5), 4, "N ≥ splits"),
        (torch.full((3, 2), 0.5), 0, "N ≥ splits"),
        (torch.full((3, 2), 0.6), 1, "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), 1, "rows ≥ 0"),
        (torch.full((3, 2), torch.nan), 1, "rows ≥ 0"),
    ],
)
def test_refusals(p: torch.Tensor, splits: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        inception_score(p, splits=splits)
