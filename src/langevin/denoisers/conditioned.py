"""What every model of a network has in common: where it computes, and the conditions that are bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .._errors import UserError
from .base import Denoiser, EvaluationCounter
from .conditions import KINDS, absent, as_condition


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """What a network says of itself, as those of ``langevin.nn`` do: name and options; empty for one that does not."""
    config = getattr(network, "config", None)
    return config if isinstance(config, Mapping) else {}


class Conditioned(Denoiser):
    """A denoiser of a network that says what conditions it takes (``network.config["conditions"]``).

    A network may have ``readers``, functions by the name of a condition: what is given is read by one, once, when it is
    bound, and a tensor ``(B, …)`` comes out, in which not-a-number, or −1, marks samples without.

    Attributes:
        network: the network.
        config: how the model was made, as plain JSON.
        counter: where evaluations are counted.
    """

    if TYPE_CHECKING:  # read-only: a class may have them as fields or as properties

        @property
        def network(self) -> nn.Module: ...
        @property
        def counter(self) -> EvaluationCounter: ...
        @property
        def _first(self) -> Tensor: ...

    @property
    def dtype(self) -> torch.dtype:
        return self._first.dtype

    @property
    def device(self) -> torch.device:
        return self._first.device

    @property
    def trained(self) -> bool:
        return True

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """The conditions the network takes, with their sizes: classes of a label, features, channels."""
        sizes = config_of(self.network).get("conditions", {})
        return {name: size for name, size in sizes.items() if size}

    def conditions(self) -> tuple[str, ...]:
        return tuple(self.condition_sizes)

    def counted(self) -> Self:
        """The same with a counter of its own."""
        return self.replaced(counter=EvaluationCounter())

    def _bind(self, condition: dict[str, Any]) -> Self:
        bound, class_label = dict(self.condition), None if "label" in condition else self.class_label
        for key, value in condition.items():
            if value is None:
                bound.pop(key, None)
                continue
            # A network may read a condition in a way of its own: a caption by the text encoder it was trained with.
            reader = getattr(self.network, "readers", {}).get(key)
            size, device, dtype = self.condition_sizes[key], self.device, self.dtype
            bound[key] = as_condition(key, value, size, device, dtype) if reader is None else reader(value)
            if key == "label" and torch.as_tensor(value).ndim == 0 and bound[key] >= 0:
                class_label = int(bound[key])
        return self.replaced(condition=bound, class_label=class_label)

    def rows(self, index: slice | Tensor) -> Self:
        if not self.condition:
            return self
        if isinstance(index, slice):
            for name, value in self.condition.items():
                if 1 < len(value) < (index.stop or 0):
                    asked = f"samples {index.start or 0} to {index.stop - 1}"
                    raise UserError(f"{name} was given for {len(value)} samples, got a request for {asked}")
        some = {name: value[index] if value.shape[0] > 1 else value for name, value in self.condition.items()}
        return self.replaced(condition=some)

    def _expanded(self, key: str, batch: int, like: Tensor) -> Tensor:
        """Condition ``key`` for a batch: as bound, or marked absent (label −1, not-a-number)."""
        if key not in self.condition:
            return absent(like, batch)
        value = self.condition[key]
        if value.shape[0] not in (1, batch):
            raise UserError(f"{key} was given for {value.shape[0]} samples, but the batch has {batch}")
        if value.shape[1:] != like.shape[1:]:  # a shorter sequence: tokens that are absent follow it
            if value.ndim == 4 or (value.ndim == 2 and value.is_floating_point()):
                raise UserError(f"{key} must have one shape for all that share a network, got {tuple(value.shape[1:])}")
            rest = absent(value.transpose(0, 1), like.shape[1] - value.shape[1]).transpose(0, 1)
            value = torch.cat([value, rest], 1)
        return value.expand(batch, *value.shape[1:])

    def _given(self, batch: int) -> dict[str, Tensor] | None:
        """What the network is told of a batch."""
        return {name: self._expanded(name, batch, value) for name, value in self.condition.items()} or None

    def _without_content(self, name: str, batch: int) -> Tensor:
        """A condition on the meta device, of the shape that the data declare."""
        kind = KINDS[name]
        known = {} if self.data is None else self.data.conditions
        shape = known.get(name, (self.condition_sizes[name],) * len(kind.axes))
        return torch.empty((batch, *shape), dtype=torch.int64 if kind.integer else self.dtype, device="meta")
