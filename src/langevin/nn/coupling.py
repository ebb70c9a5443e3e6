"""A normalizing flow of affine couplings: a density of points that is exact and can be sampled in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, check_instance
from .._registry import register
from .conditioning import NONE, Conditioning, Context, check_sizes
from .layers import integer, zero

TAKES = ("label", "vector")
"""The conditions that a density of points can have here."""

BOUND = 2.0
"""The log-scale of one coupling lies in (−2, 2): it stretches a coordinate by a factor of e² at most."""


def splits(channels: int, depth: int) -> Iterator[tuple[list[int], list[int]]]:
    """The coordinates that each coupling keeps, and those it changes.

    Couplings come in pairs, of which the second keeps what the first changed. A pair splits the coordinates by one
    binary digit of their index, the next pair by the next digit. Two indices differ in some digit, so within
    ``2 ⌈log₂ channels⌉`` couplings every coordinate has been changed by a function of every other.
    """
    digits = (channels - 1).bit_length()
    for k in range(depth):
        digit = [i >> (k // 2 % digits) & 1 for i in range(channels)]
        yield [i for i in range(channels) if digit[i] == k % 2], [i for i in range(channels) if digit[i] != k % 2]


class Coupling(nn.Module):
    r"""One affine coupling (arXiv:1605.08803 eq. 4–8), A the kept coordinates and B the changed ones.

    .. math::
        y_A = x_A, \quad y_B = x_B ⊙ e^{s(x_A)} + t(x_A), \quad \log\left|\det\frac{∂y}{∂x}\right| = \sum_B s(x_A)

    s and t are one MLP with SiLU, whose last layer starts at zero. s is bounded smoothly, c·tanh(s/c), so that no
    point is stretched out of the range of numbers early in training.

    Args:
        kept, changed: the indices A and B.
        embedding: features of the embedding of the conditions, 0 for none.
        width: features of a hidden layer.
        hidden: number of hidden layers.
    """

    kept: Tensor
    changed: Tensor
    order: Tensor

    def __init__(self, kept: list[int], changed: list[int], embedding: int, width: int, hidden: int) -> None:
        super().__init__()
        both = [*kept, *changed]
        order = sorted(range(len(both)), key=both.__getitem__)
        for name, index in (("kept", kept), ("changed", changed), ("order", order)):
            # On the CPU even where the weights are an outline without memory: no file brings them.
            self.register_buffer(name, torch.tensor(index, device="cpu"), persistent=False)
        sizes = [len(kept) + embedding, *[width] * hidden]
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers, zero(nn.Linear(width, 2 * len(changed))))

    def coefficients(self, kept: Tensor, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and t, each ``(B, |B|)`` in the dtype of ``kept``; the network computes in the dtype of its parameters."""
        inputs = kept.to(next(self.network.parameters()).dtype)
        if embedding is not None:
            inputs = torch.cat([inputs, embedding.to(inputs.dtype)], 1)
        scale, shift = self.network(inputs).to(kept.dtype).chunk(2, 1)
        return BOUND * torch.tanh(scale / BOUND), shift

    def forward(self, x: Tensor, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
        kept, changed = x[:, self.kept], x[:, self.changed]
        scale, shift = self.coefficients(kept, embedding)
        changed = changed * torch.exp(scale) + shift
        return torch.cat([kept, changed], 1)[:, self.order], scale.sum(1)

    def inverse(self, y: Tensor, embedding: Tensor | None) -> Tensor:
        kept, changed = y[:, self.kept], y[:, self.changed]
        scale, shift = self.coefficients(kept, embedding)
        changed = (changed - shift) * torch.exp(-scale)
        return torch.cat([kept, changed], 1)[:, self.order]


class TimelessConditioning(Conditioning):
    """The embedding of a label and a vector alone: a density has no noise level to be told."""

    def __init__(self, width: int, conditions: Mapping[str, int]) -> None:
        super().__init__(width, conditions, takes=TAKES)
        del self.time_in, self.time_out  # or they would be parameters without a gradient
        self.width = width

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        """SiLU(E_label + W v), ``(B, width)``, and no context; of ``time`` ``(B, ...)`` only B is read."""
        like = self.label.weight if "label" in self.sizes else self.no_vector
        e = torch.zeros(len(time), self.width, dtype=like.dtype, device=time.device)
        if classes := self.sizes.get("label"):
            none = torch.full((len(time),), classes, dtype=torch.int64, device=time.device)
            label = condition.get("label")
            e = e + self.label(none if label is None else torch.where(label < 0, none, label.long()))
        if "vector" in self.sizes:
            vector = condition.get("vector")
            e = e + (self.no_vector if vector is None else self._or_none(vector.to(e.dtype)))
        return F.silu(e), None


@register(
    "nn",
    "coupling",
    title="Normalizing flow of affine couplings (RealNVP)",
    arxiv="1605.08803",
    proof="exact: tests/nn/test_coupling.py",
)
class CouplingFlow(nn.Module):
    r"""Normalizing flow of affine couplings over points ``(B, D)`` (RealNVP, arXiv:1605.08803 eq. 2–8).

    A point is standardised by a learned shift m and scale e^a of each coordinate, then goes through the couplings:

    .. math:: z = f_K ∘ … ∘ f_1\big((x - m) ⊙ e^{-a}\big)

    .. math:: \log p(x) = \log N(z; 0, I) - \sum_i a_i + \sum_k \log\left|\det ∂f_k\right|

    Every step has an inverse in closed form, so a sample is ``flow.inverse(z)`` of standard normal z. An untrained
    flow is the identity and its density the standard normal. Set ``shift`` and ``log_scale`` to the mean and the
    log standard deviation of the data for a start that knows its scale.

    The couplings' networks compute in the dtype of the parameters, everything else in the dtype of the point, at least
    float32, in which all answers come: the determinant is that of the function as it was computed.

    Args:
        channels: D, from 2 on, coordinates of a point: of a single coordinate a coupling has nothing to condition on.
        width: features of a hidden layer, and of the embedding of the conditions.
        depth: number of couplings, from 2 on: with two each coordinate is changed once.
        hidden: hidden layers of a coupling's network.
        conditions: what the density is conditional on, some of ``{"label": K}``, integers in [−1, K), and
            ``{"vector": V}``, V numbers. A label −1, a row of not-a-numbers and a missing key are "none", which has a
            learned embedding of its own.

    Raises:
        UserError: for an option out of its range or an unknown condition.
    """

    name: ClassVar[str] = "coupling"
    takes: ClassVar[tuple[str, ...]] = TAKES
    computes_only = True
    """That the methods read nothing but parameters, buffers and what they are given, and change nothing."""

    def __init__(
        self,
        channels: int = 2,
        *,
        width: int = 128,
        depth: int = 8,
        hidden: int = 2,
        conditions: Mapping[str, int] = NONE,
    ) -> None:
        super().__init__()
        sizes = check_sizes(conditions, TAKES)
        self._options: dict[str, Any] = {
            "channels": integer("channels", channels, 2, 10**5),
            "width": integer("width", width, 1, 2**14),
            "depth": integer("depth", depth, 2, 256),
            "hidden": integer("hidden", hidden, 1, 16),
            "conditions": sizes,
        }
        self.channels = channels
        self.conditioning = TimelessConditioning(width, sizes) if sizes else None
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        embedding = width if sizes else 0
        self.couplings = nn.ModuleList(Coupling(*split, embedding, width, hidden) for split in splits(channels, depth))

    @property
    def config(self) -> dict[str, Any]:
        """Name and options, plain JSON: a flow made of the options has the same shape."""
        return {"name": self.name, **self._options, "conditions": dict(self._options["conditions"])}

    @property
    def conditions(self) -> Mapping[str, int]:
        """The conditions it takes, some of ``label`` and ``vector``, with their sizes."""
        return self.conditioning.sizes if self.conditioning is not None else NONE

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``UserError`` if an event of this shape can't be taken; x has shape ``(B, *shape)``."""
        if tuple(shape) != (self.channels,):
            raise UserError(f"shape must be ({self.channels},) for this flow, a point, got {tuple(shape)}")

    def check_condition(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """Raise a ``UserError`` for a condition that can't be taken.

        Reads the values, which waits for the device; the other methods look at names, types and shapes only.

        Args:
            condition: ``label`` integers ``(B,)`` in [−1, K), −1 for none; ``vector`` ``(B, V)``, a row of
                not-a-numbers for none.
            batch: B.
        """
        if self.conditioning is not None:
            self.conditioning.check(condition, batch)
        elif condition:
            raise UserError(f"condition {next(iter(condition))!r} was given to a flow that takes none")

    def forward(self, x: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """From data to the base: z ``(B, D)`` and log\\|det ∂z/∂x\\| ``(B,)``.

        Args:
            x: points ``(B, D)``, real numbers.
            condition: see :meth:`check_condition`; a missing key is absent for the whole batch.

        Raises:
            UserError: for a shape or dtype of ``x`` or of a condition that can't be taken, or an unknown condition.
        """
        x, embedding = self._enter("x", x, condition)
        log_scale = self.log_scale.to(x.dtype)
        z = (x - self.shift.to(x.dtype)) * torch.exp(-log_scale)
        log_det = -log_scale.sum().expand(len(x))
        for coupling in self.couplings:
            z, more = coupling(z, embedding)
            log_det = log_det + more
        return z, log_det

    def inverse(self, z: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """From the base to data: x ``(B, D)`` with ``forward(x, condition)[0] == z`` but for rounding.

        Args:
            z: points ``(B, D)``; standard normal ones give samples of the flow.
            condition: see :meth:`check_condition`; a missing key is absent for the whole batch.

        Raises:
            UserError: as :meth:`forward`.
        """
        x, embedding = self._enter("z", z, condition)
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            x = coupling.inverse(x, embedding)
        return x * torch.exp(self.log_scale.to(x.dtype)) + self.shift.to(x.dtype)

    def log_prob(self, x: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """log p(x \\| condition) of points ``(B, D)`` in nats, ``(B,)``; arguments and errors as in :meth:`forward`."""
        z, log_det = self(x, condition)
        return log_det - (z.square() + math.log(2 * math.pi)).sum(1) / 2

    def _enter(self, name: str, x: Tensor, condition: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """The checked points in the dtype of the answer, and the embedding of the conditions if there are any."""
        check_instance(name, x, Tensor, f"a tensor of shape (B, {self.channels})")
        if x.ndim != 2 or x.shape[1] != self.channels or not x.is_floating_point():
            raise UserError(
                f"{name} must be real numbers of shape (B, {self.channels}), got {tuple(x.shape)} {x.dtype}"
            )
        condition = condition or {}
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.conditioning is None:
            self.check_condition(condition, len(x))
            return x, None
        self.conditioning.check_shapes(condition, len(x))
        return x, self.conditioning(x, condition)[0]

    def extra_repr(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return ", ".join([f"{count / 1e6:.2f} M parameters", *(f"{k}={v}" for k, v in self._options.items())])
