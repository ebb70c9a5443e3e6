"""Mean and covariance of what a pipeline draws, from its own predictions."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ...numerics.frame import GaussianFrame
from ...samplers import moments_from
from .scheduler import Scheduler


def estimate_moments(pipe: Any, n: int = 64, *, steps: int = 12, seed: int = 0, **call: Any) -> GaussianFrame:
    """The moments that the default solver is better for, estimated once from n draws of the pipeline itself.

    The pipeline is called as often as n asks for, with the default solver, and the states that it ends with are taken:
    of a latent pipeline these are latents, whatever it makes of them afterwards. Guidance is off where the pipeline
    takes a ``guidance_scale`` and none is given, since what is drawn under guidance is not of the data's law.

    Args:
        pipe: a pipeline of diffusers; its scheduler is put back.
        n: draws, at least 2; the more, the finer the scales that are told apart (``samplers.estimate_moments``).
        steps: evaluations for each.
        seed: of the pipeline's generator, one more for each call.
        call: what the pipeline is called with: ``prompt=[…]``, ``num_images_per_prompt=8``, ``batch_size=8``.

    Returns:
        The frame to give as ``Scheduler.from_config(…, moments=frame)``.

    Raises:
        UserError: for arguments that are chosen here, and for pipelines whose states change shape from call to call.
    """
    check_integer("n", n, 2)
    for name in {"generator", "num_inference_steps"} & call.keys():
        raise UserError(f"{name} must be left out: seed and steps say it")
    if "guidance_scale" in inspect.signature(type(pipe).__call__).parameters:
        call.setdefault("guidance_scale", 1.0)
    scale = max(1.0, float(call.get("guidance_scale", 1.0)))
    own = pipe.scheduler
    drawn: list[Tensor] = []
    try:
        while sum(len(x) for x in drawn) < n:
            pipe.scheduler = scheduler = Scheduler.from_config(own.config, grid="own", guidance_scale=scale)
            ended = _watch(scheduler)
            pipe(**call, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed + len(drawn)))
            drawn.append(ended[-1].flatten(1).to("cpu", torch.float64))
    finally:
        pipe.scheduler = own
    if len({x.shape[1] for x in drawn}) > 1:
        raise UserError("the pipeline's states must have one shape; give the size of its pictures")
    return moments_from(torch.cat(drawn)[:n], tuple(ended[-1].shape[1:]))


def _watch(scheduler: Any) -> list[Tensor]:
    """A list whose last entry is the state after the last step."""
    seen: list[Tensor] = []
    step = scheduler.step

    @functools.wraps(step)  # pipelines look at its arguments
    def watched(*args: Any, **settings: Any) -> Any:
        out = step(*args, **settings)
        seen[:] = [out[0]]
        return out

    scheduler.step = watched
    return seen
