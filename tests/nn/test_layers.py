"""Attention, the folded norm, time features: each against its formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from langevin.nn import attention
from langevin.nn.dit import positions
from langevin.nn.layers import Norm, fourier, waves


def softmax_attention(q, k, v, mask):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_attention_is_its_formula(dtype, train):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16, generator=g, dtype=torch.float64).to(dtype) for n in (10, 13, 13))
    mask = torch.rand(2, 1, 1, 13, generator=g) < 0.6
    mask[..., 0] = True
    q.requires_grad_(train)
    out = attention(q, k, v, mask)
    truth = softmax_attention(q.double(), k.double(), v.double(), mask)
    assert out.dtype == dtype
    # Three roundings (scores, weights, output) of values below 4, each by half a unit.
    assert (out.double() - truth).abs().max() <= 3 * 4 * torch.finfo(dtype).eps / 2
    assert torch.allclose(
        attention(q, k, v), attention(q, k, v, torch.ones_like(mask)), atol=8 * torch.finfo(dtype).eps
    )


def nodes(fn):
    seen, todo = set(), [fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions]
    return {type(n).__name__ for n in seen}


def test_attention_avoids_the_slow_backward():
    """The fused kernel's backward on a CPU in bfloat16 is 4 to 10 times slower than the formula's."""
    for dtype, fused in [(torch.bfloat16, False), (torch.float32, True)]:
        q, k, v = (torch.randn(1, 1, 8, 8, dtype=dtype, requires_grad=True) for _ in range(3))
        names = nodes(attention(q, k, v).grad_fn)
        assert any("ScaledDotProduct" in n for n in names) == fused


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
def test_adaptive_norm_is_group_norm_then_scale_and_shift(layout, batch):
    torch.manual_seed(0)
    norm = Norm(16, 5).double()
    x = torch.randn(batch, 16, 6, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    e = torch.randn(batch, 5, dtype=torch.float64, requires_grad=True)
    scale, shift = norm.affine(e)[:, :, None, None].chunk(2, 1)
    truth = F.group_norm(x, 2) * (1 + scale) + shift
    out = norm(x, e)
    assert torch.allclose(out, truth, rtol=0, atol=1e-13)
    weight = torch.randn(truth.shape, dtype=torch.float64)
    for got, want in zip(*(torch.autograd.grad((y * weight).sum(), [x, e]) for y in (out, truth))):
        assert torch.allclose(got, want, rtol=0, atol=1e-12)


def test_norm_stays_in_the_dtype_of_x_under_autocast():
    x = torch.randn(2, 16, 4, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert Norm(16)(x).dtype == torch.bfloat16
        assert Norm(16, 4)(x, torch.randn(2, 4)).dtype == torch.bfloat16


def test_network_has_a_shape_without_memory():
    with torch.device("meta"):
        assert Norm(16, 4)(torch.empty(2, 16, 4, 4), torch.empty(2, 4)).shape == (2, 16, 4, 4)


def test_fourier_features():
    t = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64)
    out = fourier(t, -3, 3, 32)
    u = (t + 3) / 6
    assert torch.allclose(out[:, 0], torch.cos(2 * math.pi * u / 4))
    assert torch.allclose(out[:, 63], torch.sin(2 * math.pi * u * 32), atol=1e-12)
    assert fourier(t.bfloat16(), -3, 3).dtype == torch.float32


def test_waves_tell_neighbouring_levels_apart():
    """cos 2ⁿπx changes sign from level to level where 2ⁿ = (L − 1)/2: n = 3 for 17 levels, 7 for 257."""
    for levels, n in ((17, 3), (257, 7)):
        x = torch.linspace(-1, 1, levels).reshape(levels, 1, 1, 1)
        out = waves(x, (n, 0))
        assert out.shape == (levels, 5, 1, 1)
        sign = (-1.0) ** torch.arange(levels)
        torch.testing.assert_close(out[:, 2, 0, 0], sign, rtol=0, atol=1e-3)
        torch.testing.assert_close(out[:, 3:], torch.cat([torch.sin(math.pi * x), torch.cos(math.pi * x)], 1))
        assert torch.equal(out[:, :1], x)
    assert waves(x.bfloat16(), (1,)).dtype == torch.bfloat16


def test_positions_follow_rows_and_columns():
    p = positions(3, 5, 16, torch.zeros(())).reshape(3, 5, 16)
    assert torch.equal(p[:, :, :8], p[:, :1, :8].expand(3, 5, 8))  # a row's half is the same in every column
    assert torch.equal(p[:, :, 8:], p[:1, :, 8:].expand(3, 5, 8))
    assert torch.pdist(p.flatten(0, 1)).min() > 0.1
