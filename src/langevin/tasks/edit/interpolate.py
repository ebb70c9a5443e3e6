"""Between two images, through their latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...samplers import Sampler, decode, encode, lerp, slerp
from ..prepare import bound, fit_image, to_states, value_range

PATHS = {"slerp": slerp, "lerp": lerp}
"""Paths between latents, by name."""


@register(
    "tasks",
    "interpolate",
    title="Interpolation of latents",
    arxiv="2010.02502",
    proof="exact: tests/tasks/test_edit.py, tests/samplers/test_inversion.py",
)
def interpolate(
    model: Denoiser,
    a: Tensor,
    b: Tensor,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    path: str = "slerp",
    steps: int = 50,
    sampler: Sampler | None = None,
    fixed_point: int = 0,
    **condition: Any,
) -> Tensor:
    """Images between two, by DDIM's latents (arXiv:2010.02502 §5.3): encoded, interpolated, decoded.

    Args:
        model: a denoiser on a scalar-Gaussian process, or a latent model.
        a, b: images ``(*shape)``.
        shares: of the way from a to b, each in [0, 1].
        path: ``"slerp"`` keeps the norm of normal latents, ``"lerp"`` does not.
        steps, sampler, fixed_point: as of ``samplers.encode``; with ``fixed_point`` the ends are a and b themselves.
        condition: under which both are encoded and decoded.

    Returns:
        ``(len(shares), *shape)``.
    """
    if path not in PATHS:
        raise UserError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    where = torch.as_tensor(list(shares), dtype=torch.float64)
    if where.ndim != 1 or not len(where) or not bool(((where >= 0) & (where <= 1)).all()):
        raise UserError(f"shares must be numbers in [0, 1], got {shares}")
    denoiser, one = fit_image(model, a, name="a")
    two = fit_image(model, b, name="b", like=one)[1]
    if len(one) != 1 or len(two) != 1:
        raise UserError(f"a and b must be one image each, got {len(one)} and {len(two)}")
    told = bound(denoiser, condition)
    with torch.no_grad():
        both = to_states(model, denoiser, torch.cat([one, two]))
        z = encode(told, both, steps=steps, sampler=sampler, fixed_point=fixed_point)
        first, second = (part.expand(len(where), *z.shape[1:]) for part in z.split(1))
        ends = decode(told, PATHS[path](first, second, where), steps=steps, sampler=sampler)
        made = denoiser.read(ends)
    low, high = value_range(model)
    made = made.to("cpu", a.dtype)
    return made if low is None else made.clamp(low, high)
