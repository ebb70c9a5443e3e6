"""A measurement of data as one of their codes: the decoder, then the operator."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .._errors import UserError, check_instance
from .._registry import register
from .base import Operator, Shape


class Autoencoder(Protocol):
    """What makes codes of data and data of codes; ``langevin.models.Autoencoder`` is one."""

    @property
    def data(self) -> Any:
        """The description of the data, with their range ``low`` to ``high`` or None."""
        ...

    @property
    def shape(self) -> Shape:
        """Event shape of the data."""
        ...

    @property
    def latent(self) -> Shape:
        """Event shape of the codes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it is given."""
        ...

    def encode(self, x: Tensor) -> Any:
        """A law of codes, of which the mean is taken."""
        ...

    def decode(self, z: Tensor) -> Any:
        """A law of data, of which the mean is taken."""
        ...


@register(
    "operators", "decoded", title="What was measured of decoded codes", proof="exact: tests/tasks/test_restore_codes.py"
)
class Decoded(Operator):
    """y = A(D(z)): a measurement of data as one of codes z, where D is a decoder's mean. It is not linear, as D is not.

    Args:
        operator: A, of the data.
        codec: with the decoder D and its encoder, ``model.autoencoder`` of a latent model.
    """

    def __init__(self, operator: Operator, codec: Autoencoder) -> None:
        check_instance("operator", operator, Operator, "an operator")
        operator.measured(tuple(codec.shape))
        self.operator, self.codec = operator, codec

    def __repr__(self) -> str:
        return f"{self.operator!r} @ decoder"

    def measured(self, shape: Shape) -> Shape:
        if tuple(shape) != tuple(self.codec.latent):
            raise UserError(f"x must be codes of shape {tuple(self.codec.latent)} for {self!r}, got {tuple(shape)}")
        return self.operator.measured(tuple(self.codec.shape))

    def decode(self, z: Tensor) -> Tensor:
        """D(z), ``(B, *shape)`` of codes ``(B, *latent)``, in their dtype, clipped to the range of the data.

        Means of pixels that are black or white may lie far beyond the range, as the first and the last bin of a decoder
        that is integrated over bins have no end. The derivative is that without the clip: what is clipped at the wrong
        end can come back, and where it is right there is no residual to follow.
        """
        found: Tensor = self.codec.decode(z.to(self.codec.device, self.codec.dtype)).mean
        data = self.codec.data
        if data.low is not None and data.high is not None:
            found = found + (found.clamp(data.low, data.high) - found).detach()
        return found.to(z)

    def encode(self, x: Tensor) -> Tensor:
        """E(x), ``(B, *latent)`` of data ``(B, *shape)``, in their dtype."""
        found: Tensor = self.codec.encode(x.to(self.codec.device, self.codec.dtype)).mean
        return found.to(x)

    def __call__(self, z: Tensor) -> Tensor:
        self.measured(tuple(z.shape[1:]))
        return self.operator(self.decode(z))
