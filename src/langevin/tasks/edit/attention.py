"""The attention of two captions: what the target's picture takes from the source's, and where each word looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._errors import UserError
from .alignment import Alignment


@dataclass(frozen=True, eq=False)
class AttentionEdit:
    r"""How the attention of a target is made of its own and the source's (arXiv:2208.01626 §3.2).

    A row of weights has two parts that sum to 1 together, since our layers have one softmax for both: U over the
    picture's own tokens, and A over those of the caption. With M the alignment (:class:`~.alignment.Alignment`), b the
    target's A' where M has a column of zeros (words that were added) and 0 elsewhere:

    .. math::
        A^\ast &= \frac{1 - \sum b}{\sum U + \sum A M}\, A M + b, \\
        U^\ast &= \frac{1 - \sum b}{\sum U + \sum A M}\, U

    Added words keep their own attention, and what they leave is shared out as in the source: if all words are aligned
    the row is the source's, :math:`A^\ast = A M`. Where the attention of the picture to itself is not replaced, U is
    the target's U', scaled to the same sum; where that to the caption is not replaced, A* is A' and U takes the sum of
    U'. Last, a word's attention is multiplied by its factor c; as published, the row is not brought back to a sum of 1.

    Rows come in pairs, the source's before the target's. Rows that are told no caption are left as they are. Layers
    with a softmax for each, as those of diffusers, are the cases without U and without A.

    Attributes:
        matrix: M, ``(P or 1, L, L)``.
        factors: c of each token of the target, ``(P or 1, L)``.
    """

    matrix: Tensor
    factors: Tensor

    def rows(self, index: slice | Tensor) -> AttentionEdit:
        """Of some of the pairs."""
        if len(self.matrix) == 1:
            return self
        return AttentionEdit(self.matrix[index], self.factors[index])

    def __call__(self, weights: Tensor, told: Tensor, cross: bool, own: bool) -> Tensor:
        """The weights with the target's replaced.

        Args:
            weights: ``(2kP, heads, queries, keys)``, the last L keys those of the caption.
            told: bool ``(2kP,)``, the rows that are told a caption.
            cross: whether the attention to the caption is replaced.
            own: whether that of the picture to itself is.
        """
        source, target = weights.unflatten(0, (-1, 2)).unbind(1)
        edited = self._edited(source, target, cross, own)
        edited = torch.where((told[0::2] & told[1::2]).view(-1, 1, 1, 1), edited, target)
        return torch.stack([source, edited], 1).flatten(0, 1)

    def of_picture(self, weights: Tensor, told: Tensor, own: bool) -> Tensor:
        """The same of a layer in which the picture reads itself alone."""
        if not own:
            return weights
        source, target = weights.unflatten(0, (-1, 2)).unbind(1)
        edited = torch.where((told[0::2] & told[1::2]).view(-1, 1, 1, 1), source, target)
        return torch.stack([source, edited], 1).flatten(0, 1)

    def _edited(self, source: Tensor, target: Tensor, cross: bool, own: bool) -> Tensor:
        """The target's weights, all of whose rows are told a caption."""
        length = self.matrix.shape[-1]
        of_pairs = lambda each: each.to(source).repeat(len(source) // len(each), *[1] * (each.ndim - 1))
        matrix, factor = of_pairs(self.matrix), of_pairs(self.factors)[:, None, None]
        split = [source.shape[-1] - length, length]
        u, a = source.split(split, -1)
        own_u, own_a = target.split(split, -1)
        total = lambda part: part.sum(-1, keepdim=True)
        tiny = torch.finfo(source.dtype).tiny
        if not own:
            u = own_u * (total(u) / total(own_u).clamp_min(tiny))
        if cross:
            mapped = a @ matrix[:, None]
            added = own_a * (matrix.sum(1) == 0).to(source)[:, None, None]
            rest = (1 - total(added)) / (total(u) + total(mapped)).clamp_min(tiny)
            u, a = rest * u, rest * mapped + added
        else:
            u, a = u * (total(own_u) / total(u).clamp_min(tiny)), own_a
        return torch.cat([u, a * factor], -1)


def attention_edit(alignments: Sequence[Alignment], reweight: Mapping[str, float] | None, length: int) -> AttentionEdit:
    """The edit of one pair of captions for all, or of one pair each, whose captions have at most ``length`` tokens."""
    matrix = torch.zeros(len(alignments), length, length, dtype=torch.float64)
    factor = torch.ones(len(alignments), length, dtype=torch.float64)
    for i, one in enumerate(alignments):
        matrix[i, : one.matrix.shape[0], : one.matrix.shape[1]] = one.matrix
        if reweight:
            factor[i, : one.matrix.shape[1]] = one.factors(reweight)
    return AttentionEdit(matrix, factor)


@dataclass(eq=False)
class AttentionMaps:
    """Where the tokens of captions are looked for: the mean attention of a picture's places to them, over steps.

    Attributes:
        length: L, tokens of a caption.
        size: (height, width) of the picture.
    """

    length: int
    size: tuple[int, int]
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)

    @property
    def seen(self) -> bool:
        """Whether any attention was counted."""
        return bool(self._sums)

    def add(self, layer: str, weights: Tensor, told: Tensor) -> None:
        """Count the weights ``(B, heads, queries, keys)`` of a layer, those of rows that are told a caption."""
        seen = weights[told][..., -self.length :].mean(1).to(torch.float32)  # over heads
        self._sums[layer] = self._sums[layer] + seen if layer in self._sums else seen
        self._calls[layer] = self._calls.get(layer, 0) + 1

    def mean(self) -> Tensor:
        """The mean over steps, heads and layers ``(B, L, h, w)``, in the finest layer's places.

        Each layer's is brought to that size by bilinear interpolation.

        Raises:
            UserError: if no layer was seen.
        """
        if not self.seen:
            raise UserError("maps are of a model that is told captions by attention, and no layer was asked for any")
        grids = []
        for layer, total in self._sums.items():
            places = total.shape[1]
            across = round((places * self.size[1] / self.size[0]) ** 0.5)
            grids.append((total / self._calls[layer]).transpose(1, 2).unflatten(2, (places // across, across)))
        finest = max((tuple(grid.shape[2:]) for grid in grids), key=lambda size: size[0] * size[1])
        resized = [F.interpolate(grid, finest, mode="bilinear", align_corners=False) for grid in grids]
        return torch.stack(resized).mean(0)


def of_tokens(maps: Tensor, chosen: Tensor) -> Tensor:
    """The attention to some tokens together, ``(B, h, w)``, of maps ``(B, L, h, w)`` and tokens ``(B or 1, L)``."""
    return (maps * chosen.to(maps)[:, :, None, None]).sum(1)
