"""``edit``: an image changed by a model, by a named method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, nearest, shown
from ..._registry import lookup
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import ScalarGaussian, require
from ...samplers import Sampler, create_sampler
from ..prepare import (
    as_mask,
    bound,
    fit_image,
    mask_of_images,
    mask_of_states,
    steps_below,
    to_states,
    value_range,
)
from .base import EditMethod, Request, composite


def create_method(method: str | EditMethod, **options: Any) -> EditMethod:
    """An editing method by its registered name, with its settings.

    Raises:
        UserError: for a name or a setting that is not known.
    """
    if isinstance(method, EditMethod):
        if options:
            raise UserError(f"options are of a method by its name, got {options} beside {method}")
        return method
    if not isinstance(method, str):
        raise UserError(f"method must be a name or a langevin.tasks.edit method, got {shown(method)}")
    make = lookup("edit", method).make
    known = inspect.signature(make).parameters
    for name in options:
        if name not in known:
            raise UserError(f"edit method {method!r} has no option {name!r}.{nearest(name, known)} {', '.join(known)}.")
    made: EditMethod = make(**options)
    return made


def default_method(mask: object) -> str:
    """The method that is taken where none is named."""
    return "sdedit" if mask is None else "blend"


def refuse_source(method: str | EditMethod, made: EditMethod, option: str = "source") -> None:
    """Refuse the condition that images have now for a method that does not ask for it.

    Raises:
        UserError: it names the option.
    """
    if not made.compares:
        raise UserError(f"{option} is not taken by method {method!r}; 'diffedit' and 'diffedit-fast' take it")


def edit(
    model: Denoiser,
    image: Tensor,
    *,
    mask: Tensor | None = None,
    strength: float = 2.0,
    method: str | EditMethod | None = None,
    options: Mapping[str, Any] | None = None,
    guide: Tensor | None = None,
    source: Mapping[str, Any] | None = None,
    steps: int = 50,
    sampler: Sampler | str | None = None,
    grid: str | None = None,
    guidance_scale: float = 1.0,
    n: int | None = None,
    seed: int = 0,
    noise: Noise | None = None,
    overlap: int | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
    **condition: Any,
) -> Tensor:
    """Change an image by a model: to a condition, inside a mask, from strokes.

    Args:
        model: a denoiser on a scalar-Gaussian process, or a latent model. An image larger than the model's own is
            edited in overlapping tiles (``denoisers.tiled``).
        image: ``(*shape)`` or ``(B, *shape)``, in the range of the data ([−1, 1] of pictures).
        mask: 1 (or True) where the image may change, somewhere at least, 0 where it stays: of the image's shape or
            broadcastable to it, ``(H, W)`` or ``(1, H, W)``, or one an image. Pixels outside it come back bit for bit.
            (The mask of ``operators.Inpaint`` is 1 where a pixel is known: 1 − this one.)
        strength: the noise level σ/α to which the image is taken, within the process's range: 0.5 changes texture, 2
            shapes, 10 leaves little. The steps are those of the grid of ``steps`` over the whole range that lie below
            it, after the level itself.
        method: a name (``langevin methods --category edit``) or an instance with its settings; ``"blend"`` with a mask
            and ``"sdedit"`` without one, if not given.
        options: settings of a method that is named.
        guide: where the edit starts from, in the image's shape: the image with strokes or another picture pasted into
            it; the image itself if not given.
        source: the condition that the image has now, for methods that compare (DiffEdit), as ``{"label": 8}``; none if
            not given.
        steps: of the whole grid.
        sampler: the rule or its name; the method's own if not given.
        grid: the name of a grid; that of the process if not given.
        guidance_scale: of classifier-free guidance by the condition.
        n: results of one image; 1 if not given.
        seed: of the noise; result i depends on (seed, i) alone.
        noise: instead of ``seed``, that of given samples.
        overlap: of tiles, in pixels.
        batch: images carried at a time, and tiles of one call.
        progress: called as ``progress(done, total)`` after each step.
        condition: what is asked for, by name: ``label=3``.

    Returns:
        ``(n or B, *shape)``, in the image's dtype.

    Raises:
        UserError: before any work, for an image or a mask of another size or range, a strength outside the process's
            range, a condition the model does not take, a source that the method has no use for.
    """
    method = default_method(mask) if method is None else method
    made = create_method(method, **(options or {}))
    if source:
        refuse_source(method, made)
    known = model.conditions() if isinstance(model, Denoiser) else ()
    for name in condition:
        if name not in known and name in inspect.signature(type(made)).parameters:
            raise UserError(f"{name} is a setting of the method and no condition: give it as options={{{name!r}: …}}")
    denoiser, x = fit_image(model, image, overlap=overlap, batch=batch)
    if n is not None and len(x) != 1:
        raise UserError(f"n must be left out for a batch of images, which have one result each; got {n}")
    x = x.expand(check_integer("n", n, 1), *x.shape[1:]) if n is not None else x
    count = len(x)
    start = x if guide is None else fit_image(model, guide, name="guide", like=x)[1].expand_as(x)
    free = as_mask(mask, x)
    if made.needs_mask and free is None:
        raise UserError(f"mask must be given for method {method!r}; 'sdedit' edits the whole image without one")
    require(denoiser.process, ScalarGaussian, "editing")
    asked = bound(denoiser, condition, guidance_scale)
    now = denoiser.given(dict(source)) if source else denoiser
    rule = create_sampler(sampler) if isinstance(sampler, str) else sampler
    times = steps_below(asked, rule or made.sampler(), strength, steps, grid)
    noise = Noise(seed, count) if noise is None else noise
    if len(noise) != count:
        raise UserError(f"noise is for {len(noise)} samples, but there are {count}")
    check_integer("batch", batch, 1)
    done, total = 0, count * (len(times) - 1) * made.passes

    parts = []
    with torch.no_grad():
        for first in range(0, count, batch):
            rows = slice(first, min(first + batch, count))
            some = x[rows]

            def told(amount: int = len(some)) -> None:
                nonlocal done
                done += amount
                if progress is not None:
                    progress(done, total)

            inside = None if free is None else free[rows] if len(free) > 1 else free
            codes, coded_guide = to_states(model, denoiser, some), to_states(model, denoiser, start[rows])
            request = Request(
                asked.rows(rows),
                now.rows(rows),
                denoiser.rows(rows),
                codes,
                coded_guide,
                None if inside is None else mask_of_states(inside, codes),
                times,
                rule,
                noise.rows(rows).to(denoiser.device),
                told,
                guidance_scale,
            )
            state, changed = made(request)
            out = denoiser.read(state).to("cpu", some.dtype)
            low, high = value_range(model)
            out = out if low is None else out.clamp(low, high)
            changed = None if changed is None else mask_of_images(changed.cpu(), out)
            if inside is not None and changed is not None:
                changed = changed & inside
            parts.append(composite(changed if changed is not None else inside, out, some))
    return torch.cat(parts)
