"""Random vectors for Hutchinson's trace estimate: tr A = E[εᵀAε] for E[εεᵀ] = I."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError
from ..distributions import Noise, Stream

PROBES = ("rademacher", "gaussian")
"""Laws of a probe: signs, or standard normal numbers."""


class Probes:
    r"""Probe j of each sample, ``(B, D)``: a function of (seed, sample, j) alone.

    Normal probes are independent. Signs are the rows of a Hadamard matrix of order P = 2^⌈log₂ D⌉, cut to D columns:

    .. math:: ε_{ji} = s_i\, (-1)^{\mathrm{bits}(k_j \wedge i)}, \qquad k_j = (a j + b) \bmod P

    with random signs s, an odd a and a b for each sample. One probe is a plain Rademacher vector, so that the estimate
    is unbiased; different probes of one block of P are orthogonal in the full order, so what a slowly varying matrix
    has off its diagonal cancels along the path: Σ_j ε_jᵀAε_j = P tr A over a block, without any variance at constant A.

    Args:
        noise: of the samples.
        dim: D.
        law: ``rademacher`` or ``gaussian``.
    """

    def __init__(self, noise: Noise, dim: int, law: str) -> None:
        if law not in PROBES:
            raise UserError(f"probe must be one of {', '.join(PROBES)}, got {law!r}")
        self.noise, self.dim, self.law = noise, dim, law
        self.order = 1 << (dim - 1).bit_length()
        if law == "rademacher":
            pick = (noise.fold_in(Stream.ORTHOGONAL).uniform((2,)) * self.order).long()
            self._step, self._first = 2 * (pick[:, 0] // 2) + 1, pick[:, 1]
            self._block, self._signs = -1, torch.empty(0)

    def __call__(self, j: int) -> Tensor:
        """Probe j ≥ 0, float64 ``(B, D)``."""
        if self.law == "gaussian":
            return self.noise.step(j).normal((self.dim,))
        block, j = divmod(j, self.order)
        if block != self._block:
            half = self.noise.step(block).uniform((self.dim,)) < 0.5
            self._block, self._signs = block, 1.0 - 2.0 * half.double()
        both = ((self._step * j + self._first) % self.order)[:, None] & torch.arange(self.dim, device=self._step.device)
        for shift in (32, 16, 8, 4, 2, 1):
            both = both ^ (both >> shift)
        return self._signs * (1 - 2 * (both & 1)).double()
