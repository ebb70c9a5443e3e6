"""Attention of diffusers' U-Nets under a control, by attention processors of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..._errors import UserError
from ...nn.attention_control import AttentionControl

PLACES = (".attn1.processor", ".attn2.processor")
"""Ends of the names of processors of transformer blocks: of the picture to itself, and to the caption."""


class Controlled:
    """A processor that writes the weights of a layer out and sums values with what the control makes of them.

    Args:
        name: of the layer.
        control: see ``nn.attention_control.AttentionControl``; a layer that reads the caption has no keys of its own.
    """

    def __init__(self, name: str, control: AttentionControl) -> None:
        self.name, self.control = name, control

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = lambda layer, x: layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        q, k, v = heads(attn.to_q, hidden_states), heads(attn.to_k, read), heads(attn.to_v, read)
        weights = (attn.scale * q @ k.transpose(2, 3)).softmax(-1)
        weights = self.control(self.name, weights, k.shape[2] if encoder_hidden_states is None else 0)
        out: Tensor = attn.to_out[1](attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2)))
        return out


@contextmanager
def controlled_attention(network: nn.Module, control: AttentionControl) -> Iterator[None]:
    """Within it the transformer blocks of a ``UNet2DConditionModel`` ask the control; after it they are as before.

    Raises:
        UserError: for a network without such blocks, or with processors that do more than attend.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    before: dict[str, Any] = dict(getattr(network, "attn_processors", {}))
    ours = [name for name in before if name.endswith(PLACES)]
    if not ours:
        raise UserError(f"network must have transformer blocks to be controlled, got {type(network).__name__}")
    for name in ours:
        if not isinstance(before[name], (AttnProcessor, AttnProcessor2_0)):
            raise UserError(
                f"network must have plain attention to be controlled, got {type(before[name]).__name__} in {name}: one "
                "control at a time, and none beside an adapter's own processors"
            )
    changed = {name: Controlled(name.removesuffix(".processor"), control) for name in ours}
    network.set_attn_processor({**before, **changed})  # type: ignore[operator]
    try:
        yield
    finally:
        network.set_attn_processor(before)  # type: ignore[operator]
