"""The attention weights of a network, observed and replaced while it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from .._errors import UserError
from ..denoisers.compiled import Compiled
from .layers import Attention

AttentionControl = Callable[[str, Tensor, int], Tensor]
"""``control(layer, weights, own) -> weights`` with the layer's name in the network, its weights
``(B, heads, queries, keys)``, each row of which sums to 1, and how many of the keys are the picture's own tokens; those
of the context follow. (A layer that reads the context alone has none of its own.) What it returns, of the same shape,
is what values are summed with."""


@runtime_checkable
class Controllable(Protocol):
    """A network that puts its own attention, of other layers than ours, under a control."""

    def controlled_attention(self, control: AttentionControl) -> AbstractContextManager[None]:
        """Within it every attention layer asks the control, see ``controlled``."""
        ...


def controllable(network: nn.Module) -> dict[str, Attention]:
    """The layers of a network whose attention can be controlled, by name: those of ``unet``, ``dit``, ``transformer``.

    None of one that does it by itself.

    Raises:
        UserError: for a compiled network, which would go on without the control, and one without such a layer.
    """
    if isinstance(network, Compiled):
        raise UserError("network must not be compiled: its attention cannot be controlled; take it as it was loaded")
    if isinstance(network, Controllable):
        return {}
    found = {name: layer for name, layer in network.named_modules() if isinstance(layer, Attention)}
    if not found:
        raise UserError(
            f"network must have attention layers of langevin.nn to be controlled, as unet, dit and transformer have, "
            f"got {type(network).__name__}"
        )
    return found


@contextmanager
def controlled(network: nn.Module, control: AttentionControl) -> Iterator[None]:
    """Within it ``control`` is given the weights of every attention layer at every call, and says what is taken.

    Outside of it layers are as they were, bit for bit: no weights are written out, the fused kernel runs. A control
    belongs to the network, so that two threads must not call one network, one of them under a control.

    Args:
        network: of ``langevin.nn``.
        control: see ``AttentionControl``.

    Raises:
        UserError: as ``controllable``, and for a network that is under a control already.
    """
    layers = controllable(network)
    if isinstance(network, Controllable):
        with network.controlled_attention(control):
            yield
        return
    if any(layer.control is not None for layer in layers.values()):
        raise UserError("network is under a control already: one at a time")
    try:
        for name, layer in layers.items():
            layer.control = partial(control, name)
        yield
    finally:
        for layer in layers.values():
            layer.control = None
