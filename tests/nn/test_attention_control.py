"""Control of attention: nothing without one, bit for bit; weights as the formula has them; one at a time."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import UserError
from langevin.denoisers.compiled import Compiled
from langevin.nn import DiT, UNet, controlled, encode_texts, layers
from langevin.nn.attention_control import controllable
from langevin.nn.mlp import MLP

CAPTIONS = {"conditions": {"caption": 12}, "text": {"width": 16, "depth": 1, "heads": 2}}
WORDS = 4
"""Of the caption that is asked for, with its end."""


def network(kind: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """One that no longer returns zeros."""
    torch.manual_seed(0)
    if kind == "unet":
        made = UNet(3, size=(8, 8), width=16, multipliers=(1, 2), blocks=1, attention=(8, 4), **CAPTIONS)
    else:
        made = DiT(3, patch=2, width=16, depth=2, heads=2, **CAPTIONS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.to(dtype).eval()


def asked(made: torch.nn.Module, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return made(x, torch.zeros(2), {"caption": encode_texts(["a red cat", None], 12)})


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_without_a_control_nothing_is_another(kind, dtype, monkeypatch):
    """Before and after a control the fused kernel alone runs, and gives the same bits."""
    made = network(kind, dtype)
    before = asked(made, dtype)
    with controlled(made, lambda layer, weights, own: weights * 0):
        assert not torch.equal(asked(made, dtype), before)
    monkeypatch.setattr(layers, "attention_weights", None)  # is not asked for
    assert torch.equal(asked(made, dtype), before)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_weights_that_are_given_back_change_nothing(kind):
    """All layers are seen, with rows that sum to 1, absent tokens at exactly 0; the result is that of the kernel."""
    made = network(kind)
    seen = {}

    def control(layer, weights, own):
        seen[layer] = weights
        assert weights.shape[-1] == own + made.conditioning.text.sizes(12)
        assert (weights.sum(-1) - 1).abs().max() < 40 * torch.finfo(weights.dtype).eps  # a sum of at most 76 numbers
        assert not weights[1, :, :, own:].any(), "the second sample is told no caption"
        assert not weights[0, :, :, own + WORDS :].any(), "the words and the end"
        assert weights[0, :, :, own : own + WORDS].all()
        return weights

    with controlled(made, control):
        found = asked(made)
    assert list(seen) == list(controllable(made))
    assert len(seen) == (3 if kind == "unet" else 2)
    # Values of about 1, summed over 76 keys in another order, through a few layers.
    assert (found - asked(made)).abs().max() < 1e-13


def test_the_weights_are_the_softmax():
    """A control that puts all weight on one key makes the output that key's value."""
    torch.manual_seed(0)
    layer = layers.Attention(8, 2, 4).double()
    torch.nn.init.normal_(layer.out.weight)
    x, tokens = torch.randn(1, 5, 8, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    present = torch.tensor([[True, True, False]])
    q, k, _ = layer.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
    more_k, more_v = layer.kv(tokens).unflatten(2, (2, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
    scores = q @ torch.cat([k, more_k], 2).transpose(2, 3) / math.sqrt(4)
    scores[..., 7] = -math.inf
    seen = []

    def control(name, weights, own):
        seen.append(weights)
        return torch.eye(8, dtype=torch.float64)[6].expand_as(weights)

    with controlled(layer, control):
        out = layer(x, (tokens, present))
    assert (seen[0] - scores.softmax(-1)).abs().max() < 1e-15
    value = layer.out(more_v[:, :, 1].flatten(1))
    assert (out - value[:, None]).abs().max() < 1e-14


def test_one_control_at_a_time_and_gone_after_an_error():
    made = network("dit")
    with controlled(made, lambda layer, weights, own: weights):  # noqa: SIM117
        with pytest.raises(UserError, match="under a control already"):
            with controlled(made, lambda layer, weights, own: weights):
                pass
    with pytest.raises(RuntimeError, match="broken"):  # noqa: SIM117
        with controlled(made, lambda layer, weights, own: weights):
            raise RuntimeError("broken")
    assert all(layer.control is None for layer in controllable(made).values())


def test_what_cannot_be_controlled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)  # which takes seconds to import
    with pytest.raises(UserError, match="got MLP"):
        controllable(MLP(2, width=8, depth=1))
    with pytest.raises(UserError, match="must not be compiled"):
        controllable(Compiled(network("dit"), {}))


def test_memory_is_measured_without_the_control():
    """On the meta device, where ``denoisers.footprint`` asks, nothing is controlled."""
    made = network("dit").to("meta")
    with controlled(made, lambda layer, weights, own: pytest.fail("was asked")):
        out = made(torch.empty(1, 3, 8, 8, device="meta"), torch.empty(1, device="meta"))
    assert out.is_meta
