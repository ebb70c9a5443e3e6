"""What every network here answers: its configuration, what it takes, and one forward contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._errors import UserError
from ..denoisers.conditions import KINDS
from .conditioning import Conditioning, Context


class Backbone(nn.Module):
    """A network ``(x, time, condition) -> (B, out_channels, *size)``.

    It computes in the dtype of its parameters (or autocast's) and answers in the dtype of ``x``: a float64 solver
    may hold a bfloat16 network. Untrained it returns zeros.

    A subclass gives ``name``, ``takes`` (the conditions it can take), ``body`` and ``check_shape``, and passes every
    option to ``super().__init__`` by its name: these are the ``config``.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    conditioning: Conditioning
    energy = False
    """Whether ``forward`` is the gradient of ``potential``; see :meth:`as_energy`."""
    computes_only = True
    """That ``forward`` reads nothing but parameters, buffers and what it is given, and changes nothing: it can be asked
    on tensors without content, to find out how much memory a batch takes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        plain = lambda v: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v
        self._options = {k: plain(v) for k, v in options.items() if not isinstance(v, Mapping) or v}

    @property
    def config(self) -> dict[str, Any]:
        """Name and options, plain JSON: ``nn.create_network(network.config)`` is a network of the same shape."""
        return {"name": self.name, **self._options, **({"energy": True} if self.energy else {})}

    def as_energy(self) -> Backbone:
        r"""This network with its output replaced by ∇_x of the scalar :math:`⟨x, f(x, t)⟩`, f what it was.

        A score read from it is a gradient, :math:`s = -∇E`, for every affine parameterization
        (arXiv:1907.05600 §2 leaves it a free field; the energy form is that of 2302.11552 §4). Any smooth scalar is
        reached up to its value at 0, and an untrained network still returns zeros. Costs a backward pass an evaluation.
        """
        if self._options.get("out_channels", self._options.get("channels")) != self._options.get("channels"):
            raise UserError("energy must have as many out_channels as channels: a gradient has the shape of x")
        self.energy = True
        return self

    @property
    def conditions(self) -> Mapping[str, int]:
        """The conditions it takes, with their sizes."""
        return self.conditioning.sizes

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``UserError`` if an event of this shape can't be taken; x has shape ``(B, *shape)``."""
        raise NotImplementedError

    def check_condition(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """Raise a ``UserError`` for a condition that can't be taken.

        Reads the values, which waits for the device: call it where conditions enter, not in a loop. ``forward`` itself
        looks at names, types and shapes only.

        Args:
            condition: by name, see :class:`~langevin.nn.conditioning.Conditioning`: integers, −1 for none, or real
                numbers, not-a-number for none; sequences and captions of several lengths are padded with these.
            batch: B.
        """
        self.conditioning.check(condition, batch)

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """The network's output in the dtype of ``x``.

        Args:
            x: ``(B, *shape)``, scaled to about unit variance by the caller.
            time: ``(B,)``, the time input, any real numbers, best in float32: finer than bfloat16 tells apart.
            condition: see :meth:`check_condition`; a missing key is absent for the whole batch.
        """
        if not self.energy:
            return self._answer(x, time, condition)
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            y = x if learning and x.requires_grad else x.detach().requires_grad_()
            total = self.potential(y, time, condition).sum()
            return torch.autograd.grad(total, y, create_graph=learning)[0]

    def potential(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """⟨x, f(x, time)⟩, ``(B,)``, whose gradient an energy network returns; arguments as in :meth:`forward`."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernel has no second derivative
            return (x * self._answer(x, time, condition)).flatten(1).sum(1)

    def _answer(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None) -> Tensor:
        self.check_shape(tuple(x.shape[1:]))
        if time.shape != x.shape[:1]:
            raise UserError(f"time must have shape ({x.shape[0]},), one for each sample, got {tuple(time.shape)}")
        condition = condition or {}
        self.conditioning.check_shapes(condition, x.shape[0])
        embedding, context = self.conditioning(time, condition)
        inside = self.conditioning.beside(x.to(self.conditioning.time_in.weight.dtype), condition)
        return self.body(inside, embedding, context).to(x.dtype)

    def body(self, x: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        """The network proper: x with the planes beside it, ``embedding`` ``(B, E)`` of the rest, ``context`` tokens."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return ", ".join([f"{count / 1e6:.2f} M parameters", *(f"{k}={v}" for k, v in self._options.items())])


def check_image(shape: tuple[int, ...], channels: int, divisor: int, why: str) -> None:
    """An image of ``channels`` whose sizes are multiples of ``divisor``; ``why`` completes "image HxW cannot be …"."""
    if len(shape) != 3 or shape[0] != channels:
        raise UserError(f"shape must be ({channels}, height, width) for this network, got {tuple(shape)}")
    height, width = shape[1:]
    if height < 1 or width < 1 or height % divisor or width % divisor:
        raise UserError(f"shape: image {height}x{width} cannot be {why}: sizes must be divisible by {divisor}")
