"""How a network is told the noise level and the conditions, and how it is told that there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, unknown
from .layers import fourier, integer

Context = tuple[Tensor, Tensor]
"""Tokens ``(B, L, width)`` of a sequence, and where they are present ``(B, L)``."""


class Conditioning(nn.Module):
    r"""One embedding ``(B, width)`` of time, label, vector and the mean of a sequence; the sequence's tokens as well.

    .. math:: e = \mathrm{SiLU}\big(\mathrm{MLP}(\mathrm{fourier}(t)) + E_{label} + W v + P\,\overline{s}\big)

    A condition is absent by sample: label −1, a vector or a token of not-a-numbers. What is absent is replaced by a
    learned embedding (label, vector, mean of the sequence) or masked (tokens), so nothing of it reaches the output.

    Args:
        width: features of the embedding.
        classes: number of labels, 0 for none: key ``label``, integers ``(B,)`` in [−1, classes).
        vector: features of a vector, 0 for none: key ``vector``, ``(B, vector)``.
        sequence: features of a token, 0 for none: key ``sequence``, ``(B, L, sequence)``, any L.
        time_range: where the time label lies; (−3, 3) holds ¼·log(σ/α) of σ/α from 6e-6 to 1.6e5, (0, 999) the
            index of a table.
    """

    def __init__(
        self, width: int, classes: int, vector: int, sequence: int, time_range: Sequence[float] = (-3.0, 3.0)
    ) -> None:
        super().__init__()
        self.classes = integer("classes", classes, 0, 10**6)
        self.vector = integer("vector", vector, 0, 10**5)
        self.sequence = integer("sequence", sequence, 0, 10**5)
        match time_range:
            case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
                self.time_range = (float(low), float(high))
            case _:
                raise UserError(f"time_range must be two finite numbers, the lower first, got {time_range!r}")
        self.time_in, self.time_out = nn.Linear(64, width), nn.Linear(width, width)
        if classes:
            self.label = nn.Embedding(classes + 1, width)  # the last row is "no label"
        if vector:
            self.vector_in, self.no_vector = nn.Linear(vector, width), nn.Parameter(torch.zeros(width))
        if sequence:
            self.token_in, self.token_norm = nn.Linear(sequence, width), nn.LayerNorm(width)
            self.sequence_in, self.no_sequence = nn.Linear(width, width), nn.Parameter(torch.zeros(width))

    @property
    def names(self) -> tuple[str, ...]:
        """Conditions that are taken."""
        sizes = {"label": self.classes, "vector": self.vector, "sequence": self.sequence}
        return tuple(name for name, size in sizes.items() if size)

    def check_shapes(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """Names, types and shapes, without reading a value: cheap on every device."""
        shapes = {"label": (batch,), "vector": (batch, self.vector), "sequence": (batch, None, self.sequence)}
        for name, value in condition.items():
            if not self.names:
                raise UserError(f"condition {name!r} was given to a network that takes none")
            if name not in self.names:
                raise unknown("condition", name, self.names)
            want = shapes[name]
            fits = value.ndim == len(want) and all(n in (None, m) for n, m in zip(want, value.shape))
            if not fits or value.is_floating_point() == (name == "label"):
                kind = "integers" if name == "label" else "real numbers"
                shape = ", ".join("any" if n is None else str(n) for n in want)
                raise UserError(
                    f"condition {name!r} must be {kind} of shape ({shape}), got {tuple(value.shape)} {value.dtype}"
                )

    def check(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """:meth:`check_shapes`, and the values: labels in [−1, classes), rows wholly numbers or wholly absent."""
        self.check_shapes(condition, batch)
        for name, value in condition.items():
            if name == "label":
                bad = (value < -1) | (value >= self.classes)
                if bad.any():
                    where = int(bad.nonzero()[0, 0])
                    raise UserError(
                        f"label must lie in [0, {self.classes}), or be -1 for none; "
                        f"label[{where}] = {int(value[where])}"
                    )
            else:
                gone = value.isnan()
                partly = gone.any(-1) & ~gone.all(-1)
                if partly.any() or value.isinf().any():
                    what = "is partly not-a-number" if partly.any() else "holds an infinity"
                    raise UserError(f"condition {name!r} {what}: a row is finite, or all not-a-number for none")

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        dtype = self.time_in.weight.dtype
        features = fourier(time, *self.time_range).to(dtype)
        e = self.time_out(F.silu(self.time_in(features)))
        if self.classes:
            label = condition.get("label")
            none = torch.full_like(time, self.classes, dtype=torch.int64)
            e = e + self.label(none if label is None else torch.where(label < 0, none, label.long()))
        if self.vector:
            vector = condition.get("vector")
            e = e + (self.no_vector if vector is None else self._or_none(vector.to(dtype)))
        context = None
        if self.sequence:
            sequence = condition.get("sequence")
            if sequence is None:
                return F.silu(e + self.no_sequence), None
            gone = sequence.isnan()
            present = ~gone.any(-1)
            tokens = self.token_norm(self.token_in(sequence.to(dtype).masked_fill(gone, 0)))
            count = present.sum(1, keepdim=True)
            mean = (tokens * present[..., None]).sum(1) / count.clamp_min(1)
            e = e + torch.where(count > 0, self.sequence_in(mean), self.no_sequence)
            context = (tokens, present)
        return F.silu(e), context

    def _or_none(self, vector: Tensor) -> Tensor:
        gone = vector.isnan()
        return torch.where(gone.any(1, keepdim=True), self.no_vector, self.vector_in(vector.masked_fill(gone, 0)))
