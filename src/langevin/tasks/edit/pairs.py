"""Two captions on the same noise: one belief about pairs of states, and a sampler that keeps pairs alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import UserError
from ...denoisers import Denoiser, NetworkDenoiser, Transform
from ...distributions import Distribution, Noise
from ...nn.attention_control import controllable, controlled
from ...processes import Process
from ...samplers import Sampler, State
from ...samplers.loop import Composite
from .attention import AttentionEdit, AttentionMaps, of_tokens


def networks(denoiser: Denoiser) -> list[nn.Module]:
    """The networks that a denoiser asks, each once.

    Raises:
        UserError: for one without a network, or with a network whose attention cannot be controlled.
    """
    found = list(dict.fromkeys(_networks(denoiser)))
    if not found:
        raise UserError(f"model must be a network's, whose attention is replaced, got {type(denoiser).__name__}")
    for network in found:
        controllable(network)
    return found


def _networks(denoiser: Denoiser) -> Iterator[nn.Module]:
    denoiser = denoiser.belief_of
    if isinstance(denoiser, NetworkDenoiser):
        yield denoiser.network
    for child in denoiser.children:
        yield from _networks(child)


@dataclass(frozen=True, eq=False)
class PairedDenoiser(Transform):
    """The belief about pairs of states, sources and targets in turn, with the source's attention given to the target.

    States are ``(2P, *state)``: row 2i belongs to the source of pair i, row 2i + 1 to its target, and what ``base`` has
    bound is in the same order. It is a denoiser like any other, for every sampler: on the same noise for both of a pair
    (``Noise(seed, index)`` with every index twice) with any number of rows that is even.

    Attributes:
        base: under both captions, guided or not.
        edit: what the target's attention is made of.
        cross_until: the attention to captions is replaced at times above this.
        own_until: the attention of pictures to themselves is replaced at times above this. A solver that asks at the
            end of its step too, as Heun's, is at this very time in the last of these steps, where nothing is replaced.
        maps: where the attention before it is replaced is counted; None for nowhere.
    """

    edit: AttentionEdit
    cross_until: float
    own_until: float
    maps: AttentionMaps | None = None

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        if len(x_t) % 2:
            raise UserError(f"x_t must have a source and a target in turn, an even number of rows, got {len(x_t)}")
        if isinstance(t, Tensor) and t.ndim:
            raise UserError(f"t must be one time for all pairs, got shape {tuple(t.shape)}")
        cross, own = float(t) > self.cross_until, float(t) > self.own_until
        with ExitStack() as controls:
            for number, network in enumerate(networks(self.base)):
                told: list[Tensor] = []

                def control(
                    layer: str, weights: Tensor, keys: int, told: list[Tensor] = told, number: int = number
                ) -> Tensor:
                    if weights.shape[-1] == keys:  # the picture reads itself alone
                        return self.edit.of_picture(weights, told[-1], own)
                    if self.maps is not None:
                        self.maps.add(f"{number}.{layer}", weights, told[-1])
                    return self.edit(weights, told[-1], cross, own)

                note = lambda module, given, told=told: told.append(told_captions(*given))
                controls.callback(network.register_forward_pre_hook(note).remove)
                controls.enter_context(controlled(network, control))
            return self.base(x_t, t)

    def rows(self, index: slice | Tensor) -> Denoiser:
        rows = torch.arange(index.stop or 0)[index] if isinstance(index, slice) else index
        if len(rows) % 2 or not bool((rows[1::2] == rows[0::2] + 1).all()) or bool((rows[0::2] % 2).any()):
            raise UserError(f"pairs must stay together: an even number of rows at a time, got {rows.tolist()[:8]}")
        return replace(self, base=self.base.rows(index), edit=self.edit.rows(rows[0::2] // 2))


def told_captions(x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
    """Which samples of a call of a network are told a caption, bool ``(B,)``."""
    caption = None if condition is None else condition.get("caption")
    if caption is None:
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return ~caption[:, 0].isnan() if caption.is_floating_point() else (caption >= 0).any(1)


def interleaved(source: Mapping[str, Any], target: Mapping[str, Any], pairs: int) -> dict[str, Tensor]:
    """Two sets of conditions of one or P rows each, as one of 2P rows, sources and targets in turn.

    Captions of two lengths are made one length, with tokens that are absent.

    Raises:
        UserError: for conditions of two names.
    """
    if set(source) != set(target):
        raise UserError(f"source and target must be told the same conditions, got {sorted(source)}, {sorted(target)}")
    both = {}
    for name, old in source.items():
        new = target[name]
        if name == "caption":
            length = max(old.shape[1], new.shape[1])
            old, new = (F.pad(tokens, (0, length - tokens.shape[1]), value=-1) for tokens in (old, new))
        old, new = (each.expand(pairs, *each.shape[1:]) for each in (old, new))
        both[name] = torch.stack([old, new], 1).flatten(0, 1)
    return both


@dataclass(frozen=True, eq=False)
class LocalBlend(Composite):
    r"""A sampler of pairs whose targets are their sources outside of where a word looks (arXiv:2208.01626 §3.2).

    .. math:: x^\ast_s \leftarrow m \odot x^\ast_s + (1 - m) \odot x_s, \qquad
        m = \mathbb 1[\bar A_w > k \max \bar A_w] \cup \mathbb 1[\bar A^\ast_w > k \max \bar A^\ast_w]

    with :math:`\bar A_w` the mean attention of the steps so far to the words w that change, over heads and layers, and
    the mask as large as the state by bilinear interpolation.

    Attributes:
        sampler: the step.
        maps: that the paired denoiser counts in; of these pairs alone.
        before, after: the tokens of the words in the sources and in the targets, bool ``(P or 1, L)``.
        threshold: k in (0, 1).
    """

    sampler: Sampler
    maps: AttentionMaps
    before: Tensor
    after: Tensor
    threshold: float

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.sampler,)

    def with_parts(self, *parts: Sampler) -> LocalBlend:
        return replace(self, sampler=parts[0])

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.sampler.default_grid(process, steps)

    def mask(self, size: tuple[int, int]) -> Tensor:
        """m, bool ``(P, 1, height, width)``."""
        return blend_mask(self.maps.mean(), self.before, self.after, self.threshold, size)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        moved = self.sampler.step(state, s, denoiser, noise)
        if not self.maps.seen:  # a step that asked the model for nothing
            return moved
        source, target = moved.x[0::2], moved.x[1::2]
        free = self.mask((source.shape[-2], source.shape[-1])).to(source.device)
        return replace(moved, x=torch.stack([source, torch.where(free, target, source)], 1).flatten(0, 1))


def blend_mask(maps: Tensor, before: Tensor, after: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """Where words look in either picture of a pair, bool ``(P, 1, *size)``, of maps ``(2P, L, h, w)``."""
    found = torch.zeros(len(maps) // 2, 1, *size, dtype=torch.bool, device=maps.device)
    for own, tokens in ((maps[0::2], before), (maps[1::2], after)):
        seen = F.interpolate(of_tokens(own, tokens)[:, None], size, mode="bilinear", align_corners=False)
        top = seen.flatten(1).amax(1).view(-1, 1, 1, 1)
        found |= (seen > threshold * top) & (top > 0)
    return found
