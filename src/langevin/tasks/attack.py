"""Attacks on a classifier, through whatever stands before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from ..distributions import Noise, Stream

NORMS = ("linf", "l2")
"""Balls in which an image may move, by name."""


@register(
    "tasks",
    "pgd",
    title="PGD attack, with the expectation over noise",
    arxiv="1706.06083, 1707.07397",
    proof="exact: tests/tasks/test_purify.py",
)
def pgd(
    predict: Callable[[Tensor, Noise], Tensor],
    x: Tensor,
    label: Tensor,
    *,
    radius: float,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 20,
    step_size: float | None = None,
    samples: int = 1,
    low: float | None = -1.0,
    high: float | None = 1.0,
    seed: int = 0,
) -> Tensor:
    r"""Projected gradient ascent on the cross-entropy (arXiv:1706.06083 eq. 1), from a random start in the ball:

    .. math:: x \leftarrow Π\left(x + a\,u\left(∇_x \tfrac1m \sum_{i} -\log p(y | x, z_i)\right)\right)

    with u the sign in L∞ and the unit vector in L2. Against a defence that draws noise z the gradient is the mean over
    ``samples`` draws, new ones each step (the expectation over transformations, arXiv:1707.07397 eq. 3): the attack is
    adaptive if ``predict`` goes through the defence, and a transfer attack if it does not.

    Args:
        predict: logits ``(B, K)`` of images and the noise of a draw, differentiable in the images.
        x: ``(B, *shape)``.
        label: the true classes, int64 ``(B,)``.
        radius: of the ball, > 0, in the units of x (a pixel's 1/255 is 2/255 in [−1, 1]).
        norm: ``"linf"`` or ``"l2"``.
        steps: of the ascent, ≥ 1.
        step_size: a; 2.5·radius/steps if not given.
        samples: m ≥ 1.
        low, high: of the data; None for none.
        seed: of the start and of the draws.

    Returns:
        ``(B, *shape)``, each in the ball around its x and in the range.
    """
    check_numbers(radius=radius)
    if norm not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if not radius > 0:
        raise UserError(f"radius must be > 0, got {radius}")
    check_integer("steps", steps, 1)
    check_integer("samples", samples, 1)
    if not isinstance(label, Tensor) or label.shape != x.shape[:1] or label.is_floating_point():
        raise UserError(f"label must be int64 ({len(x)},), got {shown(label)}")
    size = 2.5 * radius / steps if step_size is None else step_size
    noise = Noise(seed, len(x))
    flat = lambda v: v.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (v.ndim - 1))

    def inside(moved: Tensor) -> Tensor:
        change = moved - x
        change = change.clamp(-radius, radius) if norm == "linf" else change * (radius / flat(change)).clamp_max(1)
        moved = x + change
        return moved if low is None else moved.clamp(low, high)

    begin = noise.fold_in(Stream.BEGIN).uniform(tuple(x.shape[1:])).to(x) * 2 - 1
    made = inside(x + radius * begin)
    for step in range(steps):
        made = made.detach().requires_grad_()
        with torch.enable_grad():
            gradient = torch.zeros_like(made)
            for draw in range(samples):
                logits = predict(made, noise.fold_in(Stream.DEFENCE + step * samples + draw))
                loss = torch.nn.functional.cross_entropy(logits, label, reduction="sum") / samples
                gradient = gradient + torch.autograd.grad(loss, made)[0]
        up = gradient.sign() if norm == "linf" else gradient / flat(gradient)
        made = inside(made.detach() + size * up)
    return made.detach()
