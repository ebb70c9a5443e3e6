"""The variational bound in the limit of infinitely many steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Noise, kl
from ..objectives.vdm import levels_of, reconstruction_term
from ..processes import ScalarGaussian, require
from .units import Measured, Units, error_of_mean


@dataclass(frozen=True)
class VDMBound(Measured):
    """A bound on −log p(x) of each example, in nats.

    Args:
        prior: KL(q(x_T | x) ‖ prior), float64 ``(B,)``.
        diffusion: what all steps cost, ``(B,)``.
        reconstruction: −log p(x | x_{t_min}), ``(B,)``.
        units: what the nats are counted in.
        protocol: how it was computed, plain JSON.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    units: Units
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def nats(self) -> Tensor:
        """The bound, ``(B,)`` in nats."""
        return self.prior + self.diffusion + self.reconstruction

    def __str__(self) -> str:
        names = ("prior", "diffusion", "reconstruction", "nats")
        nats = ", ".join(f"{name} {float(getattr(self, name).mean()):.4f}" for name in names)
        error = error_of_mean(self.bits_per_dim)
        return f"{float(self.bits_per_dim.mean()):.4f} ± {error:.4f} bits/dim ({nats} nats)"


@register(
    "likelihood",
    "vdm-bound",
    title="Bound of variational diffusion models, by quadrature",
    arxiv="2107.00630",
    proof="exact: tests/likelihood/test_vdm_bound.py",
)
@torch.no_grad()
def vdm_bound(
    denoiser: Denoiser, x: Tensor, *, nodes: int = 64, draws: int = 1, seed: int = 0, batch: int = 256
) -> VDMBound:
    r"""The bound of variational diffusion models for any scalar-Gaussian process (arXiv:2107.00630, eq. 11–18).

    .. math:: -\log p(x) \le \mathrm{KL}(q(x_T | x) \,‖\, p(x_T))
              + \tfrac12 E \int_{λ_T}^{λ_0} e^{λ} |\hat x_0(x_λ) - x|^2 \, dλ - E \log p(x | x_{t_{min}})

    from λ_0 at the process's ``t_min`` to λ_T at its ``t_max``. With x_λ on one line of noise, x_λ = αx + σε for one ε
    at all λ, the middle term is a plain integral: by Gauss–Legendre quadrature in the process's own time. It depends on
    the schedule through its two ends alone.

    Args:
        denoiser: its means are asked, under a scalar-Gaussian process.
        x: data ``(N, *shape)``; if ``denoiser.data`` says that they have levels, probabilities are bounded, else a
            density.
        nodes: of the quadrature, ≥ 1: evaluations a draw.
        draws: lines of noise an example, ≥ 1.
        seed: of the noise.
        batch: examples carried at a time.

    Raises:
        UserError: for another process, a shape that is not the model's, values that are not finite.
    """
    check_is_denoiser(denoiser)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "the bound in continuous time")
    if tuple(x.shape[1:]) != tuple(denoiser.shape) or len(x) == 0:
        raise UserError(f"x must have shape (N, {', '.join(map(str, denoiser.shape))}), got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise UserError("x holds values that are not finite")
    for name, value in (("nodes", nodes), ("draws", draws), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    place, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
    times = process.t_min + (process.t_max - process.t_min) * (place + 1) / 2
    weight = weight * (process.t_max - process.t_min) / 2
    log_snr, fall = process.log_snr(times), -process.rate(process.log_snr, times)
    levels, noise, parts = levels_of(denoiser), Noise(seed, len(x)), []
    start = -process.log_snr(process.t_min)
    dim = x[0].numel()
    for first in range(0, len(x), batch):
        rows = slice(first, min(first + batch, len(x)))
        x0, some = x[rows].to(denoiser.device), denoiser.rows(rows)
        prior = kl(process.marginal(x0, process.t_max), process.prior(tuple(denoiser.shape)))
        diffusion, rest = torch.zeros_like(prior), torch.zeros_like(prior)
        for draw in range(draws):
            line = noise.rows(rows).step(draw).to(denoiser.device)
            for t, share, level in zip(times, weight * fall, log_snr):
                error = some(process.marginal(x0, t).sample(line), t).mean - x0
                diffusion += 0.5 * share * level.exp() * error.to(torch.float64).square().flatten(1).sum(1)
            rest += dim * reconstruction_term(x0, start, line, levels)
        parts.append(torch.stack((prior.expand(len(x0)), diffusion / draws, rest / draws)).cpu())
    units = Units.of(denoiser.data, tuple(denoiser.shape), density=levels is None)
    ends = [float(process.log_snr(t)) for t in (process.t_min, process.t_max)]
    protocol = {"bound": "continuous time", "log_snr": ends, "nodes": nodes, "draws": draws, "seed": seed, "n": len(x)}
    prior, diffusion, rest = torch.cat(parts, 1)
    return VDMBound(prior, diffusion, rest, units, protocol | units.protocol())
