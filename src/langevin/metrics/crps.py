"""The continuous ranked probability score of an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register


@register(
    "metrics",
    "crps",
    title="Continuous ranked probability score",
    proof="exact: tests/metrics/test_crps.py::test_normal_law; parity: tests/metrics/test_crps.py::test_torchmetrics",
)
def crps(ensemble: Tensor, observed: Tensor, *, fair: bool = True) -> Tensor:
    r"""∫ (F(x) − 1[x ≥ y])² dx of each coordinate, averaged over them: how good a law F is for what came, y.

    .. math:: \frac1M \sum_i |x_i - y| - \frac{1}{2 M (M - 1)} \sum_{i,j} |x_i - x_j|

    (Gneiting & Raftery 2007, eq. 21.) The *fair* form above is unbiased: its expectation is the score of the law the
    members are draws of, at any M. With M² in the place of M (M − 1) it is the score of the members' own step function,
    larger by E|x − x'|/2M. Sorted members make it O(M log M). One number an example: means of parts of a set merge.

    Args:
        ensemble: ``(M, N, *event)``, M ≥ 2 draws for each of N examples.
        observed: ``(N, *event)``, what came.
        fair: whether it is the law that is scored, or the M members themselves.

    Returns:
        ``(N,)`` float64, in units of the data; 0 for a law that is certain and right.

    Raises:
        UserError: shapes that do not fit, fewer than two members, values that are not finite.
    """
    if not isinstance(ensemble, Tensor) or not isinstance(observed, Tensor) or observed.ndim < 1 or not len(observed):
        raise UserError("ensemble and observed must be tensors (M, N, ...) and (N, ...) with N ≥ 1")
    if ensemble.shape[1:] != observed.shape or len(ensemble) < 2:
        got = f"{tuple(ensemble.shape)} and {tuple(observed.shape)}"
        raise UserError(f"ensemble and observed must be (M, N, ...) and (N, ...) with M ≥ 2; got {got}")
    x, y = (v.detach().to("cpu", torch.float64) for v in (ensemble, observed))
    for name, value in (("ensemble", x), ("observed", y)):
        if not value.isfinite().all():
            raise UserError(f"{name} holds {int((~value.isfinite()).sum())} non-finite values.")
    m = len(x)
    # Σ_ij |x_i − x_j| = 2 Σ_k (2k − M − 1) x_(k); taken from y, so that near members do not cancel.
    apart = (x - y).sort(0).values
    rank = (2 * torch.arange(1, m + 1, dtype=torch.float64) - m - 1).reshape(-1, *[1] * y.ndim)
    spread = (rank * apart).sum(0) / (m * (m - 1 if fair else m))
    return (apart.abs().mean(0) - spread).reshape(len(y), -1).mean(1)
