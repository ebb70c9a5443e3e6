"""What guidance by a measurement shares: the measurement beside the belief, checked to be of its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_instance
from ...denoisers import Denoiser, check_is_denoiser
from ...operators import Measurement
from ...processes import expand
from ..tilt import Tilted


def check_measurement(denoiser: object, measurement: object) -> None:
    """Refuse what is no denoiser, no measurement, or a measurement of other data than the denoiser's.

    Raises:
        UserError: with the argument, what came and what is accepted.
    """
    check_is_denoiser(denoiser)
    assert isinstance(denoiser, Denoiser)
    check_instance("measurement", measurement, Measurement, "a langevin.operators.Measurement")
    assert isinstance(measurement, Measurement)
    measurement.operator.check(tuple(denoiser.shape), measurement.y)


def check_rows(measurement: Measurement, x: Tensor) -> None:
    """Refuse a batch for which there is neither one measurement nor one a sample."""
    if len(measurement.y) not in (1, len(x)):
        raise UserError(f"y must hold one measurement or one a sample ({len(x)}), got {len(measurement.y)}")


@dataclass(frozen=True, eq=False)
class Measured(Tilted):
    """The base, tilted by what a measurement says about x_t."""

    measurement: Measurement

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, base=self.base.rows(index), measurement=self.measurement.rows(index))


class _Pull(torch.autograd.Function):
    """Aᵀ(a·A Aᵀ + b·I)⁻¹(y − A m) as a function of m, whose derivative −Aᵀ(…)⁻¹A is symmetric."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, measurement: Measurement, a: Tensor | float, b: float) -> Tensor:
        ctx.of = measurement.linear, a, b
        with torch.no_grad():
            return measurement.linear.regularised_inverse(measurement.residual(mean), a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        operator, a, b = ctx.of
        with torch.no_grad():
            return -operator.regularised_inverse(operator(grad), a, b), None, None, None


class _Evidence(torch.autograd.Function):
    """log N(y; A m, a·A Aᵀ + b·I) as a function of m, up to a constant; its gradient is ``_Pull``."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, measurement: Measurement, a: Tensor | float, b: float) -> Tensor:
        ctx.save_for_backward(mean)
        ctx.of = measurement, a, b
        with torch.no_grad():
            residual = measurement.residual(mean)
            if b > 0:
                return -0.5 * (residual * measurement.linear.solve(residual, a, b)).flatten(1).sum(1)
            back = measurement.linear.pseudo_inverse(residual)
            a = a if isinstance(a, Tensor) else torch.tensor(a, dtype=torch.float64)
            return -0.5 * (back.square() / expand(a, back)).flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (mean,) = ctx.saved_tensors
        pull: Tensor = _Pull.apply(mean, *ctx.of)
        return expand(grad, pull) * pull, None, None, None


def evidence(measurement: Measurement, mean: Tensor, a: Tensor | float, b: float) -> Tensor:
    """log N(y; A m, a·A Aᵀ + b·I) in nats up to a constant, ``(B,)``, differentiable twice in the mean m.

    Its derivatives are written down, so that no iteration of a solver is kept for them. With b = 0 on the range of A.
    """
    result: Tensor = _Evidence.apply(mean, measurement, a, b)
    return result
