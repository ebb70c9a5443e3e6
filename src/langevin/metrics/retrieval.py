"""Whether the right one of many is found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer
from .._registry import register


@dataclass(frozen=True)
class Retrieval:
    """The share of queries whose best candidate is the right one.

    Attributes:
        value: the share, in [0, 1].
        stderr: its standard error over examples.
        among: candidates of a query, of which one is right; 1/among is chance.
        n: queries.
    """

    value: float
    stderr: float
    among: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, within [0, 1]."""
        return max(0.0, self.value - 1.96 * self.stderr), min(1.0, self.value + 1.96 * self.stderr)


@register(
    "metrics",
    "retrieval",
    title="Retrieval: the right one of 100 is found",
    arxiv="2103.00020",
    proof="exact: tests/metrics/test_retrieval.py",
)
def retrieval(scores: Tensor, group: Tensor | None = None, *, among: int = 100) -> Retrieval:
    r"""How often the right candidate has the best score among itself and K = ``among`` − 1 others, drawn at random.

    Nothing is drawn: of M others, b of which score as high as the right one or higher, K without replacement are all
    below it with the probability

    .. math:: \binom{M - b}{K} \Big/ \binom{M}{K}

    The standard error is the jackknife's over examples, each of which is a query and a candidate of all others; it is
    rather too large (by a share of about ``among`` / N) than too small.

    Args:
        scores: ``(N, N)``, of query i and candidate j; the right one is j = i.
        group: int64 ``(N,)``: an example of the same number is none of the others, such as one with the same caption.
        among: at least 2, at most as many as there are for each query.

    Raises:
        UserError: for another shape, scores that are no numbers, or too few examples.
    """
    check_instance("scores", scores, Tensor, "numbers (N, N)")
    check_instance("group", group, (Tensor, type(None)), "integers (N,)")
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not bool(scores.isfinite().all()):
        raise UserError(f"scores must be finite numbers (N, N), got {tuple(scores.shape)}")
    if group is not None and group.shape != scores.shape[:1]:
        raise UserError(f"group must have shape ({len(scores)},), got {tuple(group.shape)}")
    n, scores = len(scores), scores.double().cpu()
    group = torch.arange(n) if group is None else group.cpu()
    other = group[:, None] != group
    most = int(other.sum(1).min()) if n else 0
    check_integer("among", among, 2)
    if among > most:
        raise UserError(f"among must be at most {most}, the fewest others that an example has; got {among}")
    above = other & (scores >= scores.diagonal()[:, None])
    m, b = other.sum(1), above.sum(1)
    whole = _all_below(m, b, among - 1)
    # What each query becomes without an example that is none of its others, one below the right one, and one above.
    below, beaten = _all_below(m - 1, b, among - 1), _all_below(m - 1, b - 1, among - 1)
    left = torch.where(above, beaten[:, None], torch.where(other, below[:, None], whole[:, None]))
    without = (left.sum(0) - left.diagonal()) / (n - 1)
    variance = (n - 1) / n * (without - without.mean()).square().sum()
    return Retrieval(float(whole.mean()), float(variance.sqrt()), among, n)


def _all_below(m: Tensor, b: Tensor, k: int) -> Tensor:
    """The probability that k of m, drawn without replacement, are none of b."""
    m, b = m.double(), b.clamp_min(0).double()
    rest = m - b
    log = torch.lgamma(rest + 1) - torch.lgamma((rest - k).clamp_min(0) + 1)
    log = log - torch.lgamma(m + 1) + torch.lgamma(m - k + 1)
    return torch.where(rest >= k, log.exp(), 0.0)
