"""How much memory a network takes for a batch, found without taking it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def footprint(
    network: nn.Module,
    x: Tensor,
    c_noise: Tensor,
    condition: Mapping[str, Tensor] | None = None,
    *,
    learning: bool = False,
) -> int:
    """Bytes that are held at most at one time while a network is asked, beside its weights and the batch itself.

    The network runs on tensors without content (the meta device), and what they would take is added up as they are made
    and let go. Kernels may need more for themselves, so the machine needs at least this.

    Args:
        network: called as ``network(x, c_noise, condition)``.
        x: the batch, or one like it; its content is not read, nor is that of the others.
        c_noise: time inputs ``(B,)``.
        condition: conditions by name.
        learning: with what the backward pass keeps, and with the gradients.
    """
    with torch.no_grad():
        like = lambda value: torch.empty(value.shape, dtype=value.dtype, device="meta")
        held = {name: like(value) for name, value in [*network.named_parameters(), *network.named_buffers()]}
        asked, time = like(x), like(c_noise)
        given = {name: like(value) for name, value in condition.items()} if condition else None
    there = [*held.values(), asked, time, *(given or {}).values()]
    for name, value in network.named_parameters():
        held[name].requires_grad_(learning and value.requires_grad)
    with torch.autocast("cpu", enabled=False), torch.set_grad_enabled(learning), _Fused(), _Tally(there) as tally:
        out = torch.func.functional_call(network, held, (asked, time, given))
        if learning:
            out.sum().backward()
    return tally.most


class _Tally(TorchDispatchMode):
    """Adds up the memory of the tensors that live, but for those that were there: each storage once, while it is."""

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._live = {value.untyped_storage()._cdata: 0 for value in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                key = storage._cdata
                if key not in self._live:
                    self._live[key] = size = storage.nbytes()
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, key)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)


class _Fused(TorchFunctionMode):
    """Attention as the fused kernels have it, which keep queries, keys and values, and no table of all pairs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            return q * (k.mean() + v.mean())  # keeps what the kernel keeps, and is of the size of its result
        return func(*args, **(kwargs or {}))
