"""The sampler of a request, with the moments of the data."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..._errors import UserError, check_instance
from ...numerics.frame import GaussianFrame
from ...processes import Process
from ...samplers import GaussianRemainder, LearnedSolver, Sampler, create_sampler, default_sampler, moments_from
from ...samplers.loop import check_sampler
from .learned import LearnedPipelineSolver

GUIDED = 4.0
"""The guidance scale that the default solver is made for where none is told: a scheduler does not see it."""

LATENT_VARIANCE = 1.0
"""Of codes, which are scaled to it."""


def sampler_of(
    sampler: Sampler | str | None,
    moments: GaussianFrame | Tensor | None,
    guidance_scale: float | None,
    process: Process,
    latent: bool,
) -> Sampler:
    """The sampler a pipeline is given: by name, as it is, or the default; moments are a frame or a batch of data.

    Args:
        sampler, moments, guidance_scale: as ``Scheduler`` takes them.
        process: of the states.
        latent: whether the pipeline is one of codes, as far as its config says.

    Raises:
        UserError: for a sampler that is none, does not fit the process, or takes no moments or guidance scale.
    """
    chosen = create_sampler(sampler) if isinstance(sampler, str) else sampler
    if chosen is None:
        chosen = default_sampler(process)
        if isinstance(chosen, GaussianRemainder):
            scale = GUIDED if guidance_scale is None else guidance_scale
            chosen = replace(chosen, guidance_scale=scale, variance=LATENT_VARIANCE if latent else chosen.variance)
    check_sampler(chosen)
    chosen.check(process)
    if isinstance(chosen, GaussianRemainder) and chosen.eta:  # a first step whose noise a pipeline would not know
        chosen = replace(chosen, prefix=False)
    if isinstance(chosen, LearnedSolver) and chosen.table is not None:
        chosen = LearnedPipelineSolver.of(chosen)
    if moments is None and guidance_scale is None:
        return chosen
    if not isinstance(chosen, GaussianRemainder):
        name = "guidance_scale" if moments is None else "moments"
        raise UserError(f"{name} must be left out: it is for the Gaussian-remainder solver, which {chosen} is not")
    if guidance_scale is not None:
        chosen = replace(chosen, guidance_scale=guidance_scale)
    if moments is None:
        return chosen
    if isinstance(moments, Tensor):
        if moments.ndim < 2 or len(moments) < 2:
            raise UserError(f"moments must be of two data or more, (n, *shape), got {tuple(moments.shape)}")
        bad = int((~moments.isfinite()).sum())
        if bad or not moments.is_floating_point():
            what = f"{bad} of {moments.numel()} that are not" if bad else str(moments.dtype)
            raise UserError(f"moments must be of finite real numbers, got {what}")
        if not bool((moments != moments[:1]).any()):
            raise UserError(f"moments must be of data that differ, got {len(moments)} that are equal")
        moments = moments_from(moments.flatten(1).to("cpu", torch.float64), tuple(moments.shape[1:]))
    check_instance("moments", moments, GaussianFrame, "a GaussianFrame or a batch of data")
    return replace(chosen, frame=moments)


def shape_of(moments: GaussianFrame | Tensor | None) -> tuple[int, ...] | None:
    """The shape of the data that moments are of, as far as they say it; None without moments."""
    if moments is None:
        return None
    return tuple(moments.shape[1:]) if isinstance(moments, Tensor) else (len(moments.mean),)


def check_shape(moments: tuple[int, ...] | None, shape: tuple[int, ...]) -> None:
    """Refuse moments of data of another shape than the states of a pipeline; (D,) is of any with D numbers.

    Raises:
        UserError: with both shapes.
    """
    if moments is not None and moments not in (shape, (math.prod(shape),)):
        raise UserError(f"moments must be of data of shape {shape}, as this pipeline's states, got {moments}")
