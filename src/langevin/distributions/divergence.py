"""Kullback–Leibler divergences that are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError
from .covariance import Blocks, Covariance, Diagonal, LowRank
from .laws import Categorical, Distribution, Normal


def kl(p: Distribution, q: Distribution) -> Tensor:
    r"""KL(p ‖ q) = E_p[log p − log q] of each event, in nats, float64 ``(B,)``.

    Two normal laws with covariances of any form, or two categorical laws:

    .. math::
        \tfrac12 \left[ \mathrm{tr}(Q^{-1} P - I) - \log\det Q^{-1} P + (m_p - m_q)^T Q^{-1} (m_p - m_q) \right],
        \qquad \sum_k p_k \log (p_k / q_k)

    Diagonal pairs cost O(D), diagonals with low rank O(D·rank²), blocks O(D·k³), any other pair O(D³). It is infinite
    where q excludes what p allows (a singular covariance of p with a regular one of q included).

    Args:
        p, q: laws of the same event; a batch of one stands for all samples.

    Raises:
        UserError: for a pair of laws without a closed form.
    """
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        a, b = p.probs.to(torch.float64), q.probs.to(torch.float64)
        if a.shape[1:] != b.shape[1:]:
            raise UserError(f"p and q must be over the same tokens, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).flatten(1).sum(1)
    if not (isinstance(p, Normal) and isinstance(q, Normal)):
        names = f"{type(p).__name__} and {type(q).__name__}"
        raise UserError(f"kl has a closed form for two Normal or two Categorical laws, got {names}")
    if p.loc.shape[1:] != q.loc.shape[1:]:
        got = f"{tuple(p.loc.shape[1:])} and {tuple(q.loc.shape[1:])}"
        raise UserError(f"p and q must be laws of the same event, got {got}")
    apart = p.loc.to(torch.float64) - q.loc.to(torch.float64)
    pair = (p.covariance, q.covariance)
    if isinstance(p.covariance, Diagonal) and isinstance(q.covariance, Diagonal):
        return _diagonal(p.covariance, q.covariance, apart)
    if all(isinstance(c, (Diagonal, LowRank)) for c in pair):
        return _low_rank(*pair, apart)
    if all(isinstance(c, (Diagonal, Blocks)) for c in pair):
        first, second = (_blocks(c, apart) for c in pair)
        return _matrices(first, second, apart.movedim(1, -1)).flatten(1).sum(1)
    first, second = (c.dense(tuple(apart.shape[1:])).to(torch.float64) for c in pair)
    return _matrices(first, second, apart.flatten(1))


def _excess(ratio: Tensor) -> Tensor:
    """r − 1 − log r ≥ 0, without cancellation near r = 1."""
    return (ratio - 1) - torch.log1p(ratio - 1)


def _diagonal(p: Diagonal, q: Diagonal, apart: Tensor) -> Tensor:
    a, b = p.variance.to(torch.float64), q.variance.to(torch.float64)
    return 0.5 * (_excess(a / b) + apart**2 / b).flatten(1).sum(1)


def _matrices(p: Tensor, q: Tensor, apart: Tensor) -> Tensor:
    """Of matrices ``(…, D, D)`` and differences of means ``(…, D)``, by the eigenvalues of L⁻¹ P L⁻ᵀ with Q = L Lᵀ."""
    root = torch.linalg.cholesky(q)
    half = torch.linalg.solve_triangular(root, p, upper=False)
    ratio = torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.mT, upper=False)).clamp_min(0)
    white = torch.linalg.solve_triangular(root, apart[..., None], upper=False)[..., 0]
    return 0.5 * (_excess(ratio).sum(-1) + (white**2).sum(-1))


def _blocks(c: Covariance, like: Tensor) -> Tensor:
    """The blocks of an event ``(k, *data)``, ``(B or 1, *data, k, k)``."""
    if isinstance(c, Blocks):
        return c.matrix.to(torch.float64).movedim((1, 2), (-2, -1))
    return torch.diag_embed(c.diagonal(()).to(torch.float64).expand_as(like).movedim(1, -1))


def _low_rank(p: Covariance, q: Covariance, apart: Tensor) -> Tensor:
    """diag + UUᵀ on both sides, U of rank 0 for a diagonal: by Woodbury's identity, in the rank."""
    batch = apart.shape[0]

    def parts(c: Covariance) -> tuple[Tensor, Tensor]:
        assert isinstance(c, (Diagonal, LowRank))
        u = c.factor.flatten(2) if isinstance(c, LowRank) else apart.new_zeros(1, 0, apart[0].numel())
        return c.variance.to(torch.float64).expand_as(apart).flatten(1), u.to(torch.float64).expand(batch, -1, -1)

    (a, u), (b, w), flat = parts(p), parts(q), apart.flatten(1)

    def root(v: Tensor, f: Tensor) -> Tensor:
        eye = torch.eye(f.shape[1], dtype=torch.float64, device=f.device)
        return torch.linalg.cholesky(eye + (f / v[:, None]) @ f.mT)

    chol = root(b, w)
    log_det = lambda c: 2 * torch.log(torch.diagonal(c, dim1=-2, dim2=-1)).sum(-1)
    # Q⁻¹ = B⁻¹ − KᵀK with K = chol⁻¹ W B⁻¹.
    k = torch.linalg.solve_triangular(chol, w / b[:, None], upper=False)
    diagonal = _excess(a / b).sum(1)
    trace = ((u**2) / b[:, None]).sum((1, 2)) - (k**2 * a[:, None]).sum((1, 2)) - ((k @ u.mT) ** 2).sum((1, 2))
    square = (flat**2 / b).sum(1) - ((k @ flat[..., None])[..., 0] ** 2).sum(1)
    return 0.5 * (diagonal + trace + log_det(chol) - log_det(root(a, u)) + square)
