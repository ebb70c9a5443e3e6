"""Null-text optimisation: what the unconditional side is told is learned, a step, so that guidance keeps to a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..._errors import UserError, check_integer, check_numbers
from ..._registry import register
from ...denoisers import Denoiser, NetworkDenoiser, Transform
from ...distributions import Distribution, Noise
from ...guidance import LinearPooling
from ...samplers import Sampler, State

ABSENT = "conditioning.no_caption"
"""The parameter of a network that stands in the place of a caption where there is none."""

RATE = 0.3
"""Of Adam, at the first iteration; it falls linearly to a tenth at the last."""


class NullNetwork(nn.Module):
    """A network whose samples without a caption are each told a vector of their own in place of the learned one.

    Args:
        network: of ``langevin.nn``, told captions.
        null: ``(B, width)``; a call of k·B samples repeats it k times.
    """

    def __init__(self, network: nn.Module, null: Tensor) -> None:
        super().__init__()
        self.network = network
        self.__dict__["null"] = null

    @property
    def config(self) -> Any:
        """The configuration of the network inside."""
        return getattr(self.network, "config", {})

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        null: Tensor = self.__dict__["null"]
        told = null.repeat(len(x) // len(null), 1)
        out: Tensor = functional_call(self.network, {ABSENT: told}, (x, time, condition))
        return out


def _sides(guided: Denoiser) -> tuple[NetworkDenoiser, ...]:
    """The unconditional and the conditional side of guidance.

    Raises:
        UserError: for what is no classifier-free guidance of one network that is told captions.
    """
    parts = tuple(part.belief_of for part in guided.parts) if isinstance(guided, LinearPooling) else ()
    sides = tuple(part for part in parts if isinstance(part, NetworkDenoiser))
    alike = len(sides) == 2 == len(parts) and sides[0].network is sides[1].network
    if not alike or "caption" in sides[0].condition or "caption" not in sides[1].condition:
        raise UserError(
            "null-text optimisation is of classifier-free guidance by a caption, with a scale other than 1 and no "
            "negative condition"
        )
    if ABSENT not in dict(sides[0].network.named_parameters()):
        raise UserError(
            f"null-text optimisation needs a network of langevin.nn that is told captions, got "
            f"{type(sides[0].network).__name__}"
        )
    return sides


def _told(guided: Denoiser, null: Tensor) -> Denoiser:
    """The guided denoiser, its unconditional side told ``null`` ``(B, width)``."""
    sides = _sides(guided)
    network = NullNetwork(sides[0].network, null)
    return replace(guided, parts=tuple(side.replaced(network=network) for side in sides))  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class NullText(Transform):
    """A guided denoiser whose unconditional side is told another vector at each time.

    Attributes:
        base: classifier-free guidance by captions.
        null: by time, ``(B, width)``, as ``null_text`` finds them.
    """

    null: Mapping[float, Tensor]

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        null = self.null.get(float(t)) if not isinstance(t, Tensor) or not t.ndim else None
        if null is None:
            raise UserError(
                f"null-text was optimised for the steps of a grid, and t = {t} is none of its times: take the sampler "
                "and the grid that it was optimised with"
            )
        return _told(self.base, null)(x_t, t)

    def rows(self, index: slice | Tensor) -> Denoiser:
        return NullText(self.base.rows(index), {t: null[index] for t, null in self.null.items()})


def with_null(guided: Denoiser, null: Mapping[float, Tensor]) -> Denoiser:
    """A guided denoiser whose unconditional side is told what ``null_text`` found, at the times of its grid.

    Args:
        guided: classifier-free guidance by captions, ``B`` samples.
        null: by time, ``(B, width)``.
    """
    _sides(guided)
    return NullText(guided, null)


@register(
    "tasks",
    "null-text",
    title="Null-text optimisation",
    arxiv="2211.09794",
    proof="exact: tests/tasks/test_null_text.py",
)
def null_text(
    guided: Denoiser,
    image: Tensor,
    path: Sequence[State],
    sampler: Sampler,
    grid: Tensor,
    iterations: int = 10,
    *,
    rate: float = RATE,
    tolerance: float = 1e-6,
) -> dict[float, Tensor]:
    r"""What the unconditional side is told at each step, so that guided steps keep to the path of an inversion.

    Mokady et al. 2022, arXiv:2211.09794 alg. 1: from the highest state of the path, :math:`\bar x_T = x^\ast_T`, at
    each step

    .. math:: ∅_t = \arg\min_∅ \| x^\ast_s - \mathrm{step}(\bar x_t, ∅, C) \|^2, \qquad
        \bar x_s = \mathrm{step}(\bar x_t, ∅_t, C)

    by Adam, begun at the vector of the step before. Where the paper's model is told the tokens of an empty text, ours
    has a learned vector that stands for an absent caption; that vector is what is learned, for each sample its own. The
    best of the iterates is kept, the first one among them, so that no step comes out further from the path for it; a
    sample that has reached the tolerance stays as it is, whatever others need.

    Args:
        guided: classifier-free guidance by the caption of the image.
        image: clean states ``(B, *shape)``, where the last step should end.
        path: of the inversion under that caption, from the smallest time up (``samplers.encoded``).
        sampler: a deterministic rule without a memory that asks its model once a step, as ``DDIM``.
        grid: its times, downwards to 0.
        iterations: of a step; each is a call of the network and its gradient.
        rate: of Adam.
        tolerance: mean square distance from the path at which a step is good enough.

    Returns:
        ``(B, width)`` by the time of each step, for ``with_null``.

    Raises:
        UserError: for what is no guidance by a caption, a path of other times.
    """
    check_integer("iterations", iterations, 0)
    check_numbers(rate=rate, tolerance=tolerance)
    network = _sides(guided)[0].network
    known = {float(state.t): state.x for state in path}
    times = grid.unbind()
    if any(float(t) not in known for t in times[:-1]):
        raise UserError("path must have a state at every time of the grid but the last: take that of samplers.encoded")
    process = guided.process
    rule = sampler.for_model(guided).plan(process, grid)
    noise = Noise(0, len(image)).to(image.device)
    first = dict(network.named_parameters())[ABSENT]
    null = first.detach().expand(len(image), *first.shape).clone()
    x, found = known[float(times[0])], {}
    for i, (t, s) in enumerate(pairwise(times), 1):
        want = known.get(float(s), image)

        def end(value: Tensor, x: Tensor = x, t: Tensor = t, s: Tensor = s, i: int = i) -> Tensor:
            moved = rule.step(State(x, t), s, _told(guided, value), noise.step(i))
            if moved.memory is not None:
                raise UserError(f"sampler must be one without a memory for null-text optimisation, got {sampler}")
            return moved.x

        null, x = _optimised(end, null, want.to(x), iterations, rate, tolerance)
        found[float(t)] = null
    return found


def _optimised(
    end: Any, null: Tensor, want: Tensor, iterations: int, rate: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The best vectors, and where they lead, each sample for itself."""
    value = null.clone()
    best, least, reached = null, torch.full((len(null),), torch.inf, device=null.device), want
    optimiser = torch.optim.Adam([value], rate)
    for i in range(iterations + 1):
        learning = i < iterations
        value.requires_grad_(learning)
        with torch.set_grad_enabled(learning):
            x = end(value)
            missed = (x - want).flatten(1).square().mean(1)
            total = missed.sum()
        better = (missed.detach() < least) & (least > tolerance)
        best, reached = _picked(better, value, best), _picked(better, x, reached)
        least = torch.where(better, missed.detach(), least)
        if not learning or bool((least <= tolerance).all()):
            break
        (value.grad,) = torch.autograd.grad(total, [value])
        optimiser.param_groups[0]["lr"] = rate * (1 - 0.9 * i / max(iterations - 1, 1))
        optimiser.step()
    return best, reached


def _picked(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new.detach(), old)
