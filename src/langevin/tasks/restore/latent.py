"""Inverse problems on the codes of a latent model: the problem in codes, and the methods that are for them alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..._registry import register
from ...denoisers import Denoiser, Transform
from ...distributions import Distribution, Noise
from ...operators import Decoded, Measurement, Operator
from ...samplers import DPS, PSLD
from .common import follow, takes

_PROOF = "exact: tests/tasks/test_restore_codes.py"


@dataclass(frozen=True, eq=False)
class OnCodes(Transform):
    """The belief of a latent model about codes, whose states are read as they are and not decoded."""

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return self.base(x_t, t)

    @property
    def belief_of(self) -> Denoiser:
        return self.base.belief_of

    @property
    def autoencoder(self) -> None:
        return None

    @property
    def output(self) -> Any:
        return self.base.data

    def read(self, x_t: Tensor) -> Tensor:
        return self.base.process.read(x_t)


def on_states(model: Denoiser, operator: Operator) -> Operator:
    """The operator on what a model has as states: itself, or of a latent model what it measures of decoded codes."""
    return operator if model.autoencoder is None else Decoded(operator, model.autoencoder)


@torch.no_grad()
def codec_residual(model: Denoiser, operator: Operator, x: Tensor) -> float:
    """Root mean square of A(x) − A(D(E(x))), in units of the measurement: what the codec alone loses of images.

    A latent model explains a measurement no better than by about that much, however many steps it takes.

    Args:
        model: a latent model.
        operator: A, of the data.
        x: images ``(B, *shape)`` near those that are restored.
    """
    decoded = Decoded(operator, model.autoencoder)
    seen = x.to(model.device, torch.promote_types(model.dtype, torch.float32))
    return float((operator(seen) - decoded(decoded.encode(seen))).double().square().mean().sqrt())


@register("inverse", "ldps", title="Latent DPS", arxiv="2307.00619", proof=_PROOF)
@takes("codes")
def ldps(
    denoiser: Denoiser, measurement: Measurement, *, noise: Noise, steps: int, zeta: float = 1.0, **options: Any
) -> Tensor:
    """``samplers.DPS`` on codes, ζ∇‖y − A(D(ẑ_0))‖ with the norm not squared: ``dps`` by its name in latent papers."""
    return follow(denoiser, DPS(measurement, zeta), noise, steps, **options)


@register("inverse", "psld", title="PSLD", arxiv="2307.00619", proof=_PROOF)
@takes("linear on codes")
def psld(
    denoiser: Denoiser,
    measurement: Measurement,
    *,
    noise: Noise,
    steps: int,
    zeta: float = 1.0,
    gamma: float = 0.1,
    norm: Literal["unsquared", "squared"] = "unsquared",
    **options: Any,
) -> Tensor:
    """``samplers.PSLD``: latent DPS, and ẑ_0 glued to the code of an image that has what was measured in its place."""
    return follow(denoiser, PSLD(measurement, zeta, gamma, norm), noise, steps, **options)
