"""What the solvers share: the loop by a sampler, the width of the data, the size of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ...denoisers import Denoiser, Transform, gaussian_frame
from ...distributions import Distribution, Noise
from ...operators import Decoded, GaussianNoise, LinearOperator, Measurement, MeasurementNoise, Operator
from ...samplers import Sampler, sample


@dataclass(frozen=True, eq=False)
class Watched(Transform):
    """A denoiser that calls a function whenever it is asked."""

    call: Callable[[], None]

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        belief = self.base(x_t, t)
        self.call()
        return belief

    def rows(self, index: slice | Tensor) -> Denoiser:
        return Watched(self.base.rows(index), self.call)


F = TypeVar("F", bound=Callable[..., Tensor])

Operators = Literal["any", "linear", "codes", "linear on codes", "of worlds"]
"""What operators a method takes: any; those that are linear in the states of the model; those on the codes of a latent
model; of these, those that are linear in the images; those of the data of an exact world."""


def takes(operators: Operators) -> Callable[[F], F]:
    """Say of a method what operators it takes, if not any."""

    def mark(method: F) -> F:
        _TAKEN[method] = operators
        return method

    return mark


_TAKEN: dict[Callable[..., Tensor], Operators] = {}


def taken_by(method: Callable[..., Tensor]) -> Operators:
    """What operators a method takes."""
    return _TAKEN.get(method, "any")


_ANY_NOISE: set[Callable[..., Tensor]] = set()


def any_noise(method: F) -> F:
    """Say of a method that it takes any noise with a density, and not Gaussian noise alone."""
    _ANY_NOISE.add(method)
    return method


def takes_noise(method: Callable[..., Tensor], noise: MeasurementNoise) -> bool:
    """Whether a method takes this law of the noise."""
    return isinstance(noise, GaussianNoise) or method in _ANY_NOISE


def for_codes(method: Callable[..., Tensor]) -> bool:
    """Whether a method is for latent models alone."""
    return taken_by(method) in ("codes", "linear on codes")


def fits(operators: Operators, operator: Operator) -> bool:
    """Whether an operator on the states of any model (see ``on_states``) is one of these."""
    coded = isinstance(operator, Decoded)
    if operators == "linear on codes":
        return isinstance(operator, Decoded) and isinstance(operator.operator, LinearOperator)
    known = {"any": True, "linear": isinstance(operator, LinearOperator), "codes": coded, "of worlds": False}
    return known[operators]


def follow(denoiser: Denoiser, sampler: Sampler, noise: Noise, steps: int, **options: Any) -> Tensor:
    """The sampler on its default grid of so many steps."""
    if "grid" not in options:
        options["steps"] = steps
    return sample(denoiser, sampler, noise=noise, batch=len(noise), **options)


def std_of_data(denoiser: Denoiser) -> float:
    """Standard deviation of a coordinate of the data, 1 where the model does not know it."""
    frame = gaussian_frame(denoiser)
    return 1.0 if frame is None else float(frame.std)


def operator_norm(denoiser: Denoiser, measurement: Measurement) -> float:
    """‖A‖, the largest singular value; of an operator that is not linear, of its derivative at a few random points."""
    operator, shape = measurement.operator, tuple(denoiser.shape)
    if isinstance(operator, LinearOperator) and (known := operator.svd(shape)) is not None:
        return float(known.values.max())
    dtype = torch.promote_types(denoiser.dtype, torch.float32)
    x, v = (Noise(0, 8, draw).normal(shape).to(denoiser.device, dtype) for draw in range(2))
    x = x * std_of_data(denoiser)
    size = v.new_ones(len(v))
    for _ in range(20):
        v = v / v.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * len(shape))
        ahead = (operator(x + 1e-2 * v) - operator(x - 1e-2 * v)) / 2e-2
        size = ahead.flatten(1).norm(dim=1)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (v,) = torch.autograd.grad(operator(at), at, ahead)
    return max(float(size.max()), 1e-12)
