"""A score that is the gradient of an energy, and so the density of its law up to a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._registry import register
from ..processes import Process, ScalarGaussian, as_time, expand
from .network import NetworkDenoiser
from .parameterization import AffineParameterization, Parameterization


@register(
    "denoisers",
    "energy",
    title="Energy-parameterised score, s = −∇E",
    arxiv="2302.11552",
    proof="exact: tests/denoisers/test_energy.py",
)
class EnergyDenoiser(NetworkDenoiser):
    """A network denoiser whose network is the gradient of a scalar (``Backbone.as_energy``).

    Every sampler works with it as with any other; those that need a density (``mala``) do too.
    """

    comparable = False
    """The constant of ``log_density`` depends on t."""

    def energy(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        r"""E(x_t, t) = −log p_t(x_t) + const(t) in nats, ``(B,)``, with ∇E the negative of the score.

        With net = ∇U(c_in x) the gradient of the network's scalar, and net = p·x_0 + q·ε,

        .. math:: E = \frac{α\,U(c_{in} x)/c_{in} - \tfrac12 p\,|x|^2}{σ\,(α q - σ p)}
        """
        process, parameterization, time = self.process, self.parameterization, as_time(t)
        assert isinstance(process, ScalarGaussian)
        assert isinstance(parameterization, AffineParameterization)
        p, q = parameterization.coefficients(process, time)
        alpha, sigma, scale = process.alpha(time), process.sigma(time), parameterization.input_scale(process, time)
        c_noise = self._at(t).c_noise
        condition = {key: self._expanded(key, len(x_t), value) for key, value in self.condition.items()}
        x = (x_t * expand(scale, x_t)).to(self._first.dtype)
        learning = torch.is_grad_enabled()
        u = self.network.potential(x, c_noise.expand(len(x)), condition or None)  # type: ignore[operator]
        self.counter.calls += 1
        u, square = (v.to(torch.float64) for v in (u, x_t.flatten(1).square().sum(1)))
        energy = (alpha / scale * u - p / 2 * square) / (sigma * (alpha * q - sigma * p))
        return energy if learning else energy.detach()

    def log_density(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x_t) in nats up to a constant at each t, ``(B,)``."""
        return -self.energy(x_t, t)


def make_denoiser(
    network: nn.Module, process: Process, parameterization: Parameterization, shape: tuple[int, ...], **settings: Any
) -> NetworkDenoiser:
    """The denoiser of a network: ``EnergyDenoiser`` if it is the gradient of a scalar, else ``NetworkDenoiser``."""
    conservative = getattr(network, "energy", False) and isinstance(parameterization, AffineParameterization)
    kind = EnergyDenoiser if conservative else NetworkDenoiser
    return kind(network, process, parameterization, shape, **settings)
