"""What the tasks on images have in common: images and masks checked, models fitted to them, the steps below a level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer, shown
from ..denoisers import Denoiser, check_is_denoiser, tiled
from ..models.conditional import bind
from ..processes.grids import cut, time_of_level
from ..samplers import Sampler, default_grid, resolve

BEYOND = 1e-3
"""How far an image may leave the range of the model's data, as a share of it."""


def steps_below(
    denoiser: Denoiser, rule: Sampler, strength: float, steps: int, grid: str | None = None, name: str = "strength"
) -> Tensor:
    """The times from a noise level down to 0: the level's own, and those of the grid of ``steps`` that lie below it.

    Args:
        denoiser: with its process.
        rule: whose own grid is taken, if it has one and none is named; else that of the process.
        strength: σ/α.
        steps: of the whole grid.
        grid: its registered name.
        name: of the argument that says the level, for messages.
    """
    start = time_of_level(denoiser.process, strength, name)
    check_integer("steps", steps, 1)
    own = (
        rule.default_grid(denoiser.process, steps)
        if grid is None
        else resolve(denoiser, rule, steps=steps, grid=grid).grid
    )
    return cut(default_grid(denoiser.process, steps) if own is None else own, start)


def bound(denoiser: Denoiser, condition: Mapping[str, Any], guidance_scale: float = 1.0) -> Denoiser:
    """A denoiser under a condition, guided by it."""
    return bind(denoiser, condition, guidance_scale)


def value_range(model: Denoiser) -> tuple[float | None, float | None]:
    """The range of a model's data; None where it has none."""
    low, high = (None, None) if model.output is None else (model.output.low, model.output.high)
    return (None, None) if low is None or high is None else (float(low), float(high))


def fit_image(
    model: Denoiser,
    image: Tensor,
    *,
    name: str = "image",
    like: Tensor | None = None,
    overlap: int | None = None,
    batch: int = 64,
) -> tuple[Denoiser, Tensor]:
    """The denoiser for images of this size, tiled if they are larger than the model's, and the images ``(B, *shape)``.

    Raises:
        UserError: for what is no image of this model.
    """
    check_is_denoiser(model, "model")
    if len(model.stages) != 1:
        raise UserError("model must be one denoiser; a cascade has no belief as a whole: take one of its stages")
    shape = model.output_shape
    if not isinstance(image, Tensor) or not image.is_floating_point():
        raise UserError(f"{name} must be a floating tensor, got {shown(image)}")
    if image.ndim not in (len(shape), len(shape) + 1) or not image.numel():
        raise UserError(
            f"{name} must have shape {shape} or (B, {', '.join(map(str, shape))}), got {tuple(image.shape)}"
        )
    x = image.detach().cpu()
    x = x[None] if x.ndim == len(shape) else x
    if not bool(x.isfinite().all()):
        raise UserError(f"{name} must be finite, got {int((~x.isfinite()).sum())} numbers that are not")
    low, high = value_range(model)
    if low is not None and high is not None:
        room = BEYOND * (high - low)
        if float(x.min()) < low - room or float(x.max()) > high + room:
            raise UserError(
                f"{name} must lie in [{low:g}, {high:g}], the range of the model's data, got values from "
                f"{float(x.min()):.4g} to {float(x.max()):.4g}"
            )
    if like is not None and (x.shape[1:] != like.shape[1:] or len(x) not in (1, len(like))):
        raise UserError(f"{name} must have the shape of the image, {tuple(like.shape[1:])}, got {tuple(image.shape)}")
    if tuple(x.shape[1:]) == shape:
        return model, x
    larger = len(shape) == 3 and x.shape[1] == shape[0] and x.shape[2] >= shape[1] and x.shape[3] >= shape[2]
    if not larger or model.autoencoder is not None:
        also = f", or images ({shape[0]}, H, W) of at least that size" if len(shape) == 3 else ""
        raise UserError(f"{name} must have the model's shape {shape}{also}, got {tuple(image.shape)}")
    return tiled(model, tuple(x.shape[1:]), overlap, batch=batch), x


def as_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask as bool ``(1 or B, *shape)``.

    Raises:
        UserError: for one of another size, with values that are neither 0 nor 1, or 0 everywhere.
    """
    if mask is None:
        return None
    accepted = "a tensor of 0 and 1 (1 where the image may change)"
    if not isinstance(mask, Tensor):
        raise UserError(f"mask must be {accepted}, got {shown(mask)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(f"mask must be {accepted}, got other values")
    if not bool(mask.any()):
        raise UserError("mask is 0 everywhere: nothing may change. It must be 1 where the image may change")
    free = mask.detach().cpu().to(torch.bool)
    free = free if free.ndim == x.ndim else free[None]
    try:
        fits = free.ndim <= x.ndim and torch.broadcast_shapes(tuple(free.shape), tuple(x.shape)) == tuple(x.shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise UserError(f"mask must have the shape of the image, {tuple(x.shape[1:])}, got {tuple(mask.shape)}")
    while free.ndim < x.ndim:
        free = free[:, None]
    return free.expand(-1, *x.shape[1:])


def to_states(model: Denoiser, denoiser: Denoiser, x: Tensor) -> Tensor:
    """Images as clean states: themselves, or the codes of a latent model."""
    dtype = torch.promote_types(denoiser.dtype, torch.float32)
    codec = model.autoencoder
    if codec is not None:
        x = codec.encode(x.to(codec.device, codec.dtype)).mean
    return x.to(denoiser.device, dtype)


def mask_of_states(free: Tensor, states: Tensor) -> Tensor:
    """A mask of images for their codes: a code may change where any of its pixels may (arXiv:2206.02779 §4.1)."""
    if free.shape[1:] != states.shape[1:]:
        any_channel = free.any(1, keepdim=True).to(torch.float32)
        small = torch.nn.functional.adaptive_max_pool2d(any_channel, tuple(states.shape[2:]))
        free = (small > 0).expand(-1, *states.shape[1:])
    return free.to(states.device)


def mask_of_images(free: Tensor, images: Tensor) -> Tensor:
    """A mask of codes for the images they are of: a pixel may change where its code may."""
    if free.shape[1:] != images.shape[1:]:
        large = torch.nn.functional.interpolate(free.any(1, keepdim=True).float(), tuple(images.shape[2:]))
        free = (large > 0).expand(-1, *images.shape[1:])
    return free
