"""DiffPure: adversarial changes drown in noise, and the model comes back to clean data without them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian, require
from ..samplers import Ancestral, Sampler, create_sampler, trajectory
from .prepare import bound, fit_image, steps_below, value_range


def check_model(model: Denoiser) -> None:
    """Refuse a latent model.

    Raises:
        UserError: for a model of codes, which an image would be encoded into.
    """
    if model.autoencoder is not None:
        raise UserError(
            "model must be of the images themselves to purify them, got one of codes: its codec alone changes an image "
            "by more than what is to be taken out"
        )


@register(
    "tasks",
    "purify",
    title="DiffPure",
    arxiv="2205.07460",
    proof="exact: tests/tasks/test_purify.py; data: benchmarks/purify.py",
)
def purify(
    model: Denoiser,
    x: Tensor,
    *,
    strength: float = 0.5,
    steps: int = 20,
    sampler: Sampler | str | None = None,
    grid: str | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
    noise: Noise | None = None,
    overlap: int | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
    **condition: Any,
) -> Tensor:
    r"""Noise to a level and the reverse SDE back (Nie et al. 2022, arXiv:2205.07460 eq. 4–5):

    .. math:: x_t = α_t x + σ_t z, \qquad \hat x_0 \sim p(x_0 | x_t)

    Differentiable from end to end in x where gradients are on: an adaptive attack goes through the sampler. Of data of
    the model's law, by its exact belief, what comes out has that law again.

    Args:
        model: a denoiser on a scalar-Gaussian process; images larger than its own go through in tiles.
        x: ``(B, *shape)`` or ``(*shape)``, in the range of the data.
        strength: the noise level σ/α; enough to drown the change, too little to lose the class.
        steps: of the whole grid; those below the level are taken.
        sampler: the rule or its name; ancestral if not given.
        grid: the name of a grid.
        guidance_scale: of classifier-free guidance by a condition.
        seed: of the noise: sample i depends on (seed, i).
        noise: instead of ``seed``, that of given samples; its draws are this call's.
        overlap, batch: of tiles, and images carried at a time.
        progress: called as ``progress(done, total)``.
        condition: by name, if one is to be told.

    Returns:
        ``(B, *shape)``, in x's dtype, not clipped where gradients are on: a clip has none.
    """
    denoiser, seen = fit_image(model, x, name="x", overlap=overlap, batch=batch)
    check_model(model)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "purify")
    told = bound(denoiser, condition, guidance_scale)
    rule: Sampler = Ancestral() if sampler is None else create_sampler(sampler) if isinstance(sampler, str) else sampler
    times = steps_below(told, rule, strength, steps, grid)
    noise = Noise(seed, len(seen)) if noise is None else noise
    if len(noise) != len(seen):
        raise UserError(f"noise is for {len(noise)} samples, but there are {len(seen)}")
    check_integer("batch", batch, 1)
    through = torch.is_grad_enabled() and x.requires_grad
    whole = x[None] if x.ndim == seen.ndim - 1 else x
    done, total, parts = 0, len(seen) * (len(times) - 1), []
    with contextlib.nullcontext() if through else torch.no_grad():
        for first in range(0, len(seen), batch):
            rows = slice(first, min(first + batch, len(seen)))
            part = noise.rows(rows).to(denoiser.device)
            clean = whole[rows].to(denoiser.device, torch.promote_types(denoiser.dtype, torch.float32))
            start = process.marginal(clean, times[0]).sample(part.fold_in(Stream.RAISED)).to(clean)
            states = trajectory(told.rows(rows), rule, grid=times, start=start, noise=part)
            state = next(states)
            for state in states:  # noqa: B007 (the last one is the result)
                done += len(part)
                if progress is not None:
                    progress(done, total)
            parts.append(denoiser.read(state.x).to(whole))
    made = torch.cat(parts)
    low, high = value_range(model)
    return made if through or low is None else made.clamp(low, high)
