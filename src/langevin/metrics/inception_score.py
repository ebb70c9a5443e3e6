"""The inception score: how sure a classifier is of each sample, and how many classes it sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from .kernel import Estimate


@dataclass(frozen=True, eq=False)
class ScoreSums:
    r"""What the inception score needs of a set of p(y|x): parts of a set, on any machines, add up to the whole.

    Args:
        count: N.
        total: Σ_x p(y|x), ``(K,)`` float64.
        certainty: Σ_x Σ_y p log p, in nats.
    """

    count: int
    total: Tensor
    certainty: Tensor

    @classmethod
    def of(cls, probabilities: Tensor) -> ScoreSums:
        """The sums of rows ``(N, K)`` that are ≥ 0 and sum to 1, N ≥ 0."""
        if probabilities.ndim != 2:
            raise UserError(f"probabilities must be (N, K); got {tuple(probabilities.shape)}.")
        p = probabilities.detach().to("cpu", torch.float64)
        # Networks give them in float32.
        if not (p >= 0).all() or not ((p.sum(1) - 1).abs() < 1e-4).all():
            raise UserError("probabilities must be rows ≥ 0 that sum to 1")
        return cls(len(p), p.sum(0), torch.xlogy(p, p).sum())

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """The statistics of two parts of a set together."""
        if self.total.shape != other.total.shape:
            raise UserError(f"probabilities must be of one set of classes; got {len(self.total)}, {len(other.total)}.")
        return ScoreSums(self.count + other.count, self.total + other.total, self.certainty + other.certainty)

    @property
    def score(self) -> Tensor:
        r"""exp(E Σ p log p − Σ p̄ log p̄): the E KL of the definition, since Σ_y p̄ log p̄ is the mean of p log p̄."""
        mean = self.total / self.count
        return (self.certainty / self.count - torch.xlogy(mean, mean).sum()).exp()


def deal(count: int, splits: int, seed: int) -> Tensor:
    """Which of ``splits`` parts, as equal as can be, each of ``count`` samples is dealt to at random, ``(count,)``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    hand = torch.empty(count, dtype=torch.int64)
    for i, part in enumerate(order.tensor_split(splits)):
        hand[part] = i
    return hand


def over_splits(sums: list[ScoreSums]) -> Estimate:
    """The mean score of the parts, and their standard deviation."""
    found = torch.stack([part.score for part in sums])
    return Estimate(float(found.mean()), float(found.std()) if len(sums) > 1 else float("nan"))


@register(
    "metrics",
    "inception-score",
    title="Inception score, of Inception or of a classifier trained here",
    arxiv="1606.03498",
    proof="exact: tests/metrics/test_inception_score.py::test_sure_and_even; "
    "parity: tests/metrics/test_inception_score.py::test_torchmetrics",
)
def inception_score(probabilities: Tensor, *, splits: int = 10, seed: int = 0) -> Estimate:
    r"""exp E_x KL(p(y|x) ‖ p(y)) (Salimans et al. 2016, arXiv:1606.03498 §4), from 1 to the number of classes.

    The samples are dealt at random into ``splits`` parts, as equal as can be; p(y) is a part's own mean, so the score
    of a small part is biased downwards. It never looks at real data: compare with the score of real data.

    Args:
        probabilities: p(y | x), ``(N, K)``: rows ≥ 0 that sum to 1, N ≥ splits.
        splits: parts, ≥ 1; 10 as published.
        seed: of the dealing.

    Returns:
        The mean over parts, and their standard deviation as published (not-a-number with one part).

    Raises:
        UserError: no probabilities, or fewer rows than parts.
    """
    if splits < 1 or probabilities.ndim != 2 or len(probabilities) < splits:
        got = f"{splits} splits and {tuple(probabilities.shape)}"
        raise UserError(f"probabilities must be (N, K) with N ≥ splits ≥ 1; got {got}.")
    hand = deal(len(probabilities), splits, seed).to(probabilities.device)
    return over_splits([ScoreSums.of(probabilities[hand == i]) for i in range(splits)])
