"""Images larger than a model's: a belief made of the model's beliefs about overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer, shown
from .._registry import register
from ..distributions import Dirac, Distribution
from .base import Denoiser, Derived, check_is_denoiser
from .conditions import as_condition

PICTURES = ("image", "mask")
"""Conditions that belong to places of the image, and are cut as it is."""


@dataclass(frozen=True, eq=False)
class Tiled(Derived):
    """See ``tiled``."""

    base: Denoiser
    whole: tuple[int, ...]
    overlap: tuple[int, int]
    batch: int
    pictures: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole

    @property
    def data(self) -> None:
        return None  # the description is of data of the tiles' size

    @property
    def output(self) -> None:
        return None

    @property
    def class_label(self) -> int | None:
        return None  # it chooses moments of a class, which are of the tiles' size too

    @property
    def learned_variances(self) -> Mapping[str, Any]:
        return {}

    def conditions(self) -> tuple[str, ...]:
        return self.base.conditions()

    def _bind(self, condition: dict[str, Any]) -> Tiled:
        rest, pictures = dict(condition), dict(self.pictures)
        for name in PICTURES:
            if name not in rest:
                continue
            value = rest.pop(name)
            pictures.pop(name, None)
            if value is None:
                continue
            whole = torch.as_tensor(value)
            if tuple(whole.shape[-2:]) != self.shape[1:]:
                raise UserError(
                    f"{name} must be of the size of the tiled image, {self.shape[1]} × {self.shape[2]}, since it is "
                    f"cut into tiles with it, got shape {tuple(whole.shape)}"
                )
            size = self.base.condition_sizes.get(name, whole.shape[-3] if whole.ndim > 2 else 1)
            pictures[name] = as_condition(name, whole, size, self.device, self.dtype)
        return replace(self, base=self.base.given(rest) if rest else self.base, pictures=pictures)

    def rows(self, index: slice | Tensor) -> Tiled:
        cut = {name: value if len(value) == 1 else value[index] for name, value in self.pictures.items()}
        return replace(self, base=self.base.rows(index), pictures=cut)

    @cached_property
    def places(self) -> list[tuple[slice, slice]]:
        """Where the tiles lie, row by row."""
        rows, columns = (
            [slice(a, a + tile) for a in starts(size, tile, overlap)]
            for size, tile, overlap in zip(self.shape[1:], self.base.shape[1:], self.overlap)
        )
        return [(row, column) for row in rows for column in columns]

    @cached_property
    def windows(self) -> list[Tensor]:
        """The share of each tile in the mean, float64 ``(h, w)``; those of a pixel sum to 1."""
        ramps = [ramp(tile, overlap) for tile, overlap in zip(self.base.shape[1:], self.overlap)]
        window = ramps[0][:, None] * ramps[1]
        total = torch.zeros(self.shape[1:], dtype=torch.float64)
        for place in self.places:
            total[place] += window
        return [window / total[place] for place in self.places]

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != self.shape:
            raise UserError(f"x_t must have shape (B, {', '.join(map(str, self.shape))}), got {shown(x_t)}")
        count = len(x_t)
        tiles = [(i, b) for i in range(len(self.places)) for b in range(count)]
        mean = torch.zeros_like(x_t)
        windows = [w.to(x_t) for w in self.windows]
        for first in range(0, len(tiles), self.batch):
            chunk = tiles[first : first + self.batch]
            rows = torch.tensor([b for _, b in chunk])
            cut = lambda whole, chunk=chunk: torch.stack(
                [(whole[b] if len(whole) > 1 else whole[0])[(..., *self.places[i])] for i, b in chunk]
            )
            base = self.base.rows(rows)
            if self.pictures:
                base = base.given({name: cut(value) for name, value in self.pictures.items()})
            now = t[rows.to(t.device)] if isinstance(t, Tensor) and t.ndim and len(t) > 1 else t
            means = base(cut(x_t), now).mean
            for (i, b), tile in zip(chunk, means):
                mean[(b, slice(None), *self.places[i])] += windows[i] * tile
        return Dirac(mean)


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest evenly spread tiles that overlap by ``overlap`` pixels or more and cover all."""
    count = 1 + math.ceil((size - tile) / (tile - overlap))
    return [round(i * (size - tile) / max(1, count - 1)) for i in range(count)]


def ramp(tile: int, overlap: int) -> Tensor:
    """A window that rises over ``overlap`` pixels as sin² and falls so at the other end, float64 ``(tile,)``, > 0."""
    near = torch.arange(tile, dtype=torch.float64)
    near = torch.minimum(near, near.flip(0)) + 0.5
    return torch.sin(math.pi / 2 * (near / max(overlap, 0.5)).clamp_max(1)) ** 2


@register(
    "denoisers",
    "tiled",
    title="Images of any size by overlapping tiles",
    arxiv="2302.08113",
    proof="exact: tests/denoisers/test_tiled.py",
)
def tiled(
    denoiser: Denoiser,
    shape: Sequence[int],
    overlap: int | tuple[int, int] | None = None,
    *,
    batch: int = 64,
) -> Denoiser:
    r"""A belief about larger images: at each pixel the mean of what the tiles over it say.

    .. math:: \hat x_0(p) = \sum_i w_i(p)\, \hat x_0^{(i)}(p), \qquad \sum_i w_i(p) = 1

    The windows w_i fall to nothing as sin² where a tile ends, so that no seam is seen (arXiv:2302.08113 eq. 5 with
    weights). The belief is a point. It is exact where a pixel's belief depends on its tile alone; what lies further
    apart than a tile is drawn independently.

    Args:
        denoiser: of images ``(C, h, w)``, guided or not; what is bound goes to every tile of its sample. A condition
            that is a picture is bound after this call, in the size of the whole image, and cut with it.
        shape: ``(C, H, W)`` of the larger images, H ≥ h and W ≥ w, any number of pixels.
        overlap: pixels that neighbours share at least, one number or one an axis; a quarter of the tile if not given.
        batch: tiles of one call.

    Raises:
        UserError: for another number of channels, an image smaller than a tile, or an overlap that is none.
    """
    check_is_denoiser(denoiser)
    tile = tuple(denoiser.shape)
    if len(tile) != 3 or denoiser.output_shape != tile or denoiser.process.state_shape(tile) != tile:
        raise UserError(f"tiles are of images (C, h, w) that are states themselves, got data of shape {tile}")
    sizes = isinstance(shape, Sequence) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not sizes or shape[0] != tile[0] or shape[1] < tile[1] or shape[2] < tile[2]:
        raise UserError(
            f"shape must be ({tile[0]}, H, W) with H of at least {tile[1]} and W of at least {tile[2]}, the model's "
            f"own size, got {tuple(shape) if isinstance(shape, Sequence) else shown(shape)}"
        )
    if any(name in denoiser.condition for name in PICTURES):
        raise UserError("conditions that are pictures must be given to what tiled returns, in the whole image's size")
    pair = (max(1, tile[1] // 4), max(1, tile[2] // 4)) if overlap is None else overlap
    pair = (pair, pair) if not isinstance(pair, tuple) else pair
    for side, pixels in zip(tile[1:], pair):
        check_integer("overlap", pixels, 0, side - 1)
    return Tiled(denoiser, tuple(shape), (pair[0], pair[1]), check_integer("batch", batch, 1))
