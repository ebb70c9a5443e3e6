"""The inception score: how sure a classifier is of each sample, and how many classes it sees."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from .kernel import Estimate


@register(
    "metrics",
    "inception-score",
    title="Inception score, of Inception or of a classifier trained here",
    arxiv="1606.03498",
    catalogue="J1",
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
    p = probabilities.detach().to("cpu", torch.float64)
    # Networks give them in float32.
    if not (p >= 0).all() or not (p.sum(1) - 1).abs().max() < 1e-4:
        raise UserError("probabilities must be rows ≥ 0 that sum to 1")
    p = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))]
    scores = []
    for part in p.tensor_split(splits):
        mean = part.mean(0)
        scores.append((torch.xlogy(part, part) - torch.xlogy(part, mean)).sum(1).mean().exp())
    found = torch.stack(scores)
    return Estimate(float(found.mean()), float(found.std()) if splits > 1 else float("nan"))
