"""What every measure asks of the tensors it is given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .._errors import UserError

CHUNK = 2**23
"""Distances held at once: 64 MiB in float64."""

NARROW = 32
"""Up to this many coordinates, differences cost no more than a matrix product."""


def rows(name: str, x: Tensor, least: int = 2) -> Tensor:
    """``(N, *shape)`` as finite float64 ``(N, D)`` on the CPU, N ≥ ``least``.

    Raises:
        UserError: naming the argument.
    """
    if not isinstance(x, Tensor) or x.ndim < 2:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"{name} must be a tensor (N, ...) of examples; got {got}.")
    if len(x) < least or x.numel() == 0:
        raise UserError(f"{name} must hold at least {least} examples; got shape {tuple(x.shape)}.")
    flat = x.detach().to("cpu", torch.float64).flatten(1)
    if not torch.isfinite(flat).all():
        raise UserError(f"{name} holds {int((~torch.isfinite(flat)).sum())} non-finite values.")
    return flat


def pair(samples: Tensor, real: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sides as :func:`rows`, of one event shape."""
    one, two = rows("samples", samples, least), rows("real", real, least)
    if samples.shape[1:] != real.shape[1:]:
        raise UserError(
            f"samples and real must have one event shape; got {tuple(samples.shape[1:])} and {tuple(real.shape[1:])}."
        )
    return one, two


def labels_of(name: str, labels: Tensor, count: int) -> Tensor:
    """Integer labels ``(N,)`` as int64, one for each of ``count`` examples, none negative."""
    if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.is_floating_point():
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"{name} must be an integer tensor ({count},); got {got}.")
    if int(labels.min()) < 0:
        raise UserError(f"{name} must be ≥ 0; got {int(labels.min())}.")
    return labels.detach().to("cpu", torch.int64)


def distances(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Euclidean distances of the rows of ``a`` to all of ``b``, in chunks ``(indices, (len(indices), M))``.

    ‖a‖² + ‖b‖² − 2ab by matrix product, 20 times faster than differences in wide spaces, loses the digits of near
    neighbours. So it is taken in float64 around the centre of ``b``, and pairs nearer than a thousandth of their norms
    are summed again from differences: every distance is good to about 1e-9 of itself, and copies are at 0 exactly.
    """
    for index in torch.arange(len(a)).split(max(1, CHUNK // len(b))):
        yield index, _between(a[index], b)


def _between(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] <= NARROW:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    centre = b.mean(0)
    one, two = a - centre, b - centre
    norms = one.square().sum(1)[:, None] + two.square().sum(1)
    squares = norms - 2 * one @ two.T
    for i, j in (pairs.T for pairs in (squares <= 1e-6 * norms).nonzero().split(max(1, CHUNK // a.shape[1]))):
        squares[i, j] = (a[i] - b[j]).square().sum(1)
    return squares.sqrt()
