"""What the solvers share: the loop by a sampler, the width of the data, the size of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoisers import Denoiser, Transform, gaussian_frame
from ...distributions import Distribution, Noise
from ...operators import LinearOperator, Measurement
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
